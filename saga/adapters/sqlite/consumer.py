"""One member of a consumer group of the local bus.

Records that this process commits are delivered in memory while the member keeps up with them. A
source whose next record is not the one that was delivered is *behind* and is read from the file,
until it has caught up; so it is after a seek, after an assignment, when other processes publish and
when the buffer is full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from saga.adapters.sqlite.groups import Group, assign_ranges
from saga.adapters.sqlite.records import committed_offsets
from saga.errors import BusUnavailable
from saga.ports.bus import Inbound, Progress, ResumeAt, Source, why_lost

if TYPE_CHECKING:
    import sqlite3

    from saga.adapters.sqlite.bus import LocalBus

BUFFERED_RECORDS_MAX: Final = 8_192
READ_INLINE_RECORDS_MAX: Final = 64
"""More than this is read on another thread, so as not to hold up the event loop."""


class LocalConsumer:
    """A member of a group. Made by `LocalBus.subscribe`; one task at a time fetches."""

    def __init__(
        self,
        bus: LocalBus,
        member_id: int,
        group: str,
        topics: tuple[str, ...],
        resume_at: ResumeAt | None,
    ) -> None:
        self._bus = bus
        self._resume_at = resume_at
        self._buffer: deque[tuple[int, Inbound]] = deque()
        self._next: dict[int, int] = {}
        self._stopped: dict[int, str] = {}
        self._behind: set[int] = set()
        self._wanted: frozenset[int] = frozenset()
        self._is_settled = False
        self._is_expelled = False
        self._is_closed = False
        self._waiter: asyncio.Future[None] | None = None
        self.member_id = member_id
        self.group = group
        self.topics = topics
        self.generation = 0
        self.reads_early = bus.delivers_early and resume_at is not None
        """Its positions are kept in the bus's file, so it may see what is not durable yet."""

    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        """Up to *records_max* records, as they were published; empty after *timeout_s*.

        Raises:
            BusUnavailable: the file cannot be read now; the next fetch tries again.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not self._is_closed:
            if self._is_expelled:
                await self._bus.rejoin(self)
            while self._is_settled and self._lacks_sources:
                await self._take_over()
            if self._behind and len(self._buffer) < BUFFERED_RECORDS_MAX:
                await self._catch_up(records_max)
            if self._buffer:
                return self._take(records_max)
            remaining_s = deadline - loop.time()
            if remaining_s <= 0:
                break
            self._bus.check()
            await self._wait(loop, remaining_s)
        return []

    async def seek(self, offsets: Mapping[Source, int]) -> None:
        """Read on from these offsets; sources that are not assigned are left alone."""
        numbers = {self._bus.log.source_id(source): at for source, at in offsets.items()}
        moved = numbers.keys() & self._next.keys()
        self._drop(moved)
        for source_id in moved:
            self._next[source_id] = numbers[source_id]
            self._behind.add(source_id)
            self._bus.delivery.sought(source_id)
        self._wake()

    async def commit(self, offsets: Mapping[Source, int]) -> None:
        """Remember for the group the *next* offset to read of each source; forward or back."""
        rows = [(self.group, self._bus.log.source_id(at), next_) for at, next_ in offsets.items()]

        def work(cursor: sqlite3.Cursor) -> None:
            for row in rows:
                cursor.execute("INSERT OR REPLACE INTO bus_offsets VALUES (?, ?, ?)", row)

        if rows:
            await self._bus.write(work)

    def assignment(self) -> frozenset[Source]:
        """The sources this member reads now."""
        return frozenset(map(self._bus.log.source, self._next))

    @property
    def progress(self) -> Mapping[Source, Progress]:
        """Of each source that this member reads, how far."""
        ends = self._bus.delivery.ends
        following = dict(self._next)
        for source_id, inbound in reversed(self._buffer):
            following[source_id] = inbound.offset
        return {
            self._bus.log.source(source_id): Progress(offset, ends.get(source_id))
            for source_id, offset in following.items()
        }

    @property
    def stopped(self) -> Mapping[Source, str]:
        """The sources that are assigned to this member and not read, each with the reason."""
        return {
            self._bus.log.source(source_id): reason for source_id, reason in self._stopped.items()
        }

    @property
    def waits_for(self) -> str | None:
        """What is missing before this member reads all of its topics; None when nothing is."""
        return None

    async def close(self) -> None:
        """Leave the group at once."""
        if not self._is_closed:
            self.end()
            await self._bus.leave([self])

    def end(self) -> None:
        """Stop reading, without telling the group."""
        self._is_closed = True
        self._let_go_of(self._next.keys())
        self._stopped = {}
        self._wanted = frozenset()
        self._wake()

    def follow(self, group: Group) -> None:
        """Take note of a new state of the group: what it takes from this member is let go of at
        once.

        What it gives is taken over by the next fetch, once all members have let go.
        """
        if self._is_closed:
            return
        if not group.has(self.member_id):
            self._is_expelled = True
            self._is_settled = False
            self._let_go_of(self._next.keys())
            self._stopped = {}
            self._wake()
            return
        if group.generation != self.generation:
            topics = {t for member in group.members for t in member.topics}
            counts = {name: t.partitions for name, t in self._bus.log.topics(topics).items()}
            mine = assign_ranges(group.members, counts)[self.member_id]
            self._wanted = frozenset(map(self._bus.log.source_id, mine))
            self._let_go_of(self._next.keys() - self._wanted)
            self._stopped = {
                source_id: reason
                for source_id, reason in self._stopped.items()
                if source_id in self._wanted
            }
            self.generation = group.generation
        self._is_settled = group.is_settled
        if self._is_settled and self._lacks_sources:
            self._wake()

    def rejoined(self, member_id: int) -> None:
        """Go on as another member, after the group had given this one up."""
        self.member_id = member_id
        self.generation = 0
        self._is_expelled = False

    def offer(self, source_id: int, inbound: Inbound) -> None:
        """Take a record that was just committed; `wake` is called after the last one."""
        offset = inbound.offset
        if self._next[source_id] == offset and len(self._buffer) < BUFFERED_RECORDS_MAX:
            self._buffer.append((source_id, inbound))
            self._next[source_id] = offset + 1
        elif self._next[source_id] <= offset:
            self._behind.add(source_id)

    def lacks(self, source_id: int, offset: int) -> bool:
        """Whether the record was not delivered to it early."""
        return self._next[source_id] <= offset

    def offer_early(self, source_id: int, inbound: Inbound) -> bool:
        """Take a record that is not durable yet; False where others have to be read before it."""
        if self._next[source_id] != inbound.offset or source_id in self._behind:
            return False
        if len(self._buffer) >= BUFFERED_RECORDS_MAX:
            return False
        self._buffer.append((source_id, inbound))
        self._next[source_id] = inbound.offset + 1
        return True

    def retract(self, source_id: int, first: int) -> bool:
        """Forget what was delivered from the offset *first* on; whether some of it was fetched."""
        delivered = self._next[source_id] - first
        if delivered <= 0:
            return False
        kept = [item for item in self._buffer if item[0] != source_id or item[1].offset < first]
        is_fetched = len(self._buffer) - len(kept) < delivered
        self._buffer = deque(kept)
        self._next[source_id] = first
        self._behind.add(source_id)
        return is_fetched

    def notice(self, ends: Mapping[int, int]) -> None:
        """Take note of how far the log goes by now."""
        for source_id, end in ends.items():
            if self._next.get(source_id, end) < end:
                self._behind.add(source_id)
        self.wake()

    def wake(self) -> None:
        """Let a waiting fetch go on, if there is anything for it."""
        if self._waiter is not None and (self._buffer or self._behind):
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._waiter = loop.create_future()
        timeout = loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timeout.cancel()
            self._waiter = None

    def _take(self, records_max: int) -> list[Inbound]:
        buffer = self._buffer
        if len(buffer) <= records_max:
            taken = [inbound for _, inbound in buffer]
            buffer.clear()
            return taken
        return [buffer.popleft()[1] for _ in range(records_max)]

    async def _take_over(self) -> None:
        """Begin to read what this generation gives: ask where, then catch up from there."""
        generation = self.generation
        added = self._wanted - self._next.keys() - self._stopped.keys()
        if self._resume_at is not None:
            sources = {self._bus.log.source(source_id): source_id for source_id in added}
            answer = await self._resume_at(sorted(sources))
            starts = {sources[at]: next_ for at, next_ in answer.items() if at in sources}
        else:
            starts = dict(self._bus.read_now(lambda c: committed_offsets(c, self.group, added)))
        bounds = self._bus.read_now(lambda cursor: self._bus.log.bounds(cursor, added))
        if generation != self.generation or not self._is_settled:
            return  # the group has changed meanwhile
        for source_id in sorted(added):
            begin, end = bounds[source_id]
            start = starts.get(source_id, begin)
            lost = why_lost(self._bus.log.source(source_id), start, begin, end)
            if lost is not None and self._resume_at is not None:
                self._stopped[source_id] = lost
                continue
            self._next[source_id] = start if lost is None else begin
            self._bus.delivery.follow(source_id, self, end=end)
            if self._next[source_id] < end:
                self._behind.add(source_id)

    @property
    def _lacks_sources(self) -> bool:
        """Whether this generation gives it more than it has begun to read, or has found
        unreadable.
        """
        return len(self._wanted) > len(self._next) + len(self._stopped)

    def _let_go_of(self, source_ids: Iterable[int]) -> None:
        gone = set(source_ids)
        self._drop(gone)
        for source_id in gone:
            del self._next[source_id]
            self._bus.delivery.unfollow(source_id, self)

    def _drop(self, source_ids: Iterable[int]) -> None:
        gone = set(source_ids)
        self._behind -= gone
        if gone and self._buffer:
            self._buffer = deque(item for item in self._buffer if item[0] not in gone)

    async def _catch_up(self, records_max: int) -> None:
        behind = sorted(self._behind)
        starts = {source_id: self._next[source_id] for source_id in behind}
        share = max(1, records_max // len(behind))
        self._behind.clear()

        def query(cursor: sqlite3.Cursor) -> dict[int, list[Inbound]]:
            return {
                source_id: self._bus.log.read(cursor, source_id, offset, share)
                for source_id, offset in starts.items()
            }

        try:
            if self._bus.backlog(starts) <= READ_INLINE_RECORDS_MAX:
                records_of = self._bus.read_now(query)
            else:
                records_of = await self._bus.read(query)
        except BusUnavailable:
            self._behind.update(starts.keys() & self._next.keys())
            raise
        for source_id, records in records_of.items():
            if self._next.get(source_id) != starts[source_id] or not records:
                continue  # sought or let go of meanwhile; or nothing there yet
            self._buffer.extend((source_id, inbound) for inbound in records)
            self._next[source_id] = records[-1].offset + 1
            if (
                self._next[source_id] < self._bus.delivery.ends.get(source_id, 0)
                or len(records) == share
            ):
                self._behind.add(source_id)
