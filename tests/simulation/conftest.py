"""Where crashes are staged: a folder, a database, and silence."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.connected import database_on


@pytest.fixture
def quiet() -> Iterator[None]:
    """Cases are full of warnings, none of which is worth a line."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(level)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: what a process had written survives it on any
    medium.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def crashed_postgres(postgres_server: str) -> Iterator[str]:
    """A database for all cases of a file, emptied by each."""
    with database_on(postgres_server) as url:
        yield url
