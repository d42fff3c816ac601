"""A scenario on the cluster that all tests share."""

from pathlib import Path

import pytest

from tests.adapters.faststream.fixtures import KafkaScenario


@pytest.fixture
async def scenario(kafka, namespace: str, tmp_path: Path):
    """Topics, a file for the effects store, and an observer."""
    async with KafkaScenario(kafka.bootstrap, namespace, tmp_path) as scenario:
        yield scenario
