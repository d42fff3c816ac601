"""The bus of a world: the one in memory, with what a real broker does to its clients.

Records come twice, at once or much later. A member that was cut off from its group reads on until
it learns that others read its partitions. Everything published is kept in order, for the checks.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from typing_extensions import override

from saga.adapters.memory.bus import MemoryBus, MemoryConsumer
from saga.core.identity import Instant
from saga.errors import BusUnavailable
from saga.ports import Clock, Inbound, Record, Source
from saga.ports.bus import ResumeAt
from saga.testing.world.process import Surroundings

LATE_DUPLICATE_S_MAX = 3.0


class WorldClock(Clock):
    def __init__(self, surroundings: Surroundings) -> None:
        self._loop = surroundings.loop

    @override
    def now(self) -> Instant:
        return self._loop.now()

    @override
    def monotonic_s(self) -> float:
        """Seconds since the world began."""
        return self._loop.time()

    @override
    async def sleep(self, seconds: float) -> None:
        woken = self._loop.create_future()
        timer = self._loop.call_later(max(seconds, 0.0), _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


class Member(MemoryConsumer):
    is_cut_off = False
    lost: frozenset[Source] = frozenset()
    """Sources whose buffered records are void, since somebody last asked."""
    _news: frozenset[Source] = frozenset()

    @override
    def assign(self, wanted: frozenset[Source]) -> None:
        if self.is_cut_off:
            self._news = wanted
        else:
            self.lost |= self._next.keys() - wanted
            super().assign(wanted)

    def hear(self) -> None:
        """No longer cut off: act on what was missed."""
        if self.is_cut_off:
            self.is_cut_off = False
            self.assign(self._news)

    def unread(self) -> Iterator[Source]:
        """The sources of which it has not fetched everything."""
        if self.is_closed:
            return
        if self._wanted != self._next.keys() | self._stopped.keys():
            yield from sorted(self._wanted)
        for source, offset in self._next.items():
            if offset < self._bus.partitions[source].end:
                yield source

    def rewind(self, source: Source) -> None:
        """Read a source again from its begin, as a client does that has lost its place."""
        if source in self._next:
            self._next[source] = self._bus.partitions[source].begin
            self.lost |= {source}


class Published(NamedTuple):
    """A record on the bus; *number* orders it among everything that happened."""

    number: int
    record: Inbound


class SimulatedBus(MemoryBus):
    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(clock=WorldClock(surroundings))
        self.published: list[Published] = []
        self.members: list[Member] = []
        self.arrivals: list[float] = []
        """When records arrive that are late, the next first."""
        self._surroundings = surroundings

    @override
    def append(self, records: Sequence[Record]) -> None:
        faults = self._surroundings.faults
        published: list[Record] = []
        for record in records:
            published.append(record)
            if faults.hits("duplicate", faults.rates.duplicate):
                published.append(record)
            if faults.hits("late duplicate", faults.rates.late_duplicate):
                self.append_later(record, faults.rng.uniform(0, LATE_DUPLICATE_S_MAX))
        self._place_all(published)

    def append_later(self, record: Record, delay_s: float) -> None:
        at_s = self._surroundings.loop.time() + delay_s
        insort(self.arrivals, at_s)
        self._surroundings.loop.call_at(at_s, self._arrive, record)

    @override
    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> Member:
        if self._is_closed:
            raise BusUnavailable("the bus is closed")
        member = Member(self, group, tuple(dict.fromkeys(topics)), resume_at)
        self._consumers.append(member)
        self.members.append(member)
        self._share_out(group)
        return member

    def cut_off(self, member: Member) -> None:
        """Take *member* for dead: the others share out what it reads, and it does not know."""
        if member in self._consumers:
            member.is_cut_off = True
            self.leave(member)

    def give_up(self, member: Member) -> None:
        """Let *member* go for good."""
        member.is_closed = True
        self.leave(member)

    def readmit(self, member: Member) -> None:
        """Take *member* back, unless it has left; now it learns what it may read."""
        if member.is_cut_off and not member.is_closed:
            self._consumers.append(member)
            self._share_out(member.group)
            member.hear()

    def forget_offsets(self, group: str) -> None:
        """Reset the offsets of *group*: whoever takes over a partition begins at its begin."""
        for key in [key for key in self.committed if key[0] == group]:
            del self.committed[key]

    def _arrive(self, record: Record) -> None:
        del self.arrivals[0]
        self._place_all([record])

    def _place_all(self, records: Sequence[Record]) -> None:
        placed = [replace(record, partition=self._place(record).partition) for record in records]
        for record in placed:
            super().append([record])
            assert record.partition is not None, record
            kept = self.partitions[Source(record.topic, record.partition)].records[-1]
            self.published.append(Published(self._surroundings.next_number(), kept))
