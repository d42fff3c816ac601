"""A census counts what is in a store, whichever store it is."""

import pytest

from saga.adapters.memory import MemoryEventStore
from saga.adapters.memory.census import MemoryCensus
from saga.adapters.postgres import Address, PostgresDatabase, PostgresEventStore
from saga.adapters.postgres.census import PostgresCensus
from saga.adapters.sqlite import SqliteDatabase, SqliteEventStore
from saga.adapters.sqlite.census import SqliteCensus
from saga.core.status import SagaStatus
from saga.ports import Batch, Record
from saga.ports.catalogue import ParkedKind
from saga.ports.census import PARKED_COUNTED_MAX, Census
from saga.testing import samples
from saga.testing.samples import MOMENT, saga


@pytest.fixture
def memory():
    """An empty store in memory."""
    store = MemoryEventStore()
    return store, MemoryCensus(store)


@pytest.fixture
def sqlite(database: SqliteDatabase):
    """An empty file."""
    return SqliteEventStore(database), SqliteCensus(database)


@pytest.fixture
async def server(postgres: str):
    """An empty database."""
    database = PostgresDatabase(Address(postgres))
    yield PostgresEventStore(database, make=True), PostgresCensus(database)
    await database.close()


@pytest.fixture(params=["memory", "sqlite", "server"])
def counted(request: pytest.FixtureRequest):
    """A store and who counts what is in it."""
    return request.getfixturevalue(request.param)


async def test_nothing_is_counted_in_an_empty_store(counted) -> None:
    """Not even with a zero."""
    _, census = counted

    assert await census.take(at=MOMENT) == Census(
        sagas={}, parked={}, backlog=0, backlog_since=None, timers_due=0, timers_due_since=None
    )


async def test_all_is_counted_that_is_not_over(counted) -> None:
    """Unfinished sagas by definition and status, parked records by reason, the backlog, due
    timers.
    """
    store, census = counted
    statuses = [*SagaStatus, SagaStatus.RUNNING, SagaStatus.PARKED]
    for number, status in enumerate(statuses):
        name = "return" if number == len(statuses) - 1 else "order"
        summary = samples.summary(saga(number), status=status, definition=name)
        history = samples.history(saga(number))
        await store.append(Batch(histories=[history], summaries=[summary]), at=MOMENT)
    await store.append(
        Batch(
            histories=[samples.history(saga(90))],
            outgoing=[Record("t", b"k", b"v")],
            timers_armed=[samples.timer(saga(90), f"t{at}", at) for at in (-7, 0, 1)],
            parked=[
                samples.parked(0),
                samples.parked(1),
                samples.parked(2, kind=ParkedKind.HELD, saga_id=saga(90)),
            ],
        ),
        at=MOMENT,
    )
    found = await census.take(at=MOMENT)

    assert found.sagas == {
        ("order", SagaStatus.RUNNING): 2,
        ("order", SagaStatus.ROLLING_BACK): 1,
        ("order", SagaStatus.PARKED): 1,
        ("order", SagaStatus.STALLED): 1,
        ("return", SagaStatus.PARKED): 1,
    }
    reason = samples.parked(0).reason
    assert found.parked == {(ParkedKind.DEAD, reason): 2, (ParkedKind.HELD, reason): 1}
    assert (found.backlog, found.backlog_since) == (1, MOMENT)
    assert (found.timers_due, found.timers_due_since) == (2, MOMENT - 7)


async def test_a_mountain_of_parked_records_is_counted_up_to_a_point(counted) -> None:
    """They are wide, and who asks has little time."""
    store, census = counted
    parked = [samples.parked(offset) for offset in range(PARKED_COUNTED_MAX + 1)]
    await store.append(Batch(parked=parked), at=MOMENT)

    found = await census.take(at=MOMENT)
    assert sum(found.parked.values()) == PARKED_COUNTED_MAX
