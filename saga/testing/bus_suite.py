"""What every bus must do, one test a sentence of the port; nothing that Kafka could not give.

Subclass `BusSuite` beside a fixture `bus` (empty, no record larger than `record_bytes_max`) and, if
time can be moved, a fixture `expire`: a coroutine function that lets so many seconds pass.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import pytest

from saga.errors import MessageTooLarge, TopicMissing
from saga.ports.bus import STOPPED_S, Bus, Consumer, Inbound, Record, Source, TopicSpec
from saga.testing.samples import said

Expire = Callable[[float], Awaitable[None]]
HANG_S = 120.0
"""What a bus has not done after this time it never does, however busy the machine is."""
PAUSE_S = 0.005
T0, T1, T2 = (Source("t", number) for number in range(3))


class BusSuite:
    record_bytes_max: ClassVar[int] = 10_000
    fetch_timeout_s: ClassVar[float] = 0.02

    async def test_a_record_arrives_byte_for_byte(self, bus: Bus) -> None:
        """Nulls, empty values, repeated header names and any bytes come as they are."""
        consumer = await _reader(bus, 1)
        records = [
            Record("t", None, None),
            Record("t", b"", b"", ()),
            Record("t", b"\xff\x00", b"\x80\x1f\x00", (("a", b"1"), ("b", None), ("a", b"\xff"))),
            Record("t", b"k", b"{}", (("ce_id", b"1"), ("é", "ü".encode()), ("x", b"\x1f"))),
            Record("t", b"k", None, (("only", None), ("empty", b""))),
            *[Record("t", key, b"{}", said()) for key in (b"k", None, b"\xff")],
        ]
        await bus.publish(records)

        found = await self.read(consumer, 8)
        late = await self.read(await bus.subscribe("late", ["t"]), 8)

        assert [_content(each) for each in found] == [_content(each) for each in records]
        assert [_content(each) for each in late] == [_content(each) for each in records]
        assert [each.position for each in found] == [("t", 0, offset) for offset in range(8)]
        assert all(each.timestamp > 0 for each in found)

    async def test_what_was_published_before_is_read_the_same(self, bus: Bus) -> None:
        """Whether a consumer was there at the time makes no difference."""
        early = await _reader(bus, 3)
        await self.settle([early], ["t"])
        await bus.publish(
            [Record("t", b"k%d" % n, b"\x00%d" % n, (("h", None),)) for n in range(40)]
        )
        late = await bus.subscribe("late", ["t"])

        assert _by_source(await self.read(early, 40)) == _by_source(await self.read(late, 40))

    async def test_order_holds_within_a_partition(self, bus: Bus) -> None:
        """Offsets are consecutive, and records come in the order in which they were published."""
        consumer = await _reader(bus, 4)
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
        consumer = await _reader(bus, 7)
        chosen = {b"21": 3, b"foobar": 0, b"a-little-bit-long-string": 1, b"order-1": 4, b"": 2}
        await bus.publish([Record("t", key, b"") for key in chosen for _ in range(3)])

        found = await self.read(consumer, 15)

        assert {(each.key, each.partition) for each in found} == set(chosen.items())

    async def test_a_record_may_name_its_partition(self, bus: Bus) -> None:
        """Then the key does not matter."""
        consumer = await _reader(bus, 4)
        await bus.publish([Record("t", b"same", b"", (), number % 4) for number in range(8)])

        found = await self.read(consumer, 8)

        assert sorted(each.partition for each in found) == [0, 0, 1, 1, 2, 2, 3, 3]

    async def test_publishing_to_an_unknown_topic_publishes_nothing(self, bus: Bus) -> None:
        """Not even the records before it."""
        await bus.create_topics([TopicSpec("t", 1)])

        with pytest.raises(TopicMissing) as missing:
            await bus.publish([Record("t", b"k", b"1"), Record("nowhere", b"k", b"2")])

        assert (missing.value.topic, missing.value.partition) == ("nowhere", None)
        assert await bus.bounds([T0]) == {T0: (0, 0)}

    async def test_bounds_of_a_missing_source_name_it(self, bus: Bus) -> None:
        """A topic that is not there, and a partition that a topic does not have."""
        await bus.create_topics([TopicSpec("t", 1)])

        for source in (Source("nowhere", 0), T1):
            with pytest.raises(TopicMissing) as missing:
                await bus.bounds([T0, source])
            assert (missing.value.topic, missing.value.partition) == source

    async def test_too_large_a_record_publishes_nothing(self, bus: Bus) -> None:
        """Headers count as well; the records beside it are not published either."""
        await bus.create_topics([TopicSpec("t", 1)])
        large = b"x" * (self.record_bytes_max + 1)

        for record in (Record("t", b"k", large), Record("t", b"k", b"", (("h", large),))):
            with pytest.raises(MessageTooLarge):
                await bus.publish([Record("t", b"k", b"1"), record])

        assert await bus.bounds([T0]) == {T0: (0, 0)}

    async def test_creating_a_topic_again_changes_nothing(self, bus: Bus) -> None:
        """Its records and its number of partitions stay."""
        await bus.create_topics([TopicSpec("t", 2)])
        await bus.publish([Record("t", b"k", b"1", (), 1)])

        await bus.create_topics([TopicSpec("t", 5), TopicSpec("u", 1)])

        consumer = await bus.subscribe("g", ["t", "u"])
        assert await self.settle([consumer], []) == {T0, T1, Source("u", 0)}
        assert await bus.bounds([T1]) == {T1: (0, 1)}

    async def test_bounds_are_the_first_kept_and_the_next_offset(self, bus: Bus) -> None:
        """Both 0 for an empty partition; each partition has its own."""
        await bus.create_topics([TopicSpec("t", 2)])
        await bus.publish([Record("t", None, b"", (), 1)] * 3)

        assert await bus.bounds([T0, T1]) == {T0: (0, 0), T1: (0, 3)}

    async def test_seek_reads_on_from_there(self, bus: Bus) -> None:
        """Back and forward; what was buffered of that source is dropped, other sources go on."""
        consumer = await _reader(bus, 2)
        await self.settle([consumer], ["t"])
        await bus.publish([Record("t", None, b"", (), number % 2) for number in range(20)])
        taken = await self.read(consumer, 1, records_max=1)

        await consumer.seek({T0: 8})
        left = 2 + 10 - sum(each.partition for each in taken)
        found = _by_source([*taken, *await self.read(consumer, left)])
        assert [each.offset for each in found[T1]] == list(range(10))
        assert [each.offset for each in found[T0]][-2:] == [8, 9]

        await consumer.seek({T0: 0})
        assert [each.offset for each in await self.read(consumer, 10)] == list(range(10))

    async def test_a_fetch_returns_no_more_than_asked_for(self, bus: Bus) -> None:
        """The rest comes with the next ones."""
        consumer = await _reader(bus, 3)
        await bus.publish([Record("t", b"%d" % number, b"") for number in range(25)])

        sizes: list[int] = []
        for _ in _rounds():
            sizes.append(len(await consumer.fetch(records_max=4, timeout_s=self.fetch_timeout_s)))
            if sum(sizes) == 25:
                break

        assert sum(sizes) == 25
        assert max(sizes) <= 4

    async def test_a_fetch_of_nothing_is_empty(self, bus: Bus) -> None:
        """After its timeout, if not at once."""
        consumer = await _reader(bus, 1)
        await self.settle([consumer], ["t"])

        assert await consumer.fetch(records_max=1, timeout_s=self.fetch_timeout_s) == []

    async def test_a_waiting_fetch_is_woken_by_a_record(self, bus: Bus) -> None:
        """It does not sleep through its timeout."""
        consumer = await _reader(bus, 1)
        await self.settle([consumer], ["t"])
        waiting = asyncio.create_task(consumer.fetch(records_max=1, timeout_s=2 * HANG_S))
        await asyncio.sleep(PAUSE_S)

        await bus.publish([Record("t", b"k", b"1")])

        async with asyncio.timeout(HANG_S):
            assert [each.value for each in await waiting] == [b"1"]

    async def test_retention_moves_the_begin(self, bus: Bus, expire: Expire) -> None:
        """Offsets stay, a new group begins at what is left, and None keeps records for ever."""
        await bus.create_topics([TopicSpec("t", 1, 60), TopicSpec("kept", 1, None)])
        kept = Source("kept", 0)
        await bus.publish([Record("t", None, b"old"), Record("kept", None, b"old")] * 3)
        await expire(50)
        await bus.publish([Record("t", None, b"new")])

        await expire(20)
        assert await bus.bounds([T0, kept]) == {T0: (3, 4), kept: (0, 3)}
        (record,) = await self.read(await bus.subscribe("g", ["t"]), 1)
        assert (record.offset, record.value) == (3, b"new")

        await expire(1000)
        assert await bus.bounds([T0]) == {T0: (4, 4)}
        await bus.publish([Record("t", None, b"newest")])
        assert await bus.bounds([T0]) == {T0: (4, 5)}

    async def test_records_arrive_in_order_whatever_else_happens(self, bus: Bus) -> None:
        """Publishers, slow readers and seeks at random: per partition no record is skipped."""
        chance = random.Random(7)
        consumer = await _reader(bus, 3)
        await self.settle([consumer], ["t"])
        expected = dict.fromkeys((T0, T1, T2), 0)
        published = 0

        def check(records: Sequence[Inbound]) -> None:
            for each in records:
                assert each.offset == expected[_source(each)]
                expected[_source(each)] += 1

        for _ in range(60):
            count = chance.randrange(30)
            await bus.publish([Record("t", b"%d" % chance.randrange(9), b"")] * count)
            published += count
            check(await consumer.fetch(records_max=chance.randrange(1, 40), timeout_s=0))
            if chance.random() < 0.1:
                source = chance.choice(sorted(expected))
                expected[source] = chance.randrange(expected[source] + 1)
                await consumer.seek({source: expected[source]})
        ends = {source: end for source, (_, end) in (await bus.bounds(sorted(expected))).items()}
        left = sum(ends.values()) - sum(expected.values())
        check(await self.read(consumer, left) if left else [])

        assert sum(ends.values()) == published
        assert expected == ends

    async def test_groups_read_independently(self, bus: Bus) -> None:
        """Each group gets everything."""
        one = await _reader(bus, 2)
        two = await bus.subscribe("two", ["t"])
        await bus.publish([Record("t", b"%d" % number, b"") for number in range(10)])

        assert len(await self.read(one, 10)) == 10
        assert len(await self.read(two, 10)) == 10

    async def test_members_share_partitions_by_range(self, bus: Bus) -> None:
        """Each partition has one reader, and equal partition numbers of all topics the same one."""
        await bus.create_topics([TopicSpec("t", 5), TopicSpec("u", 5)])
        members = [await bus.subscribe("g", ["t", "u"]) for _ in range(2)]

        assert len(await self.settle(members, ["t", "u"])) == 10

        shares = [member.assignment() for member in members]
        assert sorted(len(share) for share in shares) == [4, 6]
        for share in shares:
            numbers = {topic: {s.partition for s in share if s.topic == topic} for topic in "tu"}
            assert numbers["t"] == numbers["u"]

    async def test_members_read_each_record_once_while_none_comes_or_goes(self, bus: Bus) -> None:
        """Together they read everything, and nothing twice."""
        await bus.create_topics([TopicSpec("t", 4)])
        members = [await bus.subscribe("g", ["t"]) for _ in range(3)]
        await self.settle(members, ["t"])
        await bus.publish([Record("t", b"%d" % number, b"%d" % number) for number in range(60)])

        found: list[Inbound] = []
        for _ in _rounds():
            for member in members:
                found += await member.fetch(records_max=7, timeout_s=0)
            if len(found) >= 60:
                break
            await asyncio.sleep(PAUSE_S)

        assert sorted(int(each.value or b"") for each in found) == list(range(60))

    async def test_more_members_than_partitions_leave_some_idle(self, bus: Bus) -> None:
        """An idle member has no assignment and gets nothing."""
        members = [await _reader(bus, 1) for _ in range(2)]
        await self.settle(members, ["t"], idle=1)

        assert sorted(len(member.assignment()) for member in members) == [0, 1]

    async def test_who_closes_leaves_the_group_at_once(self, bus: Bus) -> None:
        """The others take over where the group had committed, and the closed one reads nothing."""
        first, second = [await _reader(bus, 2) for _ in range(2)]
        await self.settle([first, second], ["t"])
        await bus.publish([Record("t", None, b"%d" % n, (), n % 2) for n in range(6)])
        gone, stays = (first, second) if T0 in first.assignment() else (second, first)
        await self.read(gone, 3)
        await self.read(stays, 3)
        await gone.commit({T0: 2})

        await gone.close()
        await self.settle([stays], ["t"])

        (record,) = await self.read(stays, 1)
        assert record.position == ("t", 0, 2)
        assert gone.assignment() == frozenset()
        assert await gone.fetch(records_max=10, timeout_s=0) == []
        await gone.close()

    async def test_a_group_begins_where_it_has_committed(self, bus: Bus) -> None:
        """The next offset of each source; without one, the first record kept."""
        first = await self._has_read(bus, 10, partitions=2)
        await first.commit({T1: 4})
        await first.close()

        found = await self.read(await bus.subscribe("g", ["t"]), 6)

        rest = [("t", 0, offset) for offset in range(5)]
        assert sorted(each.position for each in found) == [*rest, ("t", 1, 4)]

    async def test_a_commit_may_go_back(self, bus: Bus) -> None:
        """The last word counts, forward or back."""
        first = await self._has_read(bus, 5, partitions=1)
        await first.commit({T0: 5})
        await first.commit({T0: 3})
        await first.close()

        found = await self.read(await bus.subscribe("g", ["t"]), 2)

        assert [each.offset for each in found] == [3, 4]

    async def test_resume_at_decides_where_to_begin(self, bus: Bus) -> None:
        """It is asked for what is assigned; what it leaves out starts at the begin."""
        first = await self._has_read(bus, 8, partitions=2)
        await first.commit({T0: 4, T1: 4})
        await first.close()
        asked: list[Source] = []

        async def resume_at(sources: Sequence[Source]) -> Mapping[Source, int]:
            asked.extend(sources)
            return {T0: 3}

        found = await self.read(await bus.subscribe("g", ["t"], resume_at=resume_at), 5)

        assert set(asked) == {T0, T1}
        rest = [("t", 1, offset) for offset in range(4)]
        assert sorted(each.position for each in found) == [("t", 0, 3), *rest]

    async def test_a_resume_at_that_fails_is_asked_again(self, bus: Bus) -> None:
        """Nothing is read before it has answered; its error reaches whoever fetches."""
        await bus.create_topics([TopicSpec("t", 1)])
        await bus.publish([Record("t", None, b"")] * 2)
        is_away = iter([True, False])

        async def resume_at(_: Sequence[Source]) -> Mapping[Source, int]:
            if next(is_away):
                raise LookupError("the store is away")
            return {T0: 1}

        consumer = await bus.subscribe("g", ["t"], resume_at=resume_at)
        with pytest.raises(LookupError):
            await self.read(consumer, 1)

        assert [each.offset for each in await self.read(consumer, 1)] == [1]

    async def test_a_source_whose_place_is_lost_stops_alone(self, bus: Bus) -> None:
        """It is said which one and why, nothing of it is read, and all others go on."""
        await bus.create_topics([TopicSpec("t", 3)])
        await bus.publish([Record("t", None, b"%d" % n, (), n % 3) for n in range(6)])

        async def resume_at(_: Sequence[Source]) -> Mapping[Source, int]:
            return {T0: 7, T1: 1, T2: 2}

        consumer = await bus.subscribe("g", ["t"], resume_at=resume_at)

        assert [each.value for each in await self.read(consumer, 1)] == [b"4"]
        assert consumer.assignment() == {T1, T2}
        assert list(consumer.stopped) == [T0]
        assert "t[0] ends at 2, but 6 was handled" in consumer.stopped[T0]
        await bus.publish([Record("t", None, b"new", (), number) for number in range(3)])
        assert sorted(each.partition for each in await self.read(consumer, 2)) == [1, 2]

    async def test_a_source_is_judged_again_until_it_may_be_read(self, bus: Bus) -> None:
        """`resume_at` may say why not; it is asked again, now and then, and all others go on."""
        await bus.create_topics([TopicSpec("t", 2)])
        await bus.publish([Record("t", None, b"%d" % n, (), n) for n in range(2)])
        why: dict[Source, int | str] = {T0: "an operator has to look at it"}

        async def resume_at(sources: Sequence[Source]) -> Mapping[Source, int | str]:
            return {source: why.get(source, 0) for source in sources}

        consumer = await bus.subscribe("g", ["t"], resume_at=resume_at)
        assert [each.value for each in await self.read(consumer, 1)] == [b"1"]
        assert consumer.assignment() == {T1}
        assert consumer.stopped == why

        why.clear()
        await self.let_pass(bus, STOPPED_S)

        assert [each.value for each in await self.read(consumer, 1)] == [b"0"]
        assert consumer.assignment() == {T0, T1}
        assert consumer.stopped == {}

    async def test_a_topic_has_an_origin_that_stays(self, bus: Bus) -> None:
        """Each topic its own, all the same cluster; one that is not there has none."""
        await bus.create_topics([TopicSpec("t", 2), TopicSpec("u", 1)])
        found = await bus.origins(["t", "u", "missing"])
        await bus.create_topics([TopicSpec("t", 2), TopicSpec("later", 1)])
        await bus.publish([Record("t", b"k", b"1")])

        assert await bus.origins(["t"]) == {"t": found["t"]}
        assert found.keys() == {"t", "u"}
        assert found["t"].topic_id != found["u"].topic_id
        assert found["t"].cluster_id == found["u"].cluster_id
        assert None not in (*found["t"], *found["u"])
        assert await bus.origins([]) == {}

    async def test_a_topic_that_comes_later_is_read(self, bus: Bus) -> None:
        """Members that asked for it get its partitions once it exists."""
        await bus.create_topics([TopicSpec("t", 1)])
        consumer = await bus.subscribe("g", ["t", "later"])
        await self.settle([consumer], ["t"])

        await bus.create_topics([TopicSpec("later", 2)])
        await bus.publish([Record("later", b"k", b"1")])

        assert [each.topic for each in await self.read(consumer, 1)] == ["later"]

    async def let_pass(self, bus: Bus, seconds: float) -> None:
        """Move the clock of *bus*, where that can be done."""

    async def read(
        self, consumer: Consumer, count: int, *, records_max: int = 100
    ) -> list[Inbound]:
        """Fetch until there are *count* records; there must not be more."""
        found: list[Inbound] = []
        for _ in _rounds():
            found += await consumer.fetch(records_max=records_max, timeout_s=self.fetch_timeout_s)
            if len(found) >= count:
                break
            await asyncio.sleep(PAUSE_S if self.fetch_timeout_s else 0)
        assert len(found) == count, f"{len(found)} records, not {count}: {found[:5]}"
        return found

    async def settle(
        self, members: Sequence[Consumer], topics: Sequence[str], *, idle: int = 0
    ) -> frozenset[Source]:
        """Fetch, expecting nothing, until all members but *idle* of them have a share, and these
        stay as they are; gives them.
        """
        calm = 0
        before: list[frozenset[Source]] = []
        for _ in _rounds():
            for member in members:
                await member.seek({})
                if not member.assignment() or calm < 2:
                    await _expect_nothing(member)
            shares = [member.assignment() for member in members]
            found = frozenset[Source]().union(*shares)
            is_whole = {source.topic for source in found} >= set(topics)
            is_shared = shares.count(frozenset()) == idle
            calm = calm + 1 if shares == before and is_whole and is_shared else 0
            before = shares
            if calm >= 3:
                assert sum(map(len, shares)) == len(found), "a partition has two readers"
                return found
            await asyncio.sleep(PAUSE_S if self.fetch_timeout_s else 0)
        raise AssertionError(f"the group does not come to rest: {before}")

    async def _has_read(self, bus: Bus, count: int, *, partitions: int) -> Consumer:
        """A reader of `t` that has read *count* records, spread over its partitions."""
        reader = await _reader(bus, partitions)
        records = [Record("t", None, b"", (), number % partitions) for number in range(count)]
        await bus.publish(records)
        await self.read(reader, count)
        return reader


def _rounds() -> Iterator[None]:
    ending_s = time.monotonic() + HANG_S
    while time.monotonic() < ending_s:
        yield


async def _reader(bus: Bus, partitions: int) -> Consumer:
    await bus.create_topics([TopicSpec("t", partitions)])
    return await bus.subscribe("g", ["t"])


async def _expect_nothing(member: Consumer) -> None:
    found = await member.fetch(records_max=1, timeout_s=0)
    for record in found:  # put back what belongs to the test
        await member.seek({_source(record): record.offset})


def _source(record: Inbound) -> Source:
    return Source(record.topic, record.partition)


def _content(record: Record | Inbound) -> tuple[object, ...]:
    return record.topic, record.key, record.value, tuple(record.headers)


def _by_source(records: Sequence[Inbound]) -> dict[Source, list[Inbound]]:
    found: dict[Source, list[Inbound]] = {}
    for each in records:
        found.setdefault(_source(each), []).append(each)
    return found
