"""Sagas that several workers start at once in one store, from several topics: each begins once."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from itertools import cycle

import psycopg
import pytest

from saga.adapters.sqlite import connection
from saga.errors import HistoryConflict
from saga.ports.store import EventStore
from saga.testing import samples
from saga.testing.samples import MOMENT, saga
from tests.adapters.first_triggers import (
    KEYS,
    TOPICS,
    check_each_began_once,
    opened,
    start_all,
    start_all_though_killed,
)
from tests.proxy import Cut, Proxy

COUNTED = (
    "SELECT (SELECT count(*) FROM stored_events), (SELECT count(*) FROM saga_index), "
    "(SELECT count(*) FROM saga_index {})"
)


@pytest.fixture(params=["path", pytest.param("postgres", marks=pytest.mark.connected)])
def address(request: pytest.FixtureRequest) -> str:
    """Of an empty file, or of an empty database on a server."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
async def store(address: str) -> AsyncIterator[EventStore]:
    """The store there."""
    async with opened(address) as store:
        yield store


async def check(address: str, store: EventStore) -> None:
    """Each saga began once, and nothing else is there: no row of a saga that was refused."""
    await check_each_began_once(store)
    if address.startswith("postgresql:"):
        connect, joined = psycopg.connect, "NATURAL JOIN saga_ids NATURAL JOIN stored_events"
    else:
        connect = sqlite3.connect
        joined = "JOIN stored_events ON originator_id = printf('%032x', number)"
    with closing(connect(address)) as there:
        assert there.execute(COUNTED.format(joined)).fetchone() == (KEYS, KEYS, KEYS)


@pytest.mark.long
async def test_processes_that_are_killed_start_each_saga_once(
    address: str, store: EventStore
) -> None:
    """Two processes, each on its own topic, killed again and again at whichever moment it is."""
    lives = await asyncio.gather(*(start_all_though_killed(address, topic) for topic in TOPICS))

    assert min(lives) > 1
    await check(address, store)


class CutConnection(sqlite3.Connection):
    """A connection that loses the answer to some commits; *cuts* says how."""

    cuts = cycle([None])
    lost = 0

    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
        cut = next(CutConnection.cuts) if sql == "COMMIT" else None
        if cut is None:
            return super().execute(sql, *args)
        super().execute("COMMIT" if cut is Cut.AFTER else "ROLLBACK")
        CutConnection.lost += 1
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error


Cuts = tuple[Cut | None, ...]


@asynccontextmanager
async def cutting(
    address: str, cuts: Cuts, patch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[list[EventStore], Callable[[], int]]]:
    """Two stores whose commits lose their answers as *cuts* say, and what counts those."""
    if address.startswith("postgresql:"):
        with Proxy(address) as left, Proxy(address) as right:
            async with opened(left.url) as first, opened(right.url) as second:
                for proxy in (left, right):
                    proxy.at_commit = partial(next, cycle([*cuts, None]))
                yield [first, second], lambda: min(left.cuts, right.cuts)
        return
    CutConnection.lost = 0
    patch.setattr(connection.sqlite3, "connect", partial(sqlite3.connect, factory=CutConnection))
    async with opened(address) as first, opened(address) as second:
        patch.undo()
        CutConnection.cuts = cycle([*cuts, None])
        yield [first, second], lambda: CutConnection.lost
        CutConnection.cuts = cycle([None])


@pytest.mark.parametrize(
    "cuts", [(Cut.AFTER,), (Cut.BEFORE,), (Cut.AFTER, Cut.BEFORE, None)], ids=str
)
async def test_lost_answers_start_no_saga_twice(
    address: str, store: EventStore, cuts: Cuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers whose commits end in errors: they know which beginnings are theirs."""
    async with cutting(address, cuts, monkeypatch) as (stores, lost):
        await asyncio.gather(*map(start_all, stores, TOPICS))
        assert lost() > 0

    await check(address, store)


async def test_a_second_saga_of_an_id_is_a_conflict_that_names_it(
    address: str, store: EventStore
) -> None:
    """Its originator id would be another one: it is the saga's own id that is refused."""
    await store.append(samples.batch(samples.history(saga(1), cause="left")), at=MOMENT)
    batch = samples.batch(samples.history(saga(2)), samples.history(saga(1), cause="right"))

    async with opened(address) as other:
        with pytest.raises(HistoryConflict) as conflict:
            await other.append(batch, at=MOMENT)
        loaded = await other.load([saga(1), saga(2)])

    assert conflict.value.saga_ids == (saga(1),)
    assert list(loaded) == [saga(1)]
