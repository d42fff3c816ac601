"""A saga with many runs is read from its last run on, with nothing of what was before it."""

import sqlite3
from contextlib import closing

from saga.adapters.sqlite import SqliteDatabase, SqliteEventStore
from saga.adapters.sqlite.histories import HISTORIES
from saga.core.history import History
from saga.testing.samples import append, history, next_run, saga


async def test_earlier_turns_are_not_read_however_many_there_are(tmp_path):
    """They may even be past reading: who asks for the whole history is told so."""
    database = SqliteDatabase(tmp_path / "store.db")
    store = SqliteEventStore(database)
    await append(store, history(saga(1), count=200))
    await append(store, next_run(saga(1), 200), runs={saga(1): 201})
    await database.close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as file, file:
        file.execute("UPDATE stored_events SET state = 'gone' WHERE originator_version < 201")

    database = SqliteDatabase(tmp_path / "store.db")
    store = SqliteEventStore(database)
    read = (await store.load([saga(1)]))[saga(1)]
    whole = (await store.load([saga(1)], is_whole=True))[saga(1)]
    await database.close()

    assert isinstance(read, History)
    assert (read.turns, read.version, len(read)) == (201, 402, 2)
    assert "cannot be read" in str(whole)


async def test_the_last_run_is_found_by_the_index_of_turns(tmp_path):
    database = SqliteDatabase(tmp_path / "store.db")
    SqliteEventStore(database)
    await database.close()
    text = HISTORIES._statement(1)  # noqa: SLF001  # what it says is the database's to plan
    with closing(sqlite3.connect(tmp_path / "store.db")) as file:
        plan = " ".join(row[3] for row in file.execute(f"EXPLAIN QUERY PLAN {text}", ("x",)))
    assert "originator_id=? AND originator_version>?" in plan
