"""A lab on the cluster that all tests share."""

from pathlib import Path

import pytest

from tests.adapters.faststream.lab import KafkaLab


@pytest.fixture
async def lab(kafka, namespace: str, tmp_path: Path):
    """Topics, a file for the effects store, and an observer."""
    async with KafkaLab(kafka.bootstrap, namespace, tmp_path) as lab:
        yield lab
