"""Trouble on a real Kafka: retention, topics made anew, brokers away, records of all kinds."""

# ruff: noqa: SLF001 - faults inside are caused inside

import asyncio
import struct
from contextlib import suppress

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import OutOfOrderSequenceNumber

from saga.adapters.kafka import (
    ConsumerSettings,
    KafkaBus,
    KafkaConnection,
    flaws_of,
)
from saga.adapters.kafka.inflating import INFLATED_BYTES_MAX, KEPT_BYTES
from saga.errors import BusUnavailable, MessageTooLarge, TopicMissing
from saga.ports.bus import Record, Source, TopicSpec, why_set_aside
from tests.adapters.kafka.fixtures import QUICK, administrator, fetch_until, read
from tests.patience import HANG_S, until

HUGE = 5 * 1_048_576


@pytest.fixture
def connection(kafka) -> KafkaConnection:
    return KafkaConnection(servers=(kafka.bootstrap,))


@pytest.fixture
async def bus(connection: KafkaConnection):
    """A bus that takes large records."""
    bus = KafkaBus(connection, record_bytes_max=2 * HUGE, consumers=QUICK, publish_timeout_s=10)
    yield bus
    await bus.close()


@pytest.fixture
async def topic(bus: KafkaBus, namespace: str) -> str:
    """A topic of three partitions."""
    name = f"{namespace}.t"
    await bus.create_topics([TopicSpec(name, 3)])
    return name


@pytest.fixture
async def admin(kafka):
    async with administrator(kafka.bootstrap) as client:
        yield client


async def remove(admin: AIOKafkaAdminClient, source: Source, before: int) -> None:
    """Remove records as retention does."""
    at = TopicPartition(*source)
    await admin.delete_records({at: RecordsToDelete(before_offset=before)})


async def test_records_that_retention_removed_before_they_were_read_stop_their_partition(
    bus: KafkaBus, topic: str, admin
) -> None:
    """While the member was away, or while it read.

    A member with positions of its own stops; without them the group goes on with what is left.
    """
    await bus.publish([Record(topic, None, b"%d" % n, (), n % 3) for n in range(12)])
    await remove(admin, Source(topic, 0), 3)

    async def resume_at(_):
        return {Source(topic, 0): 1, Source(topic, 1): 2}

    owner = await bus.subscribe("owner" + topic, [topic], resume_at=resume_at)
    assert len(await read(owner, 6)) == 6
    assert list(owner.stopped) == [Source(topic, 0)]
    assert "begins at 3, but 1 is next" in owner.stopped[Source(topic, 0)]
    assert bus.counts["sources_stopped"] == 1

    await remove(admin, Source(topic, 1), 4)
    await owner.seek({Source(topic, 1): 0})
    await bus.publish([Record(topic, None, b"new", (), n) for n in range(3)])
    await fetch_until(lambda: len(owner.stopped) == 2, owner)
    assert set(owner.stopped) == {Source(topic, 0), Source(topic, 1)}

    guest = await bus.subscribe("guest" + topic, [topic])
    received = await read(guest, 2 + 1 + 5)
    assert sorted(record.partition for record in received) == [0, 0, 1, *[2] * 5]


