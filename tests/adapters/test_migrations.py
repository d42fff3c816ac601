"""Files that version 1aba072 wrote, brought to today's tables.

`fixtures/` has what its own code left of 120 sagas of the golden definitions, which were really run
for some seconds: completed, rolled back, parked behind a stuck undo, asleep, waiting for a reply.
"""

import gzip
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from eventsourcing.sqlite import SQLiteDatastore, SQLiteProcessRecorder

from saga.adapters.clocks import ManualClock
from saga.adapters.sqlite import (
    LocalBus,
    SqliteCatalogue,
    SqliteDatabase,
    SqliteEffectsStore,
    SqliteEventStore,
)
from saga.adapters.sqlite.schema import (
    MIGRATIONS,
    STORE_VERSION,
    migrate_store,
    stored_store_version,
)
from saga.audit.replaying import replay_all
from saga.core.events import Json, ReplyOutcome
from saga.core.history import History, turn_of
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory, HistoryConflict, StoreTooNew, StoreUnavailable
from saga.ports.bus import Source
from saga.ports.store import HistoryAppend, UnhandledKind
from saga.testing import samples
from saga.testing.samples import MOMENT
from tests.histories import definitions

FIXTURES = Path(__file__).with_name("fixtures")
SAGAS = 120
ENTRIES = 1736
FOREVER = Instant(2**62)


