"""What every bus must do, one test a sentence of the port; nothing that Kafka could not give.

Subclass `BusSuite` beside a fixture `bus` (empty, no record larger than `record_bytes_max`) and, if
time can be moved, a fixture `expire`: a coroutine function that lets so many seconds pass.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

import pytest

from saga.errors import MessageTooLarge, TopicMissing
from saga.ports.bus import Bus, Inbound, Record, Source, TopicSpec
from saga.testing.group_suite import PAUSE_S, ROUNDS_MAX, GroupSuite

Expire = Callable[[float], Awaitable[None]]


class BusSuite(GroupSuite):
    """The contract of the port `Bus`."""

    record_bytes_max: ClassVar[int] = 10_000

    async def test_a_record_arrives_byte_for_byte(self, bus: Bus) -> None:
        """Nulls, empty values, repeated header names and any bytes come as they are."""
        await bus.create_topics([TopicSpec("odd", 1)])
        records = [
            Record("odd", None, None),
            Record("odd", b"", b"", ()),
            Record("odd", b"\xff\x00", b"\x80\x1f\x00", (("a", b"1"), ("b", None), ("a", b"\xff"))),
            Record("odd", b"k", b"{}", (("ce_id", b"1"), ("é", "ü".encode()), ("x", b"\x1f"))),
            Record("odd", b"k", None, (("only", None), ("empty", b""))),
        ]
        consumer = await bus.subscribe("g", ["odd"])
        await bus.publish(records)

        found = await self.read(consumer, 5)

        assert [_content(each) for each in found] == [_content(each) for each in records]
        assert [each.offset for each in found] == [0, 1, 2, 3, 4]
        assert all(each.position == ("odd", 0, each.offset) for each in found)
        assert all(each.timestamp > 0 for each in found)

    async def test_what_was_published_before_is_read_the_same(self, bus: Bus) -> None:
        """Whether a consumer was there at the time makes no difference."""
        await bus.create_topics([TopicSpec("t", 3)])
        early = await bus.subscribe("early", ["t"])
        await self.settle([early], ["t"])
        await bus.publish(
            [Record("t", b"k%d" % n, b"\x00%d" % n, (("h", None),)) for n in range(40)]
        )
        late = await bus.subscribe("late", ["t"])

        assert _by_source(await self.read(early, 40)) == _by_source(await self.read(late, 40))

    async def test_order_holds_within_a_partition(self, bus: Bus) -> None:
        """Offsets are consecutive, and records come in the order in which they were published."""
        await bus.create_topics([TopicSpec("t", 4)])
        consumer = await bus.subscribe("g", ["t"])
        values = [b"%d" % number for number in range(200)]
        for start in range(0, 200, 20):
            await bus.publish([Record("t", b"k" + v[-1:], v) for v in values[start : start + 20]])

        found = await self.read(consumer, 200)

        for source, records in _by_source(found).items():
            assert [each.offset for each in records] == list(range(len(records))), source
            numbers = [int(each.value or b"") for each in records]
            assert numbers == sorted(numbers)
        assert sorted(each.value or b"" for each in found) == sorted(values)

    async def test_a_key_chooses_the_partition_as_kafka_does(self, bus: Bus) -> None:
        """Equal keys meet in one partition: the one that Kafka's own clients choose (murmur2)."""
        await bus.create_topics([TopicSpec("t", 7)])
        consumer = await bus.subscribe("g", ["t"])
        chosen = {b"21": 3, b"foobar": 0, b"a-little-bit-long-string": 1, b"order-1": 4, b"": 2}
        await bus.publish([Record("t", key, b"") for key in chosen for _ in range(3)])

        found = await self.read(consumer, 15)

        assert {each.key: each.partition for each in found} == chosen
        assert len({(each.key, each.partition) for each in found}) == len(chosen)

    async def test_a_record_may_name_its_partition(self, bus: Bus) -> None:
        """Then the key does not matter."""
        await bus.create_topics([TopicSpec("t", 4)])
        consumer = await bus.subscribe("g", ["t"])
        await bus.publish([Record("t", b"same", b"", (), number % 4) for number in range(8)])

        found = await self.read(consumer, 8)

        assert sorted(each.partition for each in found) == [0, 0, 1, 1, 2, 2, 3, 3]

    async def test_publishing_to_an_unknown_topic_publishes_nothing(self, bus: Bus) -> None:
        """Not even the records before it."""
        await bus.create_topics([TopicSpec("t", 1)])

        with pytest.raises(TopicMissing) as missing:
            await bus.publish([Record("t", b"k", b"1"), Record("nowhere", b"k", b"2")])

        assert (missing.value.topic, missing.value.partition) == ("nowhere", None)
        assert await bus.bounds([Source("t", 0)]) == {Source("t", 0): (0, 0)}

    async def test_bounds_of_a_missing_source_name_it(self, bus: Bus) -> None:
        """A topic that is not there, and a partition that a topic does not have."""
        await bus.create_topics([TopicSpec("t", 1)])

        for source in (Source("nowhere", 0), Source("t", 1)):
            with pytest.raises(TopicMissing) as missing:
                await bus.bounds([Source("t", 0), source])
            assert (missing.value.topic, missing.value.partition) == source

    async def test_too_large_a_record_publishes_nothing(self, bus: Bus) -> None:
        """Headers count as well; the records beside it are not published either."""
        await bus.create_topics([TopicSpec("t", 1)])
        large = b"x" * (self.record_bytes_max + 1)

        for record in (Record("t", b"k", large), Record("t", b"k", b"", (("h", large),))):
            with pytest.raises(MessageTooLarge):
                await bus.publish([Record("t", b"k", b"1"), record])

        assert await bus.bounds([Source("t", 0)]) == {Source("t", 0): (0, 0)}

    async def test_creating_a_topic_again_changes_nothing(self, bus: Bus) -> None:
        """Its records and its number of partitions stay."""
        await bus.create_topics([TopicSpec("t", 2)])
        await bus.publish([Record("t", b"k", b"1", (), 1)])

        await bus.create_topics([TopicSpec("t", 5), TopicSpec("u", 1)])

        consumer = await bus.subscribe("g", ["t", "u"])
        assert await self.settle([consumer], []) == {
            Source("t", 0),
            Source("t", 1),
            Source("u", 0),
        }
        assert await bus.bounds([Source("t", 1)]) == {Source("t", 1): (0, 1)}

    async def test_bounds_are_the_first_kept_and_the_next_offset(self, bus: Bus) -> None:
        """Both 0 for an empty partition; each partition has its own."""
        await bus.create_topics([TopicSpec("t", 2)])
        await bus.publish([Record("t", None, b"", (), 1)] * 3)

        bounds = await bus.bounds([Source("t", 0), Source("t", 1)])

        assert bounds == {Source("t", 0): (0, 0), Source("t", 1): (0, 3)}

    async def test_seek_reads_on_from_there(self, bus: Bus) -> None:
        """Back and forward; what was buffered of that source is dropped, other sources go on."""
        await bus.create_topics([TopicSpec("t", 2)])
        consumer = await bus.subscribe("g", ["t"])
        await self.settle([consumer], ["t"])
        await bus.publish([Record("t", None, b"", (), number % 2) for number in range(20)])
        taken = await self.read(consumer, 1, records_max=1)

        await consumer.seek({Source("t", 0): 8})
        left = 2 + 10 - sum(each.partition for each in taken)
        found = _by_source([*taken, *await self.read(consumer, left)])
        assert [each.offset for each in found[Source("t", 1)]] == list(range(10))
        assert [each.offset for each in found[Source("t", 0)]][-2:] == [8, 9]

        await consumer.seek({Source("t", 0): 0})
        assert [each.offset for each in await self.read(consumer, 10)] == list(range(10))

    async def test_a_fetch_returns_no_more_than_asked_for(self, bus: Bus) -> None:
        """The rest comes with the next ones."""
        await bus.create_topics([TopicSpec("t", 3)])
        consumer = await bus.subscribe("g", ["t"])
        await bus.publish([Record("t", b"%d" % number, b"") for number in range(25)])

        sizes: list[int] = []
        for _ in range(ROUNDS_MAX):
            sizes.append(len(await consumer.fetch(records_max=4, timeout_s=self.fetch_timeout_s)))
            if sum(sizes) == 25:
                break

        assert sum(sizes) == 25
        assert max(sizes) <= 4

    async def test_a_fetch_of_nothing_is_empty(self, bus: Bus) -> None:
        """After its timeout, if not at once."""
        await bus.create_topics([TopicSpec("t", 1)])
        consumer = await bus.subscribe("g", ["t"])
        await self.settle([consumer], ["t"])

        assert await consumer.fetch(records_max=1, timeout_s=self.fetch_timeout_s) == []

    async def test_a_waiting_fetch_is_woken_by_a_record(self, bus: Bus) -> None:
        """It does not sleep through its timeout."""
        await bus.create_topics([TopicSpec("t", 1)])
        consumer = await bus.subscribe("g", ["t"])
        await self.settle([consumer], ["t"])
        waiting = asyncio.create_task(consumer.fetch(records_max=1, timeout_s=60))
        await asyncio.sleep(PAUSE_S)

        await bus.publish([Record("t", b"k", b"1")])

        async with asyncio.timeout(30):
            assert [each.value for each in await waiting] == [b"1"]

    async def test_retention_moves_the_begin(self, bus: Bus, expire: Expire) -> None:
        """Old records go, offsets stay: the next record gets the next number, and a group that has
        committed nothing begins at what is left. None keeps records for ever.
        """
        await bus.create_topics([TopicSpec("t", 1, 60), TopicSpec("kept", 1, None)])
        source, kept = Source("t", 0), Source("kept", 0)
        await bus.publish([Record("t", None, b"old"), Record("kept", None, b"old")] * 3)
        await expire(50)
        await bus.publish([Record("t", None, b"new")])

        await expire(20)
        assert await bus.bounds([source, kept]) == {source: (3, 4), kept: (0, 3)}
        (record,) = await self.read(await bus.subscribe("g", ["t"]), 1)
        assert (record.offset, record.value) == (3, b"new")

        await expire(1000)
        assert await bus.bounds([source]) == {source: (4, 4)}
        await bus.publish([Record("t", None, b"newest")])
        assert await bus.bounds([source]) == {source: (4, 5)}

    async def test_records_arrive_in_order_whatever_else_happens(self, bus: Bus) -> None:
        """Publishers, slow readers and seeks at random: per partition no record is skipped."""
        await bus.create_topics([TopicSpec("t", 3)])
        chance = random.Random(7)
        consumer = await bus.subscribe("g", ["t"])
        await self.settle([consumer], ["t"])
        expected = dict.fromkeys((Source("t", number) for number in range(3)), 0)
        published = 0
        for _ in range(60):
            count = chance.randrange(30)
            await bus.publish([Record("t", b"%d" % chance.randrange(9), b"")] * count)
            published += count
            for each in await consumer.fetch(records_max=chance.randrange(1, 40), timeout_s=0):
                source = Source(each.topic, each.partition)
                assert each.offset == expected[source]
                expected[source] += 1
            if chance.random() < 0.1:
                source = chance.choice(sorted(expected))
                expected[source] = chance.randrange(expected[source] + 1)
                await consumer.seek({source: expected[source]})
        ends = await bus.bounds(sorted(expected))
        left = sum(end - expected[source] for source, (_, end) in ends.items())

        for each in await self.read(consumer, left) if left else []:
            source = Source(each.topic, each.partition)
            assert each.offset == expected[source]
            expected[source] += 1

        assert sum(end for _, end in ends.values()) == published
        assert expected == {source: end for source, (_, end) in ends.items()}


def _content(record: Record | Inbound) -> tuple[object, ...]:
    return record.topic, record.key, record.value, record.headers


def _by_source(records: Sequence[Inbound]) -> dict[Source, list[Inbound]]:
    found: dict[Source, list[Inbound]] = {}
    for each in records:
        found.setdefault(Source(each.topic, each.partition), []).append(each)
    return found
