"""Where the shop of these tests publishes: on an embedded bus, or on a Kafka with its topics."""

import pytest

from saga.adapters.opening import open_bus
from saga.ports import TopicSpec
from saga.settings import Settings
from tests.publishing.events import OPENED, SOLD


@pytest.fixture
def bus(tmp_path):
    """The address of an embedded bus."""
    return f"local:///{tmp_path}/bus.db"


@pytest.fixture
async def cluster(kafka, namespace):
    """Settings for a Kafka on which the shop's topics are, and another one called carts."""
    settings = {"bus": kafka.url, "namespace": namespace}
    opened = open_bus(Settings.read(**settings))
    names = (f"dev.{namespace}.{SOLD}", f"dev.{namespace}.{OPENED}", f"{namespace}.carts")
    await opened.bus.create_topics([TopicSpec(name, 4) for name in names])
    await opened.close()
    return settings
