"""The contract suite of the effects store, run by SQLite with and without threads."""

import sqlite3
from pathlib import Path

import pytest

from saga.adapters.sqlite import SqliteDatabase, SqliteEffectsStore
from saga.testing.effects_store_suite import EffectsStoreSuite


class TestSqliteEffectsStore(EffectsStoreSuite):
    @pytest.fixture
    async def open_store(self, tmp_path: Path):
        """Stores on one file, with threads that commit."""
        opened: list[SqliteEffectsStore] = []

        async def open_store() -> SqliteEffectsStore:
            store = SqliteEffectsStore(str(tmp_path / "effects.db"))
            opened.append(store)
            await store.open()
            return store

        yield open_store
        for store in opened:
            await store.close()


class TestSqliteEffectsStoreWithoutThreads(EffectsStoreSuite):
    can_share = False
    has_threads = False

    @pytest.fixture
    async def open_store(self):
        """Stores that follow one another on one connection, as in simulated worlds."""
        connection = sqlite3.connect(":memory:", isolation_level=None)
        opened: list[SqliteEffectsStore] = []

        async def open_store() -> SqliteEffectsStore:
            store = SqliteEffectsStore(SqliteDatabase(":memory:", connection=connection))
            opened.append(store)
            await store.open()
            return store

        yield open_store
        for store in opened:
            await store.close()
        connection.close()
