"""Stores that earlier versions wrote, brought to today's tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from eventsourcing.postgres import PostgresProcessRecorder

from saga.adapters.postgres import (
    EVENT_STORE,
    INBOX,
    Address,
    PostgresCatalogue,
    PostgresDatabase,
    PostgresEffectsStore,
    PostgresEventStore,
    migrate,
    stored_version,
)
from saga.core.events import Json
from saga.core.history import Entry, RecordedTurn, turn_of
from saga.core.identity import Instant, SagaId
from saga.core.intents import TimerArmed
from saga.core.replay import replay
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory, HistoryConflict, StoreUnavailable
from saga.ports.bus import Source
from saga.ports.store import (
    Batch,
    DeferralReason,
    History,
    HistoryAppend,
    UnhandledKind,
)
from saga.runtime.saga_cache import definition_of
from saga.testing import samples
from saga.testing.effects_store_suite import SERVICE, inbox_row, keep_rows
from saga.testing.samples import MOMENT
from tests.histories import definitions

VERSION_1 = Path(__file__).with_name("fixtures") / "store_version_1.sql"
INBOX_VERSION_1 = VERSION_1.with_name("inbox_version_1.sql")
SAGAS = 9
TURNS = 69
ENTRIES = 231
FOREVER = Instant(2**62)


def test_the_old_store_is_what_it_was(old: str, run) -> None:
    """Its tables are of version 1, with a row for each entry under the saga's own id."""
    address = Address(old)

    assert stored_version(address, EVENT_STORE) == 1
    counted = run("SELECT count(*), count(DISTINCT originator_id) FROM stored_events")
    assert counted == [(ENTRIES, SAGAS)]


async def test_every_history_of_an_old_store_replays(migrated: PostgresEventStore) -> None:
    """To the status that the index tells, also of a saga that still runs."""
    sagas = await PostgresCatalogue(migrated.database).sagas()
    histories = await migrated.load([saga.saga_id for saga in sagas])

    assert len(histories) == SAGAS
    for saga in sagas:
        history = histories[saga.saga_id]
        assert isinstance(history, History), history
        assert saga.version == len(history)
        assert len({entry.cause for entry in history}) == history.turns
        assert _replayed(saga.saga_id, history) is saga.status
    assert [saga.status for saga in sagas].count(SagaStatus.RUNNING) == 1
    assert sum(len(history) for history in histories.values() if isinstance(history, History)) == (
        ENTRIES
    )


async def test_what_stands_beside_histories_is_kept(migrated: PostgresEventStore) -> None:
    """Timers, positions, what is to be published, unhandled records, the order of the log."""
    catalogue = PostgresCatalogue(migrated.database)
    (running,) = await catalogue.sagas(status=SagaStatus.RUNNING)
    loaded = await migrated.load([running.saga_id])
    history = loaded[running.saga_id]
    assert isinstance(history, History)
    armed = {e.body.timer_id: e.body.due_at for e in history if isinstance(e.body, TimerArmed)}

    timers = await migrated.due_timers(until=FOREVER, limit=100)
    assert {timer.timer_id: timer.due_at for timer in timers}.items() <= armed.items()
    assert {timer.saga_id for timer in timers} == {running.saga_id}
    positions = await migrated.positions([Source("shop.evt", 0), Source("shop.rep", 3)])
    assert sorted(positions.values()) == [7, TURNS]
    (owed,) = await migrated.backlog(limit=10)
    assert {entry.version > 1 for entry in owed.entries} == {True}
    (deferred,) = await catalogue.unhandled(kind=UnhandledKind.DEFERRED)
    assert (deferred.record_id, deferred.reason) == (2, DeferralReason.BEHIND_DEFERRED)
    log = [entry async for _, entry in catalogue.log()]
    assert len(log) == ENTRIES
    assert [entry for entry in log if entry.saga_id == running.saga_id] == history


async def test_a_migrated_store_goes_on(migrated: PostgresEventStore) -> None:
    """Appends follow the turns there are; places and ids go on behind the old ones."""
    catalogue = PostgresCatalogue(migrated.database)
    sagas = await catalogue.sagas()
    (running,) = await catalogue.sagas(status=SagaStatus.RUNNING)
    last = [place async for place, _ in catalogue.log()][-1]
    stale = Batch(histories=[HistoryAppend(running.saga_id, 1, [_turn(running.saga_id, 4)])])
    with pytest.raises(HistoryConflict):
        await migrated.append(stale, at=MOMENT)

    history = (await migrated.load([running.saga_id]))[running.saga_id]
    assert isinstance(history, History)
    next_turn = _turn(running.saga_id, len(history))
    batch = samples.batch(
        HistoryAppend(running.saga_id, history.turns, [next_turn]),
        samples.history(samples.saga(1)),
        unhandled=[samples.unhandled(9)],
        outgoing=[samples.record("shop.int")],
    )
    appended = await migrated.append(batch, at=Instant(MOMENT + 10**15))

    assert (await migrated.load([running.saga_id]))[running.saga_id] == [*history, *next_turn]
    assert [saga.saga_id for saga in await catalogue.sagas()] == [
        *(saga.saga_id for saga in sagas),
        samples.saga(1),
    ]
    assert {place > last async for place, _ in catalogue.log(after=last)} == {True}
    assert [record.record_id for record in await catalogue.unhandled()] == [2, 3]
    assert [owed.backlog_id for owed in await migrated.backlog(limit=10)][-1] == (
        appended.backlog_id
    )


