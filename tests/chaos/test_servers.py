"""Brokers and databases are killed under load; the processes live on, and nothing is lost."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from infra import Kafka, Postgres
from infra.postgres import StopMode
from saga.contracts import contract_of
from tests.chaos.application import OrderPlaced
from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.chaos.load import nobody_was_started_again, under_load
from tests.patience import until

DOWN_S = 2.0

pytestmark = pytest.mark.slow


async def test_the_only_broker_is_killed_and_comes_back(
    deployment_on_own_kafka: Deployment, own_kafka: Kafka
) -> None:
    """Nothing can be read or published meanwhile."""

    async def strike(client: Client) -> None:
        own_kafka.brokers[0].kill()
        await asyncio.sleep(DOWN_S)
        await asyncio.to_thread(own_kafka.start)
        await asyncio.sleep(DOWN_S)

    await under_load(deployment_on_own_kafka, strike)

    assert nobody_was_started_again(deployment_on_own_kafka)


@pytest.mark.parametrize("own_kafka", [3], indirect=True)
async def test_a_leader_is_killed_and_another_broker_leads(
    deployment_on_own_kafka: Deployment, own_kafka: Kafka
) -> None:
    """Of three brokers the one that leads a topic of triggers; orders go on while it is down."""
    deployment = deployment_on_own_kafka

    async def strike(client: Client) -> None:
        leader = await _leader(deployment)
        own_kafka.brokers[leader - 1].kill()

        async def another_leads() -> bool:
            return await _leader(deployment) not in {leader, 0}

        await until(another_leads)
        before = len(client.log.triggers)
        await until(lambda: len(client.log.triggers) > before)
        await asyncio.to_thread(own_kafka.brokers[leader - 1].start)

    await under_load(deployment, strike)

    assert nobody_was_started_again(deployment)


async def test_the_database_is_stopped_at_once_and_comes_back(
    deployment_on_own_postgres: Deployment, own_postgres: Postgres
) -> None:
    """`stop -m immediate`, which is a crash: what it was in the middle of is lost, nothing else."""

    async def strike(client: Client) -> None:
        for _ in range(2):
            await asyncio.to_thread(own_postgres.stop, StopMode.IMMEDIATE)
            await asyncio.sleep(DOWN_S)
            await asyncio.to_thread(own_postgres.start)
            await asyncio.sleep(DOWN_S)

    await under_load(deployment_on_own_postgres, strike)

    assert nobody_was_started_again(deployment_on_own_postgres)


async def _leader(deployment: Deployment) -> int:
    """The broker that leads the first partition of the triggers; 0 while nobody knows."""
    contract = contract_of(OrderPlaced)
    try:
        async with AIOKafkaConsumer(
            bootstrap_servers=deployment.bus.removeprefix("kafka://")
        ) as one:
            topic = deployment.names.topic(contract.contract_name)
            await one.end_offsets([TopicPartition(topic, 0)])
            cluster = one._client.cluster  # noqa: SLF001 - nothing else knows it
            return int(cluster.leader_for_partition(TopicPartition(topic, 0)) or 0)
    except KafkaError:
        return 0
