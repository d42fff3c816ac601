"""Empty databases on a real server, and the event store in them."""

from collections.abc import AsyncIterator, Iterator

import pytest

from saga.adapters.postgres import Address, PostgresCatalogue, PostgresDatabase, PostgresEventStore
from saga.adapters.postgres._eventsourcing import SagaDatastore, SagaProcessRecorder


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
def recorder(store: PostgresEventStore) -> Iterator[SagaProcessRecorder]:
    """The library's view of that store."""
    address = store.database.address
    with SagaDatastore(address) as datastore:
        yield SagaProcessRecorder(datastore, address)


@pytest.fixture
def catalogue(store: PostgresEventStore, database: PostgresDatabase) -> PostgresCatalogue:
    """The catalogue of that store."""
    return PostgresCatalogue(database)
