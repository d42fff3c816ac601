"""Databases and clocks for the adapters' tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from saga.adapters.clocks import ManualClock
from saga.adapters.sqlite import SqliteDatabase


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database file that does not exist yet."""
    return tmp_path / "saga.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    """An empty database."""
    database = SqliteDatabase(path)
    yield database
    await database.close()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()
