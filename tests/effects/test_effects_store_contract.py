"""The contract suite of the effects store, run by SQLite with and without threads."""

import sqlite3
from pathlib import Path

import pytest

from saga.adapters.sqlite import SqliteDatabase, SqliteEffectsStore
from saga.testing.effects_store_suite import EffectsStoreSuite


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
