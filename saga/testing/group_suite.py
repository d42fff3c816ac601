"""What every consumer group must do: sharing out, taking over, beginning where it left off.

A part of `BusSuite`; a suite of its own only because it is long.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest

from saga.ports.bus import Bus, Consumer, Inbound, Record, Source, TopicSpec

ROUNDS_MAX = 600
PAUSE_S = 0.005


class GroupSuite:
    """The contract of consumer groups. `read` and `settle` wait for groups to come to rest."""

    fetch_timeout_s: ClassVar[float] = 0.02

    async def test_groups_read_independently(self, bus: Bus) -> None:
        """Each group gets everything."""
        await bus.create_topics([TopicSpec("t", 2)])
        one, two = await bus.subscribe("one", ["t"]), await bus.subscribe("two", ["t"])
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
        for _ in range(ROUNDS_MAX):
            for member in members:
                found += await member.fetch(records_max=7, timeout_s=0)
            if len(found) >= 60:
                break
            await asyncio.sleep(PAUSE_S)

        assert sorted(int(each.value or b"") for each in found) == list(range(60))

    async def test_more_members_than_partitions_leave_some_idle(self, bus: Bus) -> None:
        """An idle member has no assignment and gets nothing."""
        await bus.create_topics([TopicSpec("t", 1)])
        members = [await bus.subscribe("g", ["t"]) for _ in range(2)]
        await self.settle(members, ["t"])

        assert sorted(len(member.assignment()) for member in members) == [0, 1]

    async def test_who_closes_leaves_the_group_at_once(self, bus: Bus) -> None:
        """The others take over where the group had committed, and the closed one reads nothing."""
        await bus.create_topics([TopicSpec("t", 2)])
        first, second = [await bus.subscribe("g", ["t"]) for _ in range(2)]
        await self.settle([first, second], ["t"])
        await bus.publish([Record("t", None, b"%d" % n, (), n % 2) for n in range(6)])
        gone, stays = (first, second) if Source("t", 0) in first.assignment() else (second, first)
        await self.read(gone, 3)
        await self.read(stays, 3)
        await gone.commit({Source("t", 0): 2})

        await gone.close()
        await self.settle([stays], ["t"])

        (record,) = await self.read(stays, 1)
        assert record.position == ("t", 0, 2)
        assert gone.assignment() == frozenset()
        assert await gone.fetch(records_max=10, timeout_s=0) == []
        await gone.close()

    async def test_a_group_begins_where_it_has_committed(self, bus: Bus) -> None:
        """The next offset of each source; without one, the first record kept."""
        await bus.create_topics([TopicSpec("t", 2)])
        await bus.publish([Record("t", None, b"", (), number % 2) for number in range(10)])
        first = await bus.subscribe("g", ["t"])
        await self.read(first, 10)
        await first.commit({Source("t", 1): 4})
        await first.close()

        found = await self.read(await bus.subscribe("g", ["t"]), 6)

        assert sorted(each.position for each in found) == [
            *(("t", 0, offset) for offset in range(5)),
            ("t", 1, 4),
        ]

    async def test_a_commit_may_go_back(self, bus: Bus) -> None:
        """The last word counts, forward or back."""
        await bus.create_topics([TopicSpec("t", 1)])
        await bus.publish([Record("t", None, b"")] * 5)
        first = await bus.subscribe("g", ["t"])
        await self.read(first, 5)
        await first.commit({Source("t", 0): 5})
        await first.commit({Source("t", 0): 3})
        await first.close()

        found = await self.read(await bus.subscribe("g", ["t"]), 2)

        assert [each.offset for each in found] == [3, 4]

    async def test_resume_at_decides_where_to_begin(self, bus: Bus) -> None:
        """It is asked for what is assigned; what it leaves out starts at the begin."""
        await bus.create_topics([TopicSpec("t", 2)])
        await bus.publish([Record("t", None, b"", (), number % 2) for number in range(8)])
        first = await bus.subscribe("g", ["t"])
        await self.read(first, 8)
        await first.commit({Source("t", 0): 4, Source("t", 1): 4})
        await first.close()
        asked: list[Source] = []

        async def resume_at(sources: Sequence[Source]) -> Mapping[Source, int]:
            asked.extend(sources)
            return {Source("t", 0): 3}

        found = await self.read(await bus.subscribe("g", ["t"], resume_at=resume_at), 5)

        assert set(asked) == {Source("t", 0), Source("t", 1)}
        assert sorted(each.position for each in found) == [
            ("t", 0, 3),
            *(("t", 1, offset) for offset in range(4)),
        ]

    async def test_a_resume_at_that_fails_is_asked_again(self, bus: Bus) -> None:
        """Nothing is read before it has answered; its error reaches whoever fetches."""
        await bus.create_topics([TopicSpec("t", 1)])
        await bus.publish([Record("t", None, b"")] * 2)
        is_away = iter([True, False])

        async def resume_at(_: Sequence[Source]) -> Mapping[Source, int]:
            if next(is_away):
                raise LookupError("the store is away")
            return {Source("t", 0): 1}

        consumer = await bus.subscribe("g", ["t"], resume_at=resume_at)
        with pytest.raises(LookupError):
            await self.read(consumer, 1)

        assert [each.offset for each in await self.read(consumer, 1)] == [1]

    async def test_a_source_whose_place_is_lost_stops_alone(self, bus: Bus) -> None:
        """The topic was made anew, or retention was faster: it is said which one and why, nothing
        of it is read, and all others go on.
        """
        await bus.create_topics([TopicSpec("t", 3)])
        await bus.publish([Record("t", None, b"%d" % n, (), n % 3) for n in range(6)])

        async def resume_at(_: Sequence[Source]) -> Mapping[Source, int]:
            return {Source("t", 0): 7, Source("t", 1): 1, Source("t", 2): 2}

        consumer = await bus.subscribe("g", ["t"], resume_at=resume_at)

        assert [each.value for each in await self.read(consumer, 1)] == [b"4"]
        assert consumer.assignment() == {Source("t", 1), Source("t", 2)}
        assert list(consumer.stopped) == [Source("t", 0)]
        assert "t[0] ends at 2, but 6 was handled" in consumer.stopped[Source("t", 0)]
        await bus.publish([Record("t", None, b"new", (), number) for number in range(3)])
        assert sorted(each.partition for each in await self.read(consumer, 2)) == [1, 2]

    async def test_a_topic_that_comes_later_is_read(self, bus: Bus) -> None:
        """Members that asked for it get its partitions once it exists."""
        await bus.create_topics([TopicSpec("t", 1)])
        consumer = await bus.subscribe("g", ["t", "later"])
        await self.settle([consumer], ["t"])

        await bus.create_topics([TopicSpec("later", 2)])
        await bus.publish([Record("later", b"k", b"1")])

        assert [each.topic for each in await self.read(consumer, 1)] == ["later"]

    async def read(
        self, consumer: Consumer, count: int, *, records_max: int = 100
    ) -> list[Inbound]:
        """Fetch until there are *count* records; there must not be more."""
        found: list[Inbound] = []
        for _ in range(ROUNDS_MAX):
            found += await consumer.fetch(records_max=records_max, timeout_s=self.fetch_timeout_s)
            if len(found) >= count:
                break
            await asyncio.sleep(PAUSE_S if self.fetch_timeout_s else 0)
        assert len(found) == count, f"{len(found)} records, not {count}: {found[:5]}"
        return found

    async def settle(self, members: Sequence[Consumer], topics: Sequence[str]) -> frozenset[Source]:
        """Fetch, expecting nothing, until the members' shares stay as they are; the shares."""
        calm = 0
        before: list[frozenset[Source]] = []
        for _ in range(ROUNDS_MAX):
            for member in members:
                await member.seek({})
                if not member.assignment() or calm < 2:
                    await _expect_nothing(member)
            shares = [member.assignment() for member in members]
            found = frozenset[Source]().union(*shares)
            is_whole = {source.topic for source in found} >= set(topics)
            calm = calm + 1 if shares == before and found and is_whole else 0
            before = shares
            if calm >= 3:
                assert sum(map(len, shares)) == len(found), "a partition has two readers"
                return found
            await asyncio.sleep(PAUSE_S if self.fetch_timeout_s else 0)
        raise AssertionError(f"the group does not come to rest: {before}")


async def _expect_nothing(member: Consumer) -> None:
    found = await member.fetch(records_max=1, timeout_s=0)
    for record in found:  # put back what belongs to the test
        await member.seek({Source(record.topic, record.partition): record.offset})
