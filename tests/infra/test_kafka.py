from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from infra import Kafka
from tests.adapters.kafka.fixtures import administrator
from tests.connected import KafkaAddress


async def test_record_goes_in_and_comes_out(kafka: KafkaAddress, namespace: str) -> None:
    """The shared Kafka takes a record with its key and headers and gives it back as it was."""
    await make_topic(kafka.bootstrap, namespace)
    await produce(kafka.bootstrap, namespace, b"one")

    assert await consume(kafka.bootstrap, namespace) == [b"one"]


@pytest.mark.slow
async def test_killed_broker_keeps_what_it_acknowledged(own_kafka: Kafka, namespace: str) -> None:
    """After kill -9 and a restart at the same address, the acknowledged records are there."""
    await make_topic(own_kafka.bootstrap, namespace)
    await produce(own_kafka.bootstrap, namespace, b"before")
    before = own_kafka.bootstrap

    own_kafka.kill()
    assert not own_kafka.brokers[0].is_running
    own_kafka.start()
    await produce(own_kafka.bootstrap, namespace, b"after")

    assert before == own_kafka.bootstrap
    assert await consume(own_kafka.bootstrap, namespace) == [b"before", b"after"]


@pytest.mark.slow
@pytest.mark.parametrize("own_kafka", [3], indirect=True)
async def test_three_brokers_go_on_when_a_leader_dies(own_kafka: Kafka, namespace: str) -> None:
    """A topic survives the death of its leader with all that was acknowledged; it can come back."""
    await make_topic(own_kafka.bootstrap, namespace, replicas=3)
    await produce(own_kafka.bootstrap, namespace, b"before")

    leader = own_kafka.brokers[await leader_of(own_kafka.bootstrap, namespace) - 1]
    leader.kill()
    await produce(own_kafka.bootstrap, namespace, b"meanwhile")
    leader.start()

    assert await consume(own_kafka.bootstrap, namespace) == [b"before", b"meanwhile"]


@pytest.mark.slow
async def test_cluster_id_may_begin_with_a_dash(server_folder: Path, namespace: str) -> None:
    """One in 64 drawn ids does; the storage tool must not take it for an option."""
    (server_folder / "kafka").mkdir()
    (server_folder / "kafka" / "cluster.id").write_text(f"-{'A' * 21}", "ascii")
    with Kafka(server_folder / "kafka") as server:
        await make_topic(server.bootstrap, namespace)


async def make_topic(bootstrap: str, topic: str, *, replicas: int = 1) -> None:
    async with administrator(bootstrap) as admin:
        await admin.create_topics([NewTopic(topic, 1, replicas)])


async def leader_of(bootstrap: str, topic: str) -> int:
    async with administrator(bootstrap) as admin:
        (found,) = await admin.describe_topics([topic])
    return found["partitions"][0]["leader"]


async def produce(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, value, key=b"key", headers=[("name", b"header")])


async def consume(bootstrap: str, topic: str) -> list[bytes]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as one:
        partition = TopicPartition(topic, 0)
        one.assign([partition])
        end = (await one.end_offsets([partition]))[partition]
        records = []
        while await one.position(partition) < end:
            records.append(await one.getone(partition))
    assert all(r.key == b"key" and r.headers == (("name", b"header"),) for r in records)
    return [record.value for record in records]
