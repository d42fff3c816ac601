"""The bus on a real Kafka keeps the contract of all buses."""

import pytest

from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.testing.bus_suite import BusSuite
from tests.adapters.apart import ApartBus
from tests.adapters.kafka.fixtures import QUICK


class TestKafkaBus(BusSuite):
    fetch_timeout_s = 0.05

    test_retention_moves_the_begin = None  # a cluster's clock cannot be moved; see test_faults

    @pytest.fixture
    async def bus(self, kafka, namespace: str):
        bus = KafkaBus(
            KafkaConnection(servers=(kafka.bootstrap,)),
            record_bytes_max=self.record_bytes_max,
            consumers=QUICK,
        )
        yield ApartBus(bus, f"{namespace}.")
        await bus.close()
