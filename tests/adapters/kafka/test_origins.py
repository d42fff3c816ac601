"""Topics made anew under the same name, on a real Kafka: nobody reads on as if nothing had been."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.protocol.metadata import MetadataResponse_v5

from saga.adapters.clocks import SystemClock
from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.adapters.kafka._aiokafka import OriginsRequest, origins_in
from saga.adapters.memory import MemoryCatalogue, MemoryEventStore
from saga.errors import TopicMissing
from saga.ports.bus import Origin, Record, Source, TopicSpec
from saga.ports.store import Batch, Place
from saga.runtime.orchestrator import Receiver
from saga.testing.samples import MOMENT
from tests.adapters.kafka.fixtures import QUICK, administrator, read
from tests.patience import HANG_S


@pytest.fixture
async def bus(kafka):
    bus = KafkaBus(KafkaConnection(servers=(kafka.bootstrap,)), consumers=QUICK)
    yield bus
    await bus.close()


@pytest.fixture
async def topic(bus: KafkaBus, namespace: str) -> str:
    """A topic of two partitions, which has a neighbour."""
    name = f"{namespace}.t"
    await bus.create_topics([TopicSpec(name, 2), TopicSpec(f"{namespace}.u", 1)])
    return name


@pytest.fixture
async def again(bus: KafkaBus, kafka):
    """Makes a topic anew, with so many records in each partition."""

    async def again(topic: str, *, partitions: int = 2, records: int = 0) -> None:
        before = await bus.origins([topic])
        async with administrator(kafka.bootstrap) as admin:
            await admin.delete_topics([topic])
        while (await bus.origins([topic])).get(topic, before[topic]) == before[topic]:
            with suppress(TopicMissing):
                await bus.create_topics([TopicSpec(topic, partitions)])
            await asyncio.sleep(0.05)
        await fill(bus, topic, b"new", partitions, records)

    return again


async def fill(bus: KafkaBus, topic: str, value: bytes, partitions: int, records: int) -> None:
    """Publish so many records in each partition, through a producer of its own."""
    own = KafkaBus(bus._connection)  # noqa: SLF001  # a producer remembers the old topic for long
    await own.publish([Record(topic, None, value, (), n % partitions) for n in range(records * 2)])
    await own.close()


def receiver_of(bus: KafkaBus, store: MemoryEventStore, topic: str) -> Receiver:
    topics = (topic, topic[:-1] + "u")
    return Receiver(
        bus=bus,
        store=store,
        clock=SystemClock(),
        group=f"group-of-{topic}",
        topics=topics,
        worker_id="w",
    )


async def begun(bus: KafkaBus, topic: str) -> tuple[MemoryEventStore, Receiver]:
    """A receiver that has read all of a topic of two partitions, and a store that says so."""
    store = MemoryEventStore()
    receiver = receiver_of(bus, store, topic)
    await fill(bus, topic, b"old", 2, 3)
    await receiver.start()
    assert len(await read(receiver.consumer, 6)) == 6
    await store.append(Batch(positions={Source(topic, n): 2 for n in range(2)}), at=MOMENT)
    return store, receiver


async def until_stopped(consumer, count: int) -> list:
    """Fetch until so many sources are stopped; what was read meanwhile."""
    records = []
    async with asyncio.timeout(HANG_S):
        while len(consumer.stopped) != count:
            records += await consumer.fetch(records_max=100, timeout_s=0.1)
    return records


async def test_a_topic_made_anew_is_not_read_on_however_long_it_is(
    bus: KafkaBus, topic: str, again
) -> None:
    """Its neighbour is; a store that was told so by an operator goes on by itself."""
    store, receiver = await begun(bus, topic)
    await receiver.close()

    await again(topic, records=8)
    await receiver.start()
    await until_stopped(receiver.consumer, 2)
    await bus.publish([Record(topic[:-1] + "u", None, b"beside")])
    assert [each.value for each in await read(receiver.consumer, 1)] == [b"beside"]
    assert all("the topic was made anew" in why for why in receiver.problems())
    assert len(receiver.problems()) == 2

    now = (await bus.origins([topic]))[topic]
    await store.rebase({Source(topic, 1): Place(-1, now)}, reason="on purpose", at=MOMENT)
    found = await read(receiver.consumer, 8)
    assert {(each.partition, each.value) for each in found} == {(1, b"new")}
    assert list(receiver.stopped) == [Source(topic, 0)]
    assert [each.reason for each in await MemoryCatalogue(store).rebases()] == ["on purpose"]
    await receiver.close()


async def test_a_topic_made_anew_under_its_reader_stops_it(
    bus: KafkaBus, topic: str, again
) -> None:
    """Also with fewer partitions, and where it has grown past the reader meanwhile."""
    _, receiver = await begun(bus, topic)

    await again(topic, partitions=1, records=8)

    await until_stopped(receiver.consumer, 1)
    assert "the topic was made anew" in receiver.stopped[Source(topic, 0)]
    await receiver.close()


async def test_a_group_without_a_store_begins_a_topic_made_anew_at_its_begin(
    bus: KafkaBus, topic: str, again
) -> None:
    """What it has committed bears the topic's id: nothing of the new topic is skipped."""
    await fill(bus, topic, b"old", 2, 3)
    reader = await bus.subscribe(f"g.{topic}", [topic])
    assert len(await read(reader, 6)) == 6
    await reader.commit({Source(topic, n): 3 for n in range(2)})

    await again(topic, records=8)
    await reader.commit({Source(topic, n): 3 for n in range(2)})  # late, of what was in hand
    await reader.close()
    reader = await bus.subscribe(f"g.{topic}", [topic])

    found = await read(reader, 16)
    assert {(each.partition, each.offset) for each in found} == {
        (partition, offset) for partition in range(2) for offset in range(8)
    }
    await reader.close()


