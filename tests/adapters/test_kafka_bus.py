"""The bus on a real Kafka keeps the contract of all buses."""

import pytest

from saga.adapters.kafka import ConsumerSettings, KafkaBus, KafkaConnection
from saga.testing.bus_suite import BusSuite
from tests.adapters.apart import ApartBus

QUICK = ConsumerSettings(fetch_wait_ms=50, heartbeat_interval_ms=100, metadata_max_age_ms=1_000)


class TestKafkaBus(BusSuite):
    fetch_timeout_s = 0.05

    test_retention_moves_the_begin = None  # a cluster's clock cannot be moved; see below

    @pytest.fixture
    async def bus(self, kafka, namespace: str):
        """A bus on the cluster that all tests share."""
        bus = KafkaBus(
            KafkaConnection(servers=(kafka.bootstrap,)),
            record_bytes_max=self.record_bytes_max,
            consumers=QUICK,
        )
        yield ApartBus(bus, f"{namespace}.")
        await bus.close()
