"""The contract suites on a real PostgreSQL; handlers of effects in turns, and side by side."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from saga.adapters.postgres import Address, PostgresEffectsStore
from saga.ports.effects_store import EffectsStore, InboxWrite
from saga.testing.catalogue_suite import CatalogueSuite
from saga.testing.effects_store_suite import (
    EffectsStoreSuite,
    MakeStore,
    inbox_row,
    keep_rows,
    things_in,
)
from saga.testing.event_store_suite import EventStoreSuite
from saga.testing.snapshot_store_suite import SnapshotStoreSuite
from tests.connected import database_on


@pytest.fixture(scope="module")
def effects_database(postgres_server: str) -> Iterator[str]:
    """The address of one database for all tests of effects."""
    with database_on(postgres_server) as url:
        yield url


@pytest.fixture
def emptied(effects_database: str) -> str:
    """The same with nothing in it: that is quicker than another database."""
    with psycopg.connect(effects_database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return effects_database


class TestPostgresEventStore(EventStoreSuite, SnapshotStoreSuite, CatalogueSuite):
    pass


class TestOneHandlerAtATime(EffectsStoreSuite):
    handlers_max = 1

    @pytest.fixture
    def make_store(self, emptied: str) -> MakeStore:
        """Stores on one database."""
        return lambda: PostgresEffectsStore(Address(emptied), handlers_max=self.handlers_max)


class TestHandlersSideBySide(TestOneHandlerAtATime):
    handlers_max = 4

    async def test_a_unit_sees_its_own_writes(self, store: EffectsStore) -> None:
        """And those of units before it once they are durable."""
        first, second = store.unit(), store.unit()
        await first.db.execute("INSERT INTO things VALUES ('a', 1)")
        assert await first.db.fetch("SELECT size FROM things") == [{"size": 1}]
        assert await second.db.fetch("SELECT size FROM things") == []
        await keep_rows(first, inbox_row("k"))
        assert await second.db.fetch("SELECT size FROM things") == [{"size": 1}]
        second.drop()

    async def test_units_take_turns(self, store: EffectsStore) -> None:
        """Only as far as there are too few connections: nobody waits for a slow one before it."""
        slow, order = store.unit(), []
        await slow.db.execute("INSERT INTO things VALUES ('slow', 1)")

        async def write(name: str) -> None:
            unit = store.unit()
            await unit.db.execute("INSERT INTO things VALUES (:name, 1)", name=name)
            await keep_rows(unit, inbox_row(name))
            order.append(name)

        await asyncio.gather(*(write(name) for name in "abcdef"))
        await keep_rows(slow, inbox_row("slow"))

        assert sorted(order) == list("abcdef")
        assert [thing["name"] for thing in await things_in(store)] == [*"abcdef", "slow"]

    async def test_waiting_for_a_turn_can_be_cancelled(self, store: EffectsStore) -> None:
        """The place goes to the next in line."""
        holders = [store.unit() for _ in range(self.handlers_max)]
        for number, holder in enumerate(holders):
            await holder.db.execute("INSERT INTO things VALUES (:name, 1)", name=str(number))
        given_up, patient = store.unit(), store.unit()
        waiting = asyncio.ensure_future(given_up.db.execute("DELETE FROM things"))
        behind = asyncio.ensure_future(patient.db.execute("INSERT INTO things VALUES ('p', 1)"))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        given_up.drop()
        assert not behind.done()
        kept = holders[0].keep((InboxWrite(inbox_row("holder")),))
        assert await behind == 1
        assert not await keep_rows(patient, inbox_row("patient"))
        assert not await kept
        for holder in holders[1:]:
            holder.drop()

        assert [thing["name"] for thing in await things_in(store)] == ["0", "p"]
