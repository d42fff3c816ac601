"""Reading through a FastStream subscriber keeps the contract of all buses."""

from types import SimpleNamespace

import pytest

from saga.adapters.faststream import BrokerBus, EffectsSubscriber, own_broker
from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.testing.bus_suite import BusSuite
from tests.adapters.apart import ApartBus
from tests.adapters.kafka.fixtures import QUICK


class BrokerBuses(BrokerBus):
    """A subscriber for each subscription, and no service on top."""

    def __init__(self, kafka: KafkaBus, broker) -> None:
        super().__init__(kafka, None)
        self.broker = broker

    async def subscribe(self, group, topics, *, resume_at=None):
        subscription = SimpleNamespace(name="suite", group=group, topics_read=topics)
        subscriber = EffectsSubscriber(self.broker, subscription, lambda subscriber: None)
        await subscriber.prepare()
        return await BrokerBus(self._kafka, subscriber).subscribe(
            group, topics, resume_at=resume_at
        )


class TestBrokerBus(BusSuite):
    fetch_timeout_s = 0.05

    test_retention_moves_the_begin = None  # a cluster's clock cannot be moved

    @pytest.fixture
    async def bus(self, kafka, namespace: str):
        bus = KafkaBus(
            KafkaConnection(servers=(kafka.bootstrap,)),
            record_bytes_max=self.record_bytes_max,
            consumers=QUICK,
        )
        broker = own_broker([kafka.bootstrap])
        await broker.connect()
        yield ApartBus(BrokerBuses(bus, broker), f"{namespace}.")
        await broker.stop()
        await bus.close()
