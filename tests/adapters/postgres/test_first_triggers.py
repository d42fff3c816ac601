"""Sagas that several workers start at once, from several topics: each begins once."""

import asyncio
from itertools import cycle

import pytest

from saga.adapters.postgres import Address, PostgresDatabase, PostgresEventStore
from saga.errors import HistoryConflict
from saga.testing import samples
from saga.testing.samples import MOMENT, saga
from tests.adapters.first_triggers import (
    KEYS,
    TOPICS,
    check_each_began_once,
    start_all,
    start_all_though_killed,
)
from tests.proxy import Cut, Proxy


async def check(store: PostgresEventStore, run) -> None:
    """Each saga began once, and nothing else is there."""
    await check_each_began_once(store)
    counted = run(
        "SELECT (SELECT count(*) FROM stored_events), (SELECT count(*) FROM saga_index), "
        "(SELECT count(*) FROM saga_ids NATURAL JOIN saga_index NATURAL JOIN stored_events)"
    )
    assert counted == [(KEYS, KEYS, KEYS)]


async def test_processes_that_are_killed_start_each_saga_once(
    postgres: str, store: PostgresEventStore, run
) -> None:
    """Two processes, each on its own topic, killed again and again at whichever moment it is."""
    lives = await asyncio.gather(*(start_all_though_killed(postgres, topic) for topic in TOPICS))

    assert min(lives) > 1
    await check(store, run)


@pytest.mark.parametrize(
    "cuts", [(Cut.AFTER,), (Cut.BEFORE,), (Cut.AFTER, Cut.BEFORE, None)], ids=str
)
async def test_lost_answers_start_no_saga_twice(
    postgres: str, store: PostgresEventStore, run, cuts: tuple[Cut | None, ...]
) -> None:
    """Two workers whose connections are cut at commits: they know which beginnings are theirs."""

    async def work(topic: str) -> int:
        with Proxy(postgres) as proxy:
            database = PostgresDatabase(Address(proxy.url))
            own = await asyncio.to_thread(PostgresEventStore, database)
            coming = cycle([*cuts, None])
            proxy.at_commit = lambda: next(coming)
            await start_all(own, topic)
            await database.close()
            return proxy.cuts

    counts = await asyncio.gather(*map(work, TOPICS))

    assert min(counts) > 0
    await check(store, run)


async def test_a_second_saga_of_an_id_is_a_conflict_that_names_it(
    postgres: str, store: PostgresEventStore
) -> None:
    """Its originator id would be another one: it is the saga's own id that is refused."""
    await store.append(samples.batch(samples.history(saga(1), cause="left")), at=MOMENT)
    database = PostgresDatabase(Address(postgres))
    other = PostgresEventStore(database)
    batch = samples.batch(samples.history(saga(2)), samples.history(saga(1), cause="right"))

    with pytest.raises(HistoryConflict) as conflict:
        await other.append(batch, at=MOMENT)

    assert conflict.value.saga_ids == (saga(1),)
    assert list(await other.load([saga(1), saga(2)])) == [saga(1)]
    await database.close()