def unpacked(name: str, folder: Path) -> Path:
    """The fixture *name* as a file."""
    path = folder / name
    path.write_bytes(gzip.decompress((FIXTURES / f"{name}.gz").read_bytes()))
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store, with its bus in the same file, as it was left."""
    return unpacked("store_version_1.db", tmp_path)


@pytest.fixture
async def migrated(old: Path):
    """That file, after `saga store migrate`."""
    assert migrate_store(str(old)) == 1
    database = SqliteDatabase(old)
    yield database
    await database.close()


async def test_a_store_of_version_3_gets_room_for_what_sagas_show(tmp_path: Path) -> None:
    """Rows stay as they are; what they show is nothing until a saga shows something."""
    database = SqliteDatabase(tmp_path / "store.db")
    database.migrate("event store", MIGRATIONS)
    store = SqliteEventStore(database)
    row = samples.summary(samples.saga(1))
    await samples.append(store, samples.history(samples.saga(1)), summaries=[row])
    await database.close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as file, file:
        file.execute("ALTER TABLE saga_index DROP COLUMN shown")
        file.execute("UPDATE saga_schema SET version = 3 WHERE component = 'event store'")

    assert migrate_store(str(tmp_path / "store.db")) == 3

    database = SqliteDatabase(tmp_path / "store.db")
    store, catalogue = SqliteEventStore(database), SqliteCatalogue(database)
    assert await catalogue.sagas() == [row]
    shown = replace(row, shown=Json('{"a":1}'))
    await samples.append(store, samples.history(samples.saga(1), 1), summaries=[shown])
    assert await catalogue.sagas(shown={"a": [Json("1")]}) == [shown]
    await database.close()


def test_an_old_store_is_refused_with_what_to_do(old: Path) -> None:
    """Until then nothing of it is changed."""
    with closing(sqlite3.connect(old)) as file:
        before = [*file.iterdump()]
    database = SqliteDatabase(old)

    with pytest.raises(
        StoreUnavailable, match=f"version 1, this saga needs {STORE_VERSION}: stop all"
    ):
        SqliteEventStore(database)

    database.abandon()
    with closing(sqlite3.connect(old)) as file:
        assert [*file.iterdump()] == before
    assert stored_store_version(str(old)) == 1


async def test_every_history_of_an_old_store_replays(migrated: SqliteDatabase) -> None:
    """To the status that the index tells, also of sagas that still run; in the old order."""
    store, catalogue = SqliteEventStore(migrated), SqliteCatalogue(migrated)
    replayed = [result async for result in replay_all(store, catalogue, definitions.app.registry)]

    assert [result for result in replayed if not result.is_ok] == []
    assert sum(result.entries for result in replayed) == ENTRIES
    sagas = await catalogue.sagas(limit=1_000)
    assert len(sagas) == SAGAS
    assert [saga.started_at for saga in sagas] == sorted(saga.started_at for saga in sagas)
    assert Counter(saga.status for saga in sagas) == {
        SagaStatus.COMPLETED: 56,
        SagaStatus.ROLLED_BACK: 8,
        SagaStatus.PARKED: 8,
        SagaStatus.RUNNING: 48,
    }
    for saga in sagas:
        history = (await store.load([saga.saga_id]))[saga.saga_id]
        assert isinstance(history, History)
        assert saga.version == len(history)
        assert len({(entry.at, entry.cause) for entry in history}) == history.turns


async def test_what_stands_beside_histories_is_kept(old: Path) -> None:
    """Timers, positions, what is to be published, unhandled records, the order of the log."""
    with closing(sqlite3.connect(old)) as file:
        timers = file.execute("SELECT timer_id, due_at FROM timers").fetchall()
        positions = file.execute("SELECT * FROM tracking ORDER BY 1").fetchall()
        log = file.execute(
            "SELECT originator_id, originator_version FROM stored_events ORDER BY rowid"
        ).fetchall()
        owed = log[99:140]
    migrate_store(str(old))
    database = SqliteDatabase(old)
    store, catalogue = SqliteEventStore(database), SqliteCatalogue(database)

    assert {(each.timer_id, each.due_at) for each in await catalogue.timers(limit=999)} == {*timers}
    with closing(sqlite3.connect(old)) as file:
        assert file.execute("SELECT * FROM tracking ORDER BY 1").fetchall() == positions
    read = [entry async for _, entry in catalogue.log()]
    assert [(entry.saga_id.replace("-", ""), entry.version) for entry in read] == log
    (backlog,) = await store.backlog(limit=10)
    assert [(each.saga_id.replace("-", ""), each.version) for each in backlog.entries] == owed
    unhandled = await catalogue.unhandled()
    assert [record.record_id for record in unhandled] == [1, 2, 3, 4, 5]
    assert [record.kind for record in unhandled[1:3]] == [
        UnhandledKind.DEAD,
        UnhandledKind.DEFERRED,
    ]
    await database.close()


async def test_a_migrated_store_goes_on(migrated: SqliteDatabase) -> None:
    """Appends follow the turns there are; places and ids go on behind the old ones."""
    bus = LocalBus(migrated, clock=ManualClock())
    store, catalogue = SqliteEventStore(migrated), SqliteCatalogue(migrated)
    running, *_ = await catalogue.sagas(status=SagaStatus.RUNNING)
    history = (await store.load([running.saga_id]))[running.saga_id]
    assert isinstance(history, History)
    last = [place async for place, _ in catalogue.log()][-1]
    next_turn = turn_of(samples.entries(running.saga_id, len(history), 1))
    stale = HistoryAppend(running.saga_id, history.turns - 1, [next_turn])
    with pytest.raises(HistoryConflict):
        await store.append(samples.batch(stale), at=MOMENT)

    appended = await store.append(
        samples.batch(
            HistoryAppend(running.saga_id, history.turns, [next_turn]),
            samples.history(samples.saga(1)),
            unhandled=[samples.unhandled(9)],
            outgoing=[samples.record("shop.int")],
        ),
        at=MOMENT,
    )

    assert (await store.load([running.saga_id]))[running.saga_id] == [*history, *next_turn]
    assert (await catalogue.sagas(limit=999))[-1].saga_id == samples.saga(1)
    assert {place > last async for place, _ in catalogue.log(after=last)} == {True}
    assert [record.record_id for record in await catalogue.unhandled(after=5)] == [6]
    assert appended.backlog_id == 3, "an id that was given once is not given again"
    assert await bus.bounds([Source("dev.saga.golden-stock.evt.reserved.v1", 0)])
    await bus.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next attempt brings it there; once there, there is nothing to do."""
    with closing(sqlite3.connect(old)) as file:
        before = file.execute("SELECT name, sql FROM sqlite_master ORDER BY 1").fetchall()
    with monkeypatch.context() as patch:
        patch.setattr("saga.adapters.sqlite.schema._keep_sequence", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            migrate_store(str(old))
    with closing(sqlite3.connect(old)) as file:
        assert file.execute("SELECT name, sql FROM sqlite_master ORDER BY 1").fetchall() == before

    assert migrate_store(str(old)) == 1
    assert migrate_store(str(old)) == STORE_VERSION
    with closing(sqlite3.connect(old)) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_newer_store_is_refused(old: Path) -> None:
    """Rather than read half right."""
    migrate_store(str(old))
    with closing(sqlite3.connect(old)) as file, file:
        file.execute("UPDATE saga_schema SET version = 9 WHERE component = 'event store'")

    with pytest.raises(StoreTooNew, match=f"have version 9, this saga knows up to {STORE_VERSION}"):
        migrate_store(str(old))


async def test_an_entry_that_cannot_be_read_holds_up_its_own_saga_only(old: Path) -> None:
    """It is kept as it is, and so are the entries around it."""
    with closing(sqlite3.connect(old)) as file, file:
        (damaged,) = file.execute(
            "UPDATE stored_events SET state = x'ff' WHERE rowid = 700 RETURNING originator_id"
        ).fetchone()
    migrate_store(str(old))
    database = SqliteDatabase(old)
    sagas = [saga.saga_id for saga in await SqliteCatalogue(database).sagas(limit=999)]

    histories = await SqliteEventStore(database).load(sagas)

    assert len(histories) == SAGAS
    (problem,) = [each for each in histories.values() if isinstance(each, CorruptHistory)]
    assert problem.saga_id.replace("-", "") == damaged
    kept = await database.read(
        lambda cursor: cursor.execute(
            "SELECT count(*) FROM stored_events WHERE state = x'ff'"
        ).fetchone()
    )
    assert kept == (1,)
    await database.close()


async def test_the_library_reads_a_migrated_store(migrated: SqliteDatabase, old: Path) -> None:
    """Its own recorder: events in the order of their places, each turn under its number."""
    datastore = SQLiteDatastore(str(old), single_row_tracking=True)
    theirs = SQLiteProcessRecorder(datastore)

    notifications = theirs.select_notifications(1, 10_000)

    assert {each.topic for each in notifications} == {"turn"}
    assert [each.id for each in notifications] == sorted({each.id for each in notifications})
    turns = theirs.select_events(notifications[0].originator_id)
    assert [turn.originator_version for turn in turns] == list(range(1, len(turns) + 1))
    datastore.close()


async def test_an_old_inbox_is_brought_over_when_it_is_opened(tmp_path: Path) -> None:
    """Every row is found under its key, and what was handled is not handled again."""
    path = unpacked("effects_version_1.db", tmp_path)
    with closing(sqlite3.connect(path)) as file:
        rows = file.execute("SELECT * FROM saga_inbox").fetchall()
    store = SqliteEffectsStore(str(path))

    await store.open()
    found = [
        row
        for service in {row[0] for row in rows}
        for row in (
            await store.kept(service, [row[1] for row in rows if row[0] == service])
        ).values()
    ]

    assert len(rows) > 200
    assert sorted(tuple(row) for row in found) == sorted(
        (*row[:3], ReplyOutcome(row[3]), *row[4:-1], bool(row[-1])) for row in rows
    )
    await store.close()
