"""The bus in memory: topics, keyed partitions, offsets and consumer groups within one event loop.

The same calls in the same order deliver the same records, and all members learn of a change of
their group at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from typing_extensions import override

from saga.adapters.partitioner import RECORD_BYTES_MAX, Partitioner, assign_ranges
from saga.core.identity import Instant
from saga.errors import BusUnavailable, TopicMissing
from saga.ports.bus import (
    STOPPED_S,
    Bus,
    Consumer,
    Inbound,
    Origin,
    Progress,
    Record,
    ResumeAt,
    Source,
    TopicSpec,
    why_lost,
)
from saga.ports.clock import Clock

SHORTEST_S: Final = 1e-6


class Partition:
    def __init__(self, retention_s: int | None) -> None:
        self.begin = 0
        self.records: list[Inbound] = []
        self._retention_s = retention_s

    @property
    def end(self) -> int:
        """The next offset to be written."""
        return self.begin + len(self.records)

    def expire(self, now: Instant) -> None:
        if self._retention_s is None:
            return
        keep_from = now - self._retention_s * 1_000_000
        expired = 0
        while expired < len(self.records) and self.records[expired].timestamp < keep_from:
            expired += 1
        del self.records[:expired]
        self.begin += expired


class MemoryConsumer(Consumer):
    """One task at a time fetches."""

    def __init__(
        self, bus: MemoryBus, group: str, topics: tuple[str, ...], resume_at: ResumeAt | None
    ) -> None:
        self._bus = bus
        self._resume_at = resume_at
        self._next: dict[Source, int] = {}
        self._stopped: dict[Source, str] = {}
        self._judge_at_s = 0.0
        self._wanted: frozenset[Source] = frozenset()
        self._turn = 0
        self.is_closed = False
        self._waiter: asyncio.Future[None] | None = None
        self.group = group
        self.topics = topics

    @override
    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        deadline_s = self._bus.clock.monotonic_s() + timeout_s
        await asyncio.sleep(0)
        while not self.is_closed:
            while self._lacks_sources or self._is_to_judge_again:
                await self._take_over()
            records = self._take(records_max)
            if records:
                return records
            remaining_s = deadline_s - self._bus.clock.monotonic_s()
            if remaining_s < SHORTEST_S:  # a clock that adds it may not move at all
                break
            await self._wait(remaining_s)
        return []

    @override
    async def seek(self, offsets: Mapping[Source, int]) -> None:
        for source, offset in offsets.items():
            if source in self._next:
                self._next[source] = offset
        self.wake(offsets.keys())

    @override
    async def commit(self, offsets: Mapping[Source, int]) -> None:
        for source, offset in offsets.items():
            self._bus.committed[self.group, source] = offset

    @override
    def assignment(self) -> frozenset[Source]:
        return frozenset(self._next)

    @property
    @override
    def progress(self) -> Mapping[Source, Progress]:
        return {
            source: Progress(offset, self._bus.partitions[source].end)
            for source, offset in self._next.items()
        }

    @property
    @override
    def stopped(self) -> Mapping[Source, str]:
        return dict(self._stopped)

    @property
    @override
    def waits_for(self) -> str | None:
        return None

    @override
    async def close(self) -> None:
        self.is_closed = True
        self.assign(frozenset())
        self._bus.leave(self)

    def assign(self, wanted: frozenset[Source]) -> None:
        """Let go of all others at once; the next fetch takes over those that are new."""
        self._wanted = wanted
        for source in self._next.keys() - wanted:
            del self._next[source]
        for source in self._stopped.keys() - wanted:
            del self._stopped[source]
        self._wake()

    def wake(self, sources: AbstractSet[Source]) -> None:
        """Wake a waiting fetch that reads any of *sources*."""
        if self._waiter is not None and not sources.isdisjoint(self._next):
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timeout = loop.create_task(self._sleep(seconds))
        try:
            await self._waiter
        finally:
            timeout.cancel()
            self._waiter = None

    async def _sleep(self, seconds: float) -> None:
        await self._bus.clock.sleep(seconds)
        self._wake()

    @property
    def _lacks_sources(self) -> bool:
        return self._wanted != self._next.keys() | self._stopped.keys()

    @property
    def _is_to_judge_again(self) -> bool:
        """Whether sources were stopped so long ago that somebody may have seen to them."""
        return bool(self._stopped) and self._bus.clock.monotonic_s() >= self._judge_at_s

    async def _take_over(self) -> None:
        wanted = self._wanted
        stopped = {} if self._is_to_judge_again else self._stopped
        added = sorted(wanted - self._next.keys() - stopped.keys())
        starts: Mapping[Source, int | str]
        if self._resume_at is not None:
            starts = await self._resume_at(added)
        else:
            committed = self._bus.committed
            starts = {
                at: committed[self.group, at] for at in added if (self.group, at) in committed
            }
        self._judge_at_s = self._bus.clock.monotonic_s() + STOPPED_S
        if wanted != self._wanted:
            return  # the group has changed meanwhile
        for source, (begin, end) in (await self._bus.bounds(added)).items():
            start = starts.get(source, begin)
            lost = start if isinstance(start, str) else why_lost(source, start, begin, end)
            if lost is not None and self._resume_at is not None:
                self._stopped[source] = lost
                continue
            self._stopped.pop(source, None)
            self._next[source] = begin if lost is not None else int(start)

    def _take(self, records_max: int) -> list[Inbound]:
        """Every source gets a share; another one is first each time."""
        now = self._bus.clock.now()
        self._turn += 1
        partitions = self._bus.partitions
        waiting = []
        for source, wanted in self._next.items():
            partition = partitions[source]
            partition.expire(now)
            self._next[source] = following = max(wanted, partition.begin)
            if following < partition.begin + len(partition.records):
                waiting.append(source)
        waiting.sort()
        first = self._turn % len(waiting) if waiting else 0
        waiting = waiting[first:] + waiting[:first]
        taken: list[Inbound] = []
        for left, source in zip(range(len(waiting), 0, -1), waiting, strict=True):
            share = -(-(records_max - len(taken)) // left)
            start = self._next[source] - partitions[source].begin
            records = partitions[source].records[start : start + share]
            taken += records
            self._next[source] += len(records)
        return taken


class MemoryBus(Bus):
    """A bus for one event loop; *clock* also says how long a fetch waits."""

    def __init__(self, *, clock: Clock, record_bytes_max: int = RECORD_BYTES_MAX) -> None:
        self.clock = clock
        self.partitions: dict[Source, Partition] = {}
        self.committed: dict[tuple[str, Source], int] = {}
        self.record_bytes_max = record_bytes_max
        self._partitioner = Partitioner(record_bytes_max=record_bytes_max)
        self._topics: dict[str, TopicSpec] = {}
        self._topic_ids: dict[str, str] = {}
        self._consumers: list[MemoryConsumer] = []
        self._is_closed = False

    @override
    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        for spec in topics:
            if spec.partitions < 1:
                raise ValueError(f"{spec.name}: a topic has at least one partition")
            if spec.name not in self._topics:
                self._topics[spec.name] = spec
                self._topic_ids[spec.name] = str(len(self._topic_ids) + 1)
                for number in range(spec.partitions):
                    self.partitions[Source(spec.name, number)] = Partition(spec.retention_s)
        for group in dict.fromkeys(consumer.group for consumer in self._consumers):
            self._share_out(group)

    @override
    async def publish(self, records: Sequence[Record]) -> None:
        if self._is_closed:
            raise BusUnavailable("the bus is closed")
        await asyncio.sleep(0)
        self.append(records)

    @override
    async def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        return dict.fromkeys(topics, self.record_bytes_max)

    @override
    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> MemoryConsumer:
        if self._is_closed:
            raise BusUnavailable("the bus is closed")
        consumer = MemoryConsumer(self, group, tuple(dict.fromkeys(topics)), resume_at)
        self._consumers.append(consumer)
        self._share_out(group)
        return consumer

    @override
    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        found: dict[Source, tuple[int, int]] = {}
        for source in sources:
            partition = self.partitions.get(source)
            if partition is None:
                raise TopicMissing(source.topic, source.partition)
            partition.expire(self.clock.now())
            found[source] = (partition.begin, partition.end)
        return found

    @override
    async def origins(self, topics: Collection[str]) -> Mapping[str, Origin]:
        ids = self._topic_ids
        return {name: Origin(ids[name], "memory") for name in topics if name in ids}

    @override
    async def close(self) -> None:
        self._is_closed = True
        for consumer in list(self._consumers):
            await consumer.close()

    def append(self, records: Sequence[Record]) -> None:
        """Publish all at once or, by an error, none."""
        self._partitioner.check(records)
        placed = [self._place(record) for record in records]
        now = self.clock.now()
        for source, record in zip(placed, records, strict=True):
            partition = self.partitions[source]
            inbound = Inbound(*source, partition.end, record.key, record.value, record.headers, now)
            partition.records.append(inbound)
        touched = set(placed)
        for consumer in self._consumers:
            consumer.wake(touched)

    def leave(self, consumer: MemoryConsumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)
            self._share_out(consumer.group)

    def _share_out(self, group: str) -> None:
        members = {each: each.topics for each in self._consumers if each.group == group}
        partitions = {name: spec.partitions for name, spec in self._topics.items()}
        for consumer, wanted in assign_ranges(members, partitions).items():
            consumer.assign(frozenset(wanted))

    def _place(self, record: Record) -> Source:
        topic = self._topics.get(record.topic)
        if topic is None:
            raise TopicMissing(record.topic)
        return Source(record.topic, self._partitioner.choose(record, topic.partitions))
