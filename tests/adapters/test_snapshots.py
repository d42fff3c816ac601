"""A row of a snapshot may be damaged in any way, and gone: the whole history is loaded then."""

import sqlite3
from contextlib import closing

import pytest

from saga.adapters.snapshot_rows import SNAPSHOT_COLUMNS
from saga.adapters.sqlite import SqliteDatabase, SqliteEventStore
from saga.adapters.sqlite.histories import _FROM_SNAPSHOTS
from saga.ports import SnapshotAndTail, SnapshotsOf
from saga.testing.samples import append, entries, history, saga
from saga.testing.snapshot_store_suite import snapshot

DAMAGE = {
    "nothing": "",
    "another state": "UPDATE saga_snapshots SET state = CAST('{\"n\":2}' AS BLOB)",
    "no bytes": "UPDATE saga_snapshots SET state = 'text'",
    "a torn state": "UPDATE saga_snapshots SET state = substr(state, 1, 3)",
    "another proof": "UPDATE saga_snapshots SET proof = zeroblob(32)",
    "another turn": "UPDATE saga_snapshots SET turns = 2",
    "a turn to come": "UPDATE saga_snapshots SET turns = 99",
    "no turn": "UPDATE saga_snapshots SET turns = -1",
    **{
        f"no text in {column}": f"UPDATE saga_snapshots SET {column} = CAST(x'ff' AS TEXT)"
        for column in (*SNAPSHOT_COLUMNS.split(", "), "proof")
    },
    "no number": "UPDATE saga_snapshots SET version = 'six'",
    "another history": (
        "UPDATE stored_events SET state = replace(state, '\"m-1\"', '\"m-2\"') "
        "WHERE originator_version = 3"
    ),
    "a history that is cut off": "DELETE FROM stored_events WHERE originator_version > 2",
    "no snapshots": "DELETE FROM saga_snapshots",
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_snapshot_that_is_damaged_is_not_believed(tmp_path, damage):
    database = SqliteDatabase(tmp_path / "store.db")
    store = SqliteEventStore(database)
    await append(store, history(saga(1), count=4))
    await store.keep_snapshots([snapshot(saga(1), 3)])
    with closing(sqlite3.connect(tmp_path / "store.db")) as file, file:
        file.execute(DAMAGE[damage] or "SELECT 1")

    [found] = (await store.load_from_snapshots([saga(1)])).values()
    [whole] = (await store.load([saga(1)])).values()
    kept = await store.snapshots([saga(1)])
    await database.close()

    if damage == "nothing":
        assert isinstance(found, SnapshotAndTail)
        assert found.tail == entries(saga(1), 6, 2)
    elif damage in ("no text in definition", "no text in code"):
        assert kept[saga(1)] != snapshot(saga(1), 3)  # so no code will read it
    else:
        assert found == whole


async def test_a_row_that_cannot_be_read_hides_no_other_when_snapshots_are_counted(tmp_path):
    database = SqliteDatabase(tmp_path / "store.db")
    store = SqliteEventStore(database)
    await append(store, *(history(saga(number)) for number in (1, 2, 3)))
    await store.keep_snapshots([snapshot(saga(number), 1) for number in (1, 2, 3)])
    with closing(sqlite3.connect(tmp_path / "store.db")) as file, file:
        file.execute("UPDATE saga_snapshots SET code = CAST(x'ff' AS TEXT) WHERE rowid = 1")
        file.execute("UPDATE saga_snapshots SET definition_version = 'x' WHERE rowid = 2")

    counted = await store.count_snapshots()
    await database.close()

    assert counted == {SnapshotsOf("order", 1, "c0de"): 1, SnapshotsOf("order", 1, "\ufffd"): 1}


async def test_what_a_snapshot_spares_is_not_read(tmp_path):
    """The tail is found by the index of turns, in the statement that every load takes."""
    database = SqliteDatabase(tmp_path / "store.db")
    SqliteEventStore(database)
    await database.close()
    text = _FROM_SNAPSHOTS._statement(1)  # noqa: SLF001  # what it says is the database's to plan
    with closing(sqlite3.connect(tmp_path / "store.db")) as file:
        plan = " ".join(row[3] for row in file.execute(f"EXPLAIN QUERY PLAN {text}", ("x",)))
    assert "originator_id=? AND originator_version>?" in plan
    assert "SEARCH p USING INTEGER PRIMARY KEY" in plan