async def test_a_topic_made_anew_stops_those_who_were_further(
    bus: KafkaBus, topic: str, admin
) -> None:
    """A member that starts notices it."""
    await bus.publish([Record(topic, None, b"old", (), 0)] * 5)

    async def resume_at(sources):
        return dict.fromkeys(sources, 5) if Source(topic, 0) in sources else {}

    await admin.delete_topics([topic])

    async def is_empty() -> bool:
        await bus.create_topics([TopicSpec(topic, 1)])
        with suppress(TopicMissing):  # it was still there a moment ago, and now it is not
            return (await bus.bounds([Source(topic, 0)]))[Source(topic, 0)] == (0, 0)
        return False

    await until(is_empty)
    consumer = await bus.subscribe("g" + topic, [topic], resume_at=resume_at)
    await fetch_until(lambda: consumer.stopped, consumer)

    assert "made anew" in consumer.stopped[Source(topic, 0)]


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_records_of_others_arrive_byte_for_byte(
    bus: KafkaBus, topic: str, connection: KafkaConnection, codec: str | None
) -> None:
    """Compressed or not, of 5 MB, without key or value, with headers that are no text."""
    options = connection.options() | {"compression_type": codec, "max_request_size": 2 * HUGE}
    records = [
        (b"k", b"x" * HUGE, []),
        (None, b"no key", [("h", None)]),
        (b"k", None, [("h", b"\xff\xfe"), ("h", b"")]),
        (b"\xff", b"\x00\xff", [("é", b"1")]),
    ]
    async with AIOKafkaProducer(**options) as producer:
        for key, value, headers in records:
            await producer.send_and_wait(topic, value, key, partition=0, headers=headers)
    consumer = await bus.subscribe("g" + topic, [topic])

    received = await read(consumer, len(records))

    assert [(record.key, record.value, list(record.headers)) for record in received] == records


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
async def test_a_compressed_bomb_is_one_record_that_says_so_and_its_neighbours_arrive(
    bus: KafkaBus, topic: str, connection: KafkaConnection, codec: str
) -> None:
    """It ended every worker that had less memory than it inflates to."""
    large = INFLATED_BYTES_MAX + 5_000_000
    options = connection.options() | {"compression_type": codec, "max_request_size": 2 * large}
    async with AIOKafkaProducer(**options) as producer:
        for value in (b"before", b"\0" * large, b"after"):
            await producer.send_and_wait(topic, value, b"k", partition=0)
    consumer = await bus.subscribe("g" + topic, [topic])

    before, bomb, after = await read(consumer, 3)

    assert (before.value, after.value) == (b"before", b"after")
    assert (before.offset, bomb.offset, after.offset) == (0, 1, 2)
    assert f"of {codec} inflate to more than" in (why_set_aside(bomb) or "")
    assert len(bomb.value or b"") <= KEPT_BYTES
    assert why_set_aside(before) is why_set_aside(after) is None


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_what_is_published_compressed_is_read(
    connection: KafkaConnection, topic: str, codec: str
) -> None:
    """By the setting."""
    bus = KafkaBus(connection, consumers=QUICK, compression=codec)
    consumer = await bus.subscribe("g" + topic, [topic])
    await bus.publish([Record(topic, b"k", b"x" * 10_000 + b"%d" % n) for n in range(100)])

    received = await read(consumer, 100)
    await bus.close()

    assert [record.value[10_000:] for record in received] == [b"%d" % n for n in range(100)]


