"""What was delivered before comes again, all of it; and a topic that is not the one it was."""

import asyncio
import time

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic

from saga.contracts import contract_of
from saga.core.status import SagaStatus
from saga.ports import Inbound, Record
from saga.testing.world.evidence import headers_of
from tests.adapters.kafka.fixtures import administrator
from tests.chaos.application import OrderPlaced
from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.chaos.load import EVERYBODY, start
from tests.chaos.outside import SAGAS_MAX, Outside, opened, records
from tests.patience import until

TRADING_S = 2.0
ORDERS = 40
LEDGER = "SELECT saga_id, step, direction, intent_id, debit, credit, amount FROM ledger"

pytestmark = pytest.mark.slow


async def test_everything_delivered_again_changes_nothing(
    deployment: Deployment, client: Client
) -> None:
    """Services answer every intent again as they have; then every record is published again."""
    await start(deployment, EVERYBODY)
    enough_s = time.monotonic() + TRADING_S
    await client.place_orders(lambda: time.monotonic() > enough_s)
    outside = Outside(deployment, client.log)
    await outside.rest()
    first, before = await records(deployment), await _state(deployment)
    assert await outside.check() == []
    assert {SagaStatus.COMPLETED, SagaStatus.ROLLED_BACK} <= {status for _, status in before[0]}

    for name in EVERYBODY:
        await asyncio.to_thread(deployment.stop, name)
    assert await _set_back(deployment) >= 3
    await start(deployment, EVERYBODY)
    effects = deployment.booked(LEDGER)

    async def are_answered_again() -> bool:
        found = await records(deployment)
        return len(found) - len(first) >= len(effects)

    await until(are_answered_again)
    await outside.rest()
    second = await records(deployment)
    assert {_identity(record) for record in second} == {_identity(record) for record in first}
    assert await _state(deployment) == before

    counted = [await _duplicates(deployment, name) for name in EVERYBODY[:2]]
    await client.publish([_copy(record) for record in second])
    await outside.rest()
    assert await outside.check() == []
    assert await _state(deployment) == before
    again = [await _duplicates(deployment, name) for name in EVERYBODY[:2]]
    heard = sum(record.topic in outside.heard for record in second)
    assert sum(again) - sum(counted) >= heard


async def test_a_topic_made_anew_is_refused(deployment: Deployment, client: Client) -> None:
    """Its offsets mean other records now: the process says so, and goes on with other topics."""
    topic = deployment.names.topic(contract_of(OrderPlaced).contract_name)
    await start(deployment, EVERYBODY)
    await client.place([client.drawn() for _ in range(ORDERS)])
    outside = Outside(deployment, client.log)
    await outside.rest()
    before = await _state(deployment)
    for name in EVERYBODY:
        await asyncio.to_thread(deployment.stop, name)

    await _make_anew(deployment, topic)
    await client.place([client.drawn()])
    await start(deployment, ("orchestrator-1", "effects-1"))
    flawed = client.flawed()
    await client.place([flawed])

    async def is_told() -> bool:
        status, text = await deployment.members["orchestrator-1"].page("/health/ready")
        return status == 503 and topic in text and "made anew" in text

    async def is_held() -> bool:
        return (flawed.starts[0].saga_id, SagaStatus.PARKED) in (await _state(deployment))[0]

    await until(is_told)
    await until(is_held)
    after = await _state(deployment)
    assert after[0] - before[0] == {(flawed.starts[0].saga_id, SagaStatus.PARKED)}
    assert after[2] == before[2]
    assert all(order.is_acknowledged for order in client.log.triggers)


async def _state(deployment: Deployment):
    """How sagas ended, every entry of every history, and every line of the ledger."""
    async with opened(deployment) as store:
        sagas = await store.catalogue.sagas(limit=SAGAS_MAX)
        entries = {entry async for _, entry in store.catalogue.log()}
    return {(one.saga_id, one.status) for one in sagas}, entries, sorted(deployment.booked(LEDGER))


async def _set_back(deployment: Deployment) -> int:
    """Every group to the begin of all that it has read; how many groups there are."""
    address = deployment.bus.removeprefix("kafka://")
    async with administrator(address) as admin:
        found = [name for name, _ in await admin.list_consumer_groups()]
        groups = [name for name in found if deployment.namespace in name]
        for group in groups:
            read = await admin.list_consumer_group_offsets(group)
            async with AIOKafkaConsumer(
                bootstrap_servers=address, group_id=group, enable_auto_commit=False
            ) as consumer:
                consumer.assign(list(read))
                await consumer.commit(dict.fromkeys(read, 0))
    return len(groups)


async def _make_anew(deployment: Deployment, topic: str) -> None:
    address = deployment.bus.removeprefix("kafka://")
    sources = [TopicPartition(topic, number) for number in range(deployment.partitions)]
    async with administrator(address) as admin:

        async def is_made() -> bool:
            await admin.create_topics([NewTopic(topic, deployment.partitions, 1)])
            async with AIOKafkaConsumer(bootstrap_servers=address) as consumer:
                return set((await consumer.end_offsets(sources)).values()) == {0}

        await admin.delete_topics([topic])
        await until(is_made)


async def _duplicates(deployment: Deployment, name: str) -> float:
    return await deployment.members[name].counted("saga_duplicates_total")


def _identity(record: Inbound) -> tuple[str, str, bytes | None, bytes | None]:
    return record.topic, headers_of(record).get("ce_id", ""), record.key, record.value


def _copy(record: Inbound) -> Record:
    return Record(record.topic, record.key, record.value, record.headers, record.partition)