async def test_an_entry_that_cannot_be_read_holds_up_its_own_saga_only(old: str, run) -> None:
    """It is kept as it is, and so are the entries around it."""
    [(damaged,)] = run(
        "UPDATE stored_events SET state = 'no JSON' WHERE notification_id = "
        "(SELECT notification_id FROM stored_events WHERE originator_version = 3 LIMIT 1) "
        "RETURNING originator_id::text"
    )
    address = Address(old)
    migrate(address, EVENT_STORE)
    database = PostgresDatabase(address)
    store = PostgresEventStore(database, make=False)
    sagas = [saga.saga_id for saga in await PostgresCatalogue(database).sagas()]

    histories = await store.load(sagas)

    unreadable = [each for each, history in histories.items() if not isinstance(history, History)]
    assert unreadable == [damaged]
    problem = histories[SagaId(damaged)]
    assert isinstance(problem, CorruptHistory)
    assert problem.version == 3
    assert len(histories) == SAGAS
    [[kept]] = await database.fetch("SELECT count(*) FROM stored_events WHERE state = 'no JSON'")
    assert kept == 1
    await database.close()


@pytest.mark.usefixtures("migrated")
async def test_the_library_reads_a_migrated_store(library: PostgresProcessRecorder) -> None:
    """Its own recorder: events in the order of their places, each turn under its number."""
    notifications = library.select_notifications(1, 1_000)

    assert len(notifications) == TURNS
    assert [each.id for each in notifications] == sorted({each.id for each in notifications})
    turns = library.select_events(notifications[0].originator_id)
    assert [turn.originator_version for turn in turns] == list(range(1, len(turns) + 1))
    assert library.max_tracking_id("bus:shop.rep:3") == 7


async def test_the_inbox_of_an_old_effects_store_is_kept(postgres: str, run) -> None:
    """Every row under its key, whatever that looks like; what is there already is not taken."""
    run(INBOX_VERSION_1.read_text())
    address = Address(postgres)
    with pytest.raises(StoreUnavailable, match="run `saga store migrate`"):
        await PostgresEffectsStore(address).open()
    sagas = [samples.saga(number) for number in range(6)]
    keys = [f"{saga}/{step}/do" for saga in sagas for step in ("reserve", "charge")]
    redone = f"{samples.saga(6)}/reserve/do"
    keys += ["an event's id", "a\x00b/c"]

    assert migrate(address, INBOX) == 1

    store = PostgresEffectsStore(address)
    await store.open()
    kept = await store.kept(SERVICE, [*keys, redone])
    assert kept.keys() == {*keys, redone}
    assert {key: kept[key]._replace(handled_at=Instant(0)) for key in keys} == {
        key: inbox_row(key)._replace(handled_at=Instant(0)) for key in keys
    }
    assert (kept[redone].attempt, kept[redone].undone) == (2, True)
    unit, new = store.unit(), store.unit()
    assert list(await keep_rows(unit, inbox_row(keys[0]))) == [unit]
    assert not await keep_rows(new, inbox_row(f"{sagas[0]}/ship/do"))
    numbers = run("SELECT saga_id FROM saga_inbox_sagas WHERE saga_id LIKE '%-%-%' ORDER BY number")
    assert [saga for (saga,) in numbers if saga in sagas] == sagas
    await store.close()


async def test_a_store_of_version_3_gets_room_for_what_sagas_show(postgres: str, run) -> None:
    """Rows stay as they are; what they show is nothing until a saga shows something."""
    address = Address(postgres)
    migrate(address, EVENT_STORE)
    database = PostgresDatabase(address)
    store, catalogue = PostgresEventStore(database), PostgresCatalogue(database)
    row = samples.summary(samples.saga(1))
    await samples.append(store, samples.history(samples.saga(1)), summaries=[row])
    run("ALTER TABLE saga_index DROP COLUMN shown")
    run("UPDATE saga_schema SET version = 3 WHERE component = 'event store'")

    assert migrate(address, EVENT_STORE) == 3

    assert await catalogue.sagas() == [row]
    shown = replace(row, shown=Json('{"a":1}'))
    await samples.append(store, samples.history(samples.saga(1), 1), summaries=[shown])
    assert await catalogue.sagas(shown={"a": [Json("1")]}) == [shown]
    await database.close()


@pytest.fixture
def old(postgres: str, run) -> str:
    """The address of a store of version 1."""
    run(VERSION_1.read_text())
    run("UPDATE parked SET kind = 'held', reason = 'behind_held'")
    return postgres


@pytest.fixture
async def migrated(old: str):
    """That store, after `saga store migrate`."""
    address = Address(old)
    assert migrate(address, EVENT_STORE) == 1
    database = PostgresDatabase(address)
    yield PostgresEventStore(database, make=False)
    await database.close()


def _replayed(saga_id: SagaId, history: Sequence[Entry]) -> SagaStatus:
    registered = definitions.app.registry.find(*definition_of(history))
    assert registered is not None
    return replay(registered.decider, saga_id, history).status


def _turn(saga_id: SagaId, after: int) -> RecordedTurn:
    return turn_of(samples.entries(saga_id, after, 1))
