"""Empty databases on a real server, the event store in them, and faults on the way there."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from eventsourcing.postgres import PostgresDatastore, PostgresProcessRecorder
from psycopg.conninfo import conninfo_to_dict

from infra import Postgres, StopMode
from saga.adapters.postgres import Address, PostgresCatalogue, PostgresDatabase, PostgresEventStore
from tests.proxy import Proxy


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


@pytest.fixture
def run(postgres: str) -> Callable[[str], list[tuple[Any, ...]]]:
    """Runs a statement on that database, as another program does; returns what it finds."""

    def run(statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(postgres, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def library(postgres: str) -> Iterator[PostgresProcessRecorder]:
    """The library's own recorder, unchanged, on the tables that are in that database."""
    given = conninfo_to_dict(postgres)
    where = (given[name] or "" for name in ("dbname", "host", "port", "user", "password"))
    with PostgresDatastore(*where) as datastore:
        yield PostgresProcessRecorder(datastore)


@pytest.fixture
def proxy(postgres: str) -> Iterator[Proxy]:
    """Another way to that database."""
    with Proxy(postgres) as proxy:
        yield proxy


@pytest.fixture
def crash_under(own_postgres: Postgres):
    """Runs four lanes of work; the server crashes, and comes back, each time so much is done."""

    async def crash_under(work, done, marks) -> None:
        lanes = [asyncio.create_task(work(lane)) for lane in range(4)]
        for mark in marks:
            while len(done) < mark:  # noqa: ASYNC110  # many tasks add to it
                await asyncio.sleep(0.005)
            await asyncio.to_thread(own_postgres.stop, StopMode.IMMEDIATE)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(own_postgres.start)
        await asyncio.gather(*lanes)

    return crash_under
