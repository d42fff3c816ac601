"""A statistics counts what is in a store, whichever store it is."""

import pytest

from saga.adapters.memory import MemoryEventStore, MemoryStatistics
from saga.adapters.postgres import (
    Address,
    PostgresDatabase,
    PostgresEventStore,
    PostgresStatistics,
)
from saga.adapters.sqlite import SqliteDatabase, SqliteEventStore, SqliteStatistics
from saga.core.status import SagaStatus
from saga.ports import Batch, Record
from saga.ports.store import UNHANDLED_COUNTED_MAX, StoreStatistics, UnhandledKind
from saga.testing import samples
from saga.testing.samples import MOMENT, saga


@pytest.fixture
def memory():
    """An empty store in memory."""
    store = MemoryEventStore()
    return store, MemoryStatistics(store)


@pytest.fixture
def sqlite(database: SqliteDatabase):
    """An empty file."""
    return SqliteEventStore(database), SqliteStatistics(database)


@pytest.fixture
async def server(postgres: str):
    """An empty database."""
    database = PostgresDatabase(Address(postgres))
    yield PostgresEventStore(database, make=True), PostgresStatistics(database)
    await database.close()


@pytest.fixture(params=["memory", "sqlite", pytest.param("server", marks=pytest.mark.connected)])
def counted(request: pytest.FixtureRequest):
    """A store and who counts what is in it."""
    return request.getfixturevalue(request.param)


async def test_nothing_is_counted_in_an_empty_store(counted) -> None:
    """Not even with a zero."""
    _, statistics = counted

    assert await statistics.take(at=MOMENT) == StoreStatistics(
        sagas={}, unhandled={}, backlog=0, backlog_since=None, timers_due=0, timers_due_since=None
    )


async def test_all_is_counted_that_is_not_over(counted) -> None:
    """Unfinished sagas by definition and status, unhandled records, the backlog, due timers."""
    store, statistics = counted
    statuses = [*SagaStatus, SagaStatus.RUNNING, SagaStatus.PARKED]
    for number, status in enumerate(statuses):
        name = "return" if number == len(statuses) - 1 else "order"
        summary = samples.summary(saga(number), status=status, definition=name)
        history = samples.history(saga(number))
        await store.append(samples.batch(history, summaries=[summary]), at=MOMENT)
    await store.append(
        samples.batch(
            samples.history(saga(90)),
            summaries=[samples.summary(saga(90), status=SagaStatus.COMPLETED)],
            outgoing=[Record("t", b"k", b"v")],
            timers_armed=[samples.timer(saga(90), f"t{at}", at) for at in (-7, 0, 1)],
            unhandled=[
                samples.unhandled(0),
                samples.unhandled(1),
                samples.unhandled(2, kind=UnhandledKind.DEFERRED, saga_id=saga(90)),
            ],
        ),
        at=MOMENT,
    )
    found = await statistics.take(at=MOMENT)

    assert found.sagas == {
        ("order", SagaStatus.RUNNING): 2,
        ("order", SagaStatus.ROLLING_BACK): 1,
        ("order", SagaStatus.PARKED): 1,
        ("order", SagaStatus.STALLED): 1,
        ("return", SagaStatus.PARKED): 1,
    }
    reason = samples.unhandled(0).reason
    assert found.unhandled == {(UnhandledKind.DEAD, reason): 2, (UnhandledKind.DEFERRED, reason): 1}
    assert (found.backlog, found.backlog_since) == (1, MOMENT)
    assert (found.timers_due, found.timers_due_since) == (2, MOMENT - 7)


async def test_a_mountain_of_parked_records_is_counted_up_to_a_point(counted) -> None:
    """They are wide, and who asks has little time."""
    store, statistics = counted
    parked = [samples.unhandled(offset) for offset in range(UNHANDLED_COUNTED_MAX + 1)]
    await store.append(Batch(unhandled=parked), at=MOMENT)

    found = await statistics.take(at=MOMENT)
    assert sum(found.unhandled.values()) == UNHANDLED_COUNTED_MAX
