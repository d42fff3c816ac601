"""The contract suite of the effects store, run by SQLite in each of its forms."""

import sqlite3
from pathlib import Path

import pytest

from saga.adapters.clocks import ManualClock
from saga.adapters.sqlite import LocalBus, SqliteDatabase, SqliteEffectsStore
from saga.ports.bus import Source, TopicSpec
from saga.testing.effects_store_suite import ANSWERS, EffectsStoreSuite


class TestSqliteEffectsStore(EffectsStoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path: Path):
        """Stores on one file, with threads that commit."""
        return lambda: SqliteEffectsStore(str(tmp_path / "effects.db"))


class TestSqliteEffectsStoreWithoutThreads(EffectsStoreSuite):
    can_share = False
    has_threads = False

    @pytest.fixture
    def make_store(self):
        """Stores that follow one another on one connection, as in simulated worlds."""
        connection = sqlite3.connect(":memory:", isolation_level=None)
        yield lambda: SqliteEffectsStore(SqliteDatabase(":memory:", connection=connection))
        connection.close()


class TestAnswersInTheFileOfTheBus(EffectsStoreSuite):
    """As by default: the effects have a file, and answers may be in the bus's."""

    @pytest.fixture
    async def make_store(self, tmp_path: Path):
        """Each has its own connections to both files."""
        self.path = tmp_path / "saga.db"
        opened: list[LocalBus] = []

        def make() -> SqliteEffectsStore:
            if self.can_share or not opened:
                opened.append(on_bus(SqliteDatabase(self.path)))
            return self.store_with(opened[-1], tmp_path)

        yield make
        for bus in opened:
            await bus.database.close()

    def store_with(self, bus: LocalBus, folder: Path) -> SqliteEffectsStore:
        """The store of one process, whose bus is *bus*."""
        own = str(folder / "effects.db")
        return SqliteEffectsStore(own, beside=bus.database, publish_through=bus)

    async def published(self):
        """All records, read from the file."""
        database = SqliteDatabase(self.path)
        bus = on_bus(database)
        found = database.read_now(lambda cursor: bus.log.read(cursor, Source(ANSWERS, 0), 0, 1_000))
        await database.close()
        return found

    async def damage(self, store, change, where) -> None:
        """In both files."""
        await super().damage(store, change, where)
        with sqlite3.connect(self.path) as file:
            file.execute(f"UPDATE saga_inbox SET {change} WHERE {where}")
        file.close()


class TestEffectsInTheFileOfTheBus(TestAnswersInTheFileOfTheBus):
    """One file for everything, with one owner in a process."""

    can_share = False

    def store_with(self, bus: LocalBus, folder: Path):
        """The store of one process."""
        return SqliteEffectsStore(bus.database, publish_through=bus)


def on_bus(database: SqliteDatabase) -> LocalBus:
    """A bus that has the topic of answers."""
    bus = LocalBus(database, clock=ManualClock())
    topics = [TopicSpec(ANSWERS, 1)]
    database.change(lambda cursor: bus.log.create(cursor, topics))
    return bus
