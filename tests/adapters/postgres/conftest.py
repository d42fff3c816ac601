"""Empty databases on a real server, and the event store in them."""

from collections.abc import AsyncIterator

import pytest

from saga.adapters.postgres import Address, PostgresCatalogue, PostgresDatabase, PostgresEventStore


@pytest.fixture
async def database(postgres: str) -> AsyncIterator[PostgresDatabase]:
    """An empty database."""
    database = PostgresDatabase(Address(postgres))
    yield database
    await database.close()


@pytest.fixture
def store(database: PostgresDatabase) -> PostgresEventStore:
    """An empty store."""
    return PostgresEventStore(database)


@pytest.fixture
def catalogue(store: PostgresEventStore, database: PostgresDatabase) -> PostgresCatalogue:
    """The catalogue of that store."""
    return PostgresCatalogue(database)
