"""Deployments of real processes, which are killed when their test is over."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos.cast import Cast
from tests.chaos.client import Client


@pytest.fixture
def cast(kafka, postgres: str, namespace: str, tmp_path: Path) -> Iterator[Cast]:
    """On the servers of this run; nobody has started yet."""
    cast = Cast(kafka.url, postgres, namespace, tmp_path)
    yield cast
    cast.end()


@pytest.fixture
async def client(cast: Cast) -> AsyncIterator[Client]:
    """Who places orders with it."""
    async with Client(cast, seed=1) as client:
        yield client


@pytest.fixture
def cast_on_own_kafka(own_kafka, postgres: str, namespace: str, tmp_path: Path) -> Iterator[Cast]:
    """On a Kafka that may be killed."""
    cast = Cast(f"kafka://{own_kafka.bootstrap}", postgres, namespace, tmp_path)
    yield cast
    cast.end()


@pytest.fixture
def cast_on_own_postgres(kafka, own_postgres, namespace: str, tmp_path: Path) -> Iterator[Cast]:
    """On a PostgreSQL that may be killed."""
    cast = Cast(kafka.url, own_postgres.url(), namespace, tmp_path)
    yield cast
    cast.end()