async def test_a_running_group_begins_a_topic_made_anew_at_its_begin(
    bus: KafkaBus, topic: str, again
) -> None:
    await fill(bus, topic, b"old", 2, 3)
    reader = await bus.subscribe(f"g.{topic}", [topic])
    assert len(await read(reader, 6)) == 6

    await again(topic, records=8)

    offsets = set()
    async with asyncio.timeout(HANG_S):
        while len(offsets) < 16:
            for each in await reader.fetch(records_max=100, timeout_s=0.1):
                offsets.add((each.partition, each.offset))
    assert reader.stopped == {}
    await reader.close()


async def test_a_place_lost_for_a_moment_is_looked_for_in_the_topic_it_belongs_to(
    bus: KafkaBus, topic: str
) -> None:
    """The new topic was too short when it was fetched from, and is long enough when it is asked."""
    store, at = MemoryEventStore(), Source(topic, 0)
    bus._settings = replace(QUICK, judge_again_s=HANG_S)  # noqa: SLF001  # nothing else looks
    receiver = receiver_of(bus, store, topic)
    await fill(bus, topic, b"old", 2, 3)
    await receiver.start()
    assert len(await read(receiver.consumer, 6)) == 6
    old = Origin("the topic that was", None)
    session = receiver.consumer._session  # noqa: SLF001
    session.origins[topic] = old
    await store.rebase({at: Place(2, old)}, reason="as it was read", at=MOMENT)

    session.look_again([TopicPartition(*at)])
    await until_stopped(receiver.consumer, 1)

    assert "belongs to the topic the topic that was" in receiver.stopped[at]
    await receiver.close()


async def test_another_cluster_at_the_address_is_not_read(bus: KafkaBus, topic: str) -> None:
    """Although its topic had no id when the store last saw it, as with old brokers."""
    store = MemoryEventStore()
    at = Source(topic, 0)
    await store.append(Batch(positions={at: 2}), at=MOMENT)
    await store.adopt({at: Place(2, Origin(None, "another"))})
    await fill(bus, topic, b"new", 2, 8)
    receiver = receiver_of(bus, store, topic)
    await receiver.start()

    found = await until_stopped(receiver.consumer, 1)

    assert "belongs to the bus another" in receiver.stopped[at]
    assert {each.partition for each in found} <= {1}
    await receiver.close()


def test_brokers_that_know_no_topic_ids_are_asked_what_they_know() -> None:
    """The cluster's id alone is compared then."""
    request = OriginsRequest(["t"])

    assert request.prepare({3: (0, 12)}).API_VERSION == 10
    assert request.prepare({3: (0, 8)}).API_VERSION == 5
    answer = MetadataResponse_v5(0, [], "c1", 0, [(0, "t", False, []), (3, "gone", False, [])])
    assert origins_in(answer) == {"t": Origin(None, "c1")}


def test_topic_ids_are_read_as_kafka_writes_them() -> None:
    """A topic without one has the id of zeros."""
    request = OriginsRequest(["t", "ü"]).prepare({3: (0, 13)})
    assert request.encode().startswith(b"\x03" + bytes(16) + b"\x02t\x00" + bytes(16))
    topic_id = uuid4()
    topics = [
        (0, "t", topic_id, False, [], 0, {}),
        (5, "u", UUID(int=0), False, [], 0, {}),
    ]
    answer = request.RESPONSE_TYPE(0, [(1, "h", 9, None, {})], "c1", 1, topics, 0, {})

    found = origins_in(request.RESPONSE_TYPE.decode(answer.encode()))

    assert found == {"t": Origin(str(topic_id), "c1"), "u": Origin(None, "c1")}
