"""One member of a consumer group of the bus in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from saga.ports.bus import Inbound, Progress, ResumeAt, Source, why_lost

if TYPE_CHECKING:
    from saga.adapters.memory.bus import MemoryBus


class MemoryConsumer:
    """A member of a group. Made by `MemoryBus.subscribe`; one task at a time fetches."""

    def __init__(
        self, bus: MemoryBus, group: str, topics: tuple[str, ...], resume_at: ResumeAt | None
    ) -> None:
        self._bus = bus
        self._resume_at = resume_at
        self._next: dict[Source, int] = {}
        self._stopped: dict[Source, str] = {}
        self._wanted: frozenset[Source] = frozenset()
        self._turn = 0
        self.is_closed = False
        self._waiter: asyncio.Future[None] | None = None
        self.group = group
        self.topics = topics

    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        """Up to *records_max* records; empty after *timeout_s* of the bus's clock."""
        deadline_s = self._bus.clock.monotonic_s() + timeout_s
        await asyncio.sleep(0)
        while not self.is_closed:
            while self._wanted != self._next.keys() | self._stopped.keys():
                await self._take_over()
            records = self._take(records_max)
            if records:
                return records
            remaining_s = deadline_s - self._bus.clock.monotonic_s()
            if remaining_s <= 0:
                break
            await self._wait(remaining_s)
        return []

    async def seek(self, offsets: Mapping[Source, int]) -> None:
        """Read on from these offsets; sources that are not assigned are left alone."""
        for source, offset in offsets.items():
            if source in self._next:
                self._next[source] = offset
        self.wake(offsets.keys())

    async def commit(self, offsets: Mapping[Source, int]) -> None:
        """Remember for the group the *next* offset to read of each source; forward or back."""
        for source, offset in offsets.items():
            self._bus.committed[self.group, source] = offset

    def assignment(self) -> frozenset[Source]:
        """The sources this member reads now."""
        return frozenset(self._next)

    @property
    def progress(self) -> Mapping[Source, Progress]:
        """Of each source that this member reads, how far."""
        return {
            source: Progress(offset, self._bus.partitions[source].end)
            for source, offset in self._next.items()
        }

    @property
    def stopped(self) -> Mapping[Source, str]:
        """The sources that are assigned to this member and not read, each with the reason."""
        return dict(self._stopped)

    @property
    def waits_for(self) -> str | None:
        """What is missing before this member reads all of its topics; None when nothing is."""
        return None

    async def close(self) -> None:
        """Leave the group at once."""
        self.is_closed = True
        self.assign(frozenset())
        self._bus.leave(self)

    def assign(self, wanted: frozenset[Source]) -> None:
        """Let go of all sources but *wanted*; the next fetch takes over those that are new."""
        self._wanted = wanted
        for source in self._next.keys() - wanted:
            del self._next[source]
        for source in self._stopped.keys() - wanted:
            del self._stopped[source]
        self._wake()

    def wake(self, sources: AbstractSet[Source]) -> None:
        """Let a waiting fetch go on, if it reads any of these sources."""
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

    async def _take_over(self) -> None:
        wanted = self._wanted
        added = sorted(wanted - self._next.keys() - self._stopped.keys())
        if self._resume_at is not None:
            starts = dict(await self._resume_at(added))
        else:
            committed = self._bus.committed
            starts = {
                at: committed[self.group, at] for at in added if (self.group, at) in committed
            }
        if wanted != self._wanted:
            return  # the group has changed meanwhile
        for source, (begin, end) in (await self._bus.bounds(added)).items():
            start = starts.get(source, begin)
            lost = why_lost(source, start, begin, end)
            if lost is None:
                self._next[source] = start
            elif self._resume_at is None:
                self._next[source] = begin
            else:
                self._stopped[source] = lost

    def _take(self, records_max: int) -> list[Inbound]:
        """Some records of every source that has any; another source is first each time."""
        now = self._bus.clock.now()
        self._turn += 1
        waiting = []
        for source, wanted in self._next.items():
            partition = self._bus.partitions[source]
            partition.expire(now)
            offset = max(wanted, partition.begin)
            self._next[source] = offset
            if offset < partition.end:
                waiting.append(source)
        waiting.sort()
        first = self._turn % len(waiting) if waiting else 0
        waiting = waiting[first:] + waiting[:first]
        taken: list[Inbound] = []
        for left, source in zip(range(len(waiting), 0, -1), waiting, strict=True):
            share = -(-(records_max - len(taken)) // left)
            partition = self._bus.partitions[source]
            start = self._next[source] - partition.begin
            records = partition.records[start : start + share]
            taken += records
            self._next[source] += len(records)
        return taken
