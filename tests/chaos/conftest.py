"""Deployments of real processes, which are killed when their test is over."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos.client import Client
from tests.chaos.deployment import Deployment


@pytest.fixture
def deployment(kafka, postgres: str, namespace: str, tmp_path: Path) -> Iterator[Deployment]:
    """On the servers of this run; nobody has started yet."""
    yield from _until_ended(Deployment(kafka.url, postgres, namespace, tmp_path))


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[Client]:
    async with Client(deployment, seed=1) as client:
        yield client


@pytest.fixture
def deployment_on_own_kafka(
    own_kafka, postgres: str, namespace: str, tmp_path: Path
) -> Iterator[Deployment]:
    """On a Kafka that may be killed."""
    bus = f"kafka://{own_kafka.bootstrap}"
    yield from _until_ended(Deployment(bus, postgres, namespace, tmp_path))


@pytest.fixture
def deployment_on_own_postgres(
    kafka, own_postgres, namespace: str, tmp_path: Path
) -> Iterator[Deployment]:
    """On a PostgreSQL that may be killed."""
    yield from _until_ended(Deployment(kafka.url, own_postgres.url(), namespace, tmp_path))


def _until_ended(deployment: Deployment) -> Iterator[Deployment]:
    yield deployment
    deployment.end()
