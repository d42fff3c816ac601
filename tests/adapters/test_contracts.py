"""The contract suites, run by the adapters that need nothing but this machine."""

import pytest

from saga.adapters.clocks import ManualClock
from saga.adapters.memory import MemoryBus, MemoryCatalogue, MemoryEventStore
from saga.adapters.sqlite import LocalBus, SqliteCatalogue, SqliteDatabase, SqliteEventStore
from saga.adapters.sqlite import bus as local_bus
from saga.testing.bus_suite import BusSuite
from saga.testing.catalogue_suite import CatalogueSuite
from saga.testing.event_store_suite import EventStoreSuite
from saga.testing.snapshot_store_suite import SnapshotStoreSuite


class TestSqliteEventStore(EventStoreSuite, SnapshotStoreSuite, CatalogueSuite):
    @pytest.fixture
    def store(self, database: SqliteDatabase):
        """A store in an empty file."""
        return SqliteEventStore(database)

    @pytest.fixture
    def catalogue(self, store, database: SqliteDatabase):
        """The catalogue of that file."""
        return SqliteCatalogue(database)


class TestMemoryEventStore(EventStoreSuite, SnapshotStoreSuite, CatalogueSuite):
    @pytest.fixture
    def store(self):
        """An empty store."""
        return MemoryEventStore()

    @pytest.fixture
    def catalogue(self, store: MemoryEventStore):
        """The catalogue of that store."""
        return MemoryCatalogue(store)


class TestLocalBus(BusSuite):
    @pytest.fixture
    async def bus(self, database: SqliteDatabase, clock: ManualClock, monkeypatch):
        """A bus in an empty file, which is quick to judge again."""
        monkeypatch.setattr(local_bus, "STOPPED_S", 0.01)
        bus = LocalBus(database, clock=clock, record_bytes_max=self.record_bytes_max)
        yield bus
        await bus.close()

    @pytest.fixture
    def expire(self, bus: LocalBus, clock: ManualClock):
        """Moves the clock, then deletes as the background task does."""

        async def expire(seconds: float) -> None:
            clock.advance(seconds)
            await bus.expire()

        return expire


class TestMemoryBus(BusSuite):
    # The clock stands still while a fetch waits, so that it would never time out.
    fetch_timeout_s = 0.0

    async def let_pass(self, bus: MemoryBus, seconds: float) -> None:
        bus.clock.advance(seconds)

    @pytest.fixture
    async def bus(self, clock: ManualClock):
        """An empty bus."""
        bus = MemoryBus(clock=clock, record_bytes_max=self.record_bytes_max)
        yield bus
        await bus.close()

    @pytest.fixture
    def expire(self, clock: ManualClock):
        """Moves the clock."""

        async def expire(seconds: float) -> None:
            clock.advance(seconds)

        return expire