async def test_a_header_name_that_is_no_text_stops_nobody(
    bus: KafkaBus, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record arrives with the name escaped; no neighbour is lost or comes twice."""
    consumer = await bus.subscribe("g" + topic, [topic])
    await bus.publish([Record(topic, b"k", b"before", (), n) for n in range(3)])
    odd = [
        Record(topic, b"k", b"beside", (("fine", b"1"),), 1),
        Record(topic, b"k", b"odd", (("XX-name", b"\xff"),), 1),
        Record(topic, b"k", b"behind", (), 1),
    ]
    await bus.publish(odd)
    spoil(monkeypatch)
    await bus.publish(odd)
    monkeypatch.undo()
    await bus.publish([Record(topic, b"k", b"after", (), n) for n in range(3)])

    received = await read(consumer, 3 + 3 + 3 + 3)

    spoilt = [record for record in received if record.partition == 1]
    assert [record.offset for record in spoilt] == list(range(8))
    assert [record.value for record in spoilt[4:]] == [b"beside", b"odd", b"behind", b"after"]
    assert spoilt[5].headers == (("\\xff\\xfe-name", b"\xff"),)
    assert bus.counts["corrupt_batches_read"] > 0
    assert consumer.stopped == {}


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have header names `XX…` leave as bytes that are no UTF-8, with a checksum that fits."""
    from aiokafka.producer.message_accumulator import BatchBuilder
    from aiokafka.record.util import calc_crc32c

    build = BatchBuilder._build

    def spoilt(self):
        first = self._buffer is None
        buffer = build(self)
        if first and b"XX-name" in buffer:
            changed = bytearray(bytes(buffer).replace(b"XX-name", b"\xff\xfe-name"))
            struct.pack_into(">I", changed, 17, calc_crc32c(bytes(changed[21:])))
            self._buffer = changed
        return self._buffer

    monkeypatch.setattr(BatchBuilder, "_build", spoilt)


async def test_more_than_the_topic_takes_is_refused_before_anything_is_sent(
    connection: KafkaConnection, kafka, namespace: str
) -> None:
    """The topic's own limit counts where it is lower than ours."""
    small = KafkaBus(connection, record_bytes_max=600_000)
    await small.create_topics([TopicSpec(f"{namespace}.s", 1)])
    await small.close()
    large = KafkaBus(connection, record_bytes_max=HUGE)

    with pytest.raises(MessageTooLarge, match="exceeds its limit of"):
        await large.publish(
            [Record(f"{namespace}.s", b"k", b"1"), Record(f"{namespace}.s", b"k", b"x" * 700_000)]
        )

    source = Source(f"{namespace}.s", 0)
    assert await large.bounds([source]) == {source: (0, 0)}
    await large.close()


async def test_a_poisoned_producer_is_replaced(bus: KafkaBus, topic: str) -> None:
    """A batch that has failed for good leaves a gap in the sequence that nothing can fill."""
    await bus.publish([Record(topic, b"k", b"1", (), 0)])
    session = bus._producer._session
    manager = session._producer._txn_manager
    manager.increment_sequence_number(TopicPartition(topic, 0), 7)

    with pytest.raises(BusUnavailable, match=OutOfOrderSequenceNumber.__name__):
        await bus.publish([Record(topic, b"k", b"2", (), 0)])
    await bus.publish([Record(topic, b"k", b"2", (), 0)])

    assert bus._producer._session is not session
    assert bus.counts["producers_replaced"] == 1
    consumer = await bus.subscribe("g" + topic, [topic])
    assert [record.value for record in await read(consumer, 2)] == [b"1", b"2"]


async def test_publishing_is_bounded_while_all_brokers_are_away(own_kafka, namespace: str) -> None:
    """An idempotent producer itself waits for ever, so it is dropped.

    Reading goes on by itself once the brokers are back. Closing does not wait for them either.
    """
    bus = KafkaBus(
        KafkaConnection(servers=(own_kafka.bootstrap,)), consumers=QUICK, publish_timeout_s=1
    )
    topic = f"{namespace}.t"
    await bus.create_topics([TopicSpec(topic, 2)])
    consumer = await bus.subscribe("g", [topic])
    await bus.publish([Record(topic, b"k", b"before")])
    assert len(await read(consumer, 1)) == 1
    own_kafka.kill()

    for _ in range(2):
        async with asyncio.timeout(HANG_S):
            with pytest.raises(BusUnavailable):
                await bus.publish([Record(topic, b"k", b"lost")])
    await asyncio.to_thread(own_kafka.start)
    async with asyncio.timeout(HANG_S):
        while True:
            try:
                await bus.publish([Record(topic, b"k", b"after")])
                break
            except BusUnavailable:
                await asyncio.sleep(0.2)
    received = []
    async with asyncio.timeout(HANG_S):
        while not received:
            try:
                received = await consumer.fetch(records_max=10, timeout_s=0.2)
            except BusUnavailable:
                await asyncio.sleep(0.2)
    assert received[-1].value == b"after"

    own_kafka.kill()
    async with asyncio.timeout(HANG_S):
        await bus.close()


async def test_a_consumer_without_progress_is_made_anew(
    connection: KafkaConnection, topic: str
) -> None:
    """Its fetching has ended without an error, although there are records to read."""
    quick = ConsumerSettings(fetch_wait_ms=50, heartbeat_interval_ms=100, stalled_s=0.5)
    bus = KafkaBus(connection, consumers=quick)
    consumer = await bus.subscribe("g" + topic, [topic])
    await bus.publish([Record(topic, None, b"1", (), 0)])
    await read(consumer, 1)
    await consumer.commit({Source(topic, 0): 1})
    consumer._session.consumer._fetcher._fetch_task.cancel()
    await asyncio.sleep(0.1)
    await bus.publish([Record(topic, None, b"2", (), 0)])

    received = await read(consumer, 1)
    await bus.close()

    assert received[0].value == b"2"
    assert bus.counts["consumers_restarted"] > 0


async def test_a_member_keeps_its_place_through_a_rebalance(bus: KafkaBus, topic: str) -> None:
    """It asks where to begin only in the partitions that are new to it."""
    asked = []

    async def resume_at(sources):
        asked.append(sorted(source.partition for source in sources))
        return {}

    first = await bus.subscribe("g" + topic, [topic], resume_at=resume_at)
    await bus.publish([Record(topic, None, b"", (), n) for n in range(3)])
    await read(first, 3)
    second = await bus.subscribe("g" + topic, [topic], resume_at=resume_at)
    await asyncio.gather(
        fetch_until(second.assignment, second),
        fetch_until(lambda: len(first.assignment()) < 3, first),
    )
    share = sorted(source.partition for source in second.assignment())
    await second.close()
    await bus.publish([Record(topic, None, b"new", (), n) for n in range(3)])

    received = await read(first, 3 + len(share))

    kept = [record.offset for record in received if record.partition not in share]
    assert kept == [1] * (3 - len(share))
    assert asked == [[0, 1, 2], share, share]


async def test_a_commit_for_a_partition_of_others_is_no_error(bus: KafkaBus, topic: str) -> None:
    """It is theirs to commit; of one's own it counts."""
    consumer = await bus.subscribe("g" + topic, [topic])
    await bus.publish([Record(topic, None, b"", (), 0)] * 2)
    await read(consumer, 2)

    await consumer.commit({Source(topic, 99): 1})
    await consumer.commit({Source(topic, 0): 1})
    await consumer.close()

    assert len(await read(await bus.subscribe("g" + topic, [topic]), 1)) == 1


async def test_a_static_member_comes_back_without_a_rebalance(
    connection: KafkaConnection, topic: str
) -> None:
    """Within the session timeout, under the same id."""
    within_ms = round(HANG_S * 1_000)

    async def member(name: str):
        bus = KafkaBus(
            connection,
            consumers=ConsumerSettings(
                fetch_wait_ms=50,
                heartbeat_interval_ms=100,
                session_timeout_ms=within_ms,
                instance_id=name,
            ),
        )
        consumer = await bus.subscribe("g" + topic, [topic])
        await fetch_until(consumer.assignment, consumer)
        return bus, consumer

    def all_are_read(*consumers) -> bool:
        return sum(len(consumer.assignment()) for consumer in consumers) == 3

    first, goes = await member("one")
    second, stays = await member("two")
    await fetch_until(lambda: all_are_read(goes, stays), goes, stays)
    changes = stays._session.generation

    await first.close()
    first, back = await member("one")
    await fetch_until(lambda: all_are_read(back, stays), back, stays)

    assert stays._session.generation == changes
    await first.close()
    await second.close()


async def test_topics_are_described_and_compared(
    connection: KafkaConnection, admin, namespace: str
) -> None:
    """As they were made; topics that are missing, uneven or compacted are named."""
    bus = KafkaBus(connection, replicas=1, record_bytes_max=1_000_000)
    specs = [TopicSpec(f"{namespace}.{name}", 2, 3600) for name in "abc"]
    await bus.create_topics([specs[0], specs[1], TopicSpec(f"{namespace}.c", 3, 60)])
    wanted = [*specs, TopicSpec(f"{namespace}.d", 2, 3600)]

    states = await bus.describe_topics([spec.name for spec in wanted])
    flaws = flaws_of(wanted, states, record_bytes_max=2_000_000)
    await bus.close()

    state = states[f"{namespace}.a"]
    assert (state.partitions, state.replicas, state.retention_s) == (2, 1, 3600)
    made = ("min.insync.replicas", "cleanup.policy", "max.message.bytes")
    assert [state.configs[name] for name in made] == ["1", "delete", str(1_000_000 + 65_536)]
    problems = {(flaw.topic.rpartition(".")[2], flaw.problem.split()[0]) for flaw in flaws}
    assert problems == {
        ("a", "max.message.bytes"),
        ("b", "max.message.bytes"),
        ("c", "max.message.bytes"),
        ("c", "has"),
        ("c", "keeps"),
        ("d", "does"),
    }


async def test_a_consumer_whose_watch_is_cancelled_is_made_anew(bus: KafkaBus, topic: str) -> None:
    """Nobody would see any more that its client stopped fetching."""
    member = await bus.subscribe(f"{topic}.g", [topic])
    await bus.publish([Record(topic, b"k", b"1")])
    await read(member, 1)
    (watch,) = [task for task in asyncio.all_tasks() if task.get_name() == "watchdog"]
    watch.cancel()
    await asyncio.wait([watch])

    await bus.publish([Record(topic, b"k", b"2")])
    # Nothing was committed, so both come from the begin.
    assert [record.value for record in await read(member, 2)] == [b"1", b"2"]
    assert bus.counts["consumers_restarted"] == 1
