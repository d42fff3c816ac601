"""Records on their way in memory, from their writer to the consumers of the same process.

A consumer whose positions are kept in the same file gets a record before it is durable: the turn on
it then commits together with it, or not at all, which saves a commit. If that commit fails, the
record is retracted, and a batch that accounts for it is refused until its consumer seeks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from saga.adapters.sqlite.records import RecordBatch
from saga.errors import RecordsRetracted
from saga.ports.bus import Inbound, Progress, Source

BUFFERED_RECORDS_MAX: Final = 8_192


class Reader:
    """The records that wait for one consumer; sources that are *behind* are read from the file."""

    def __init__(self, *, is_early: bool) -> None:
        self.is_early = is_early
        """Its positions are kept in the bus's file, so it may see what is not durable yet."""
        self.next: dict[Source, int] = {}
        """Of each source that is read, the offset behind the last record that waits."""
        self.behind: set[Source] = set()
        self.buffer: deque[Inbound] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._rings_at = 0.0
        """When the timer rings: uvloop's handle of a moment that has passed does not say."""
        self._until = 0.0

    @property
    def is_full(self) -> bool:
        return len(self.buffer) >= BUFFERED_RECORDS_MAX

    def take(self, records_max: int) -> list[Inbound]:
        buffer = self.buffer
        if len(buffer) > records_max:
            return [buffer.popleft() for _ in range(records_max)]
        taken = [*buffer]
        buffer.clear()
        return taken

    def progress(self, ends: Mapping[Source, int]) -> dict[Source, Progress]:
        """What its consumer fetches next of each source."""
        following = dict(self.next)
        for inbound in reversed(self.buffer):
            following[Source(inbound.topic, inbound.partition)] = inbound.offset
        return {source: Progress(offset, ends.get(source)) for source, offset in following.items()}

    def offer(self, batch: RecordBatch) -> bool:
        """Take the batch; False where it is not the next one, is large, or there is no room."""
        if self.next[batch.source] != batch.first or batch.is_large or self.is_full:
            return False
        self.buffer += batch.inbound()
        self.next[batch.source] = batch.end
        return True

    def notice(self, ends: Mapping[Source, int]) -> None:
        self.behind.update(at for at, end in ends.items() if self.next.get(at, end) < end)
        self.wake()

    def read_from(self, offsets: Mapping[Source, int]) -> None:
        self.forget(dict.fromkeys(offsets, 0))
        self.next.update(offsets)
        self.behind.update(offsets)

    def keep(self, wanted: AbstractSet[Source]) -> None:
        gone = dict.fromkeys(self.next.keys() - wanted, 0)
        self.forget(gone)
        for source in gone:
            del self.next[source]

    def forget(self, firsts: Mapping[Source, int]) -> int:
        """Drop what waits from these offsets on; returns the number of records."""
        waiting = self.buffer
        self.buffer = deque(
            inbound
            for inbound in waiting
            if inbound.offset < firsts.get(Source(inbound.topic, inbound.partition), 1 << 62)
        )
        self.behind.difference_update(firsts)
        return len(waiting) - len(self.buffer)

    def retract(self, source: Source, first: int) -> bool:
        """Drop what was delivered from *first* on; whether some of it was fetched already."""
        delivered = self.next[source] - first
        if delivered <= 0:
            return False
        is_fetched = self.forget({source: first}) < delivered
        self.next[source] = first
        self.behind.add(source)
        return is_fetched

    def wake(self, *, always: bool = False) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done() and (self.buffer or self.behind or always):
            waiter.set_result(None)

    async def wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._until = loop.time() + seconds
        # The timer outlives the wait: most waits end early, and the next one needs it again.
        if self._timer is None or self._rings_at > self._until:
            self._set_timer(loop)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = self._until
        self._timer = loop.call_at(self._until, self._time_out, loop)

    def _time_out(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if loop.time() < self._until:
            self._set_timer(loop)
        else:
            self.wake(always=True)


class EarlyDelivery:
    def __init__(self) -> None:
        self._readers: dict[Source, list[Reader]] = {}
        self._retracted: dict[Source, int] = {}
        self.ends: dict[Source, int] = {}
        """Of sources that are followed here, the next offset as far as it is known."""

    def follow(self, reader: Reader, source: Source, *, end: int) -> None:
        """Deliver the records of this source from its *end* on."""
        self._readers.setdefault(source, []).append(reader)
        self.ends[source] = end

    def unfollow(self, reader: Reader, sources: Iterable[Source]) -> None:
        for source in sources:
            self._readers[source].remove(reader)
            if not self._readers[source]:
                del self._readers[source], self.ends[source]

    def deliver(self, batches: Sequence[RecordBatch]) -> None:
        """Give what is committed to those who have not seen it; call it in commit order."""
        reached = set()
        for batch in batches:
            source, end = batch.source, batch.end
            readers = self._readers.get(source)
            if readers is None:
                continue
            self.ends[source] = end
            for reader in readers:
                if reader.next[source] < end:
                    if not reader.offer(batch):
                        reader.behind.add(source)
                    reached.add(reader)
        for reader in reached:
            reader.wake()

    def deliver_early(self, batches: Sequence[RecordBatch]) -> bool:
        """Give what is written to those who commit in the same file; whether there is any."""
        reached = set()
        for batch in batches:
            for reader in self._readers.get(batch.source, ()):
                is_next = reader.is_early and batch.source not in reader.behind
                if is_next and reader.offer(batch):
                    reached.add(reader)
        for reader in reached:
            reader.wake()
        return bool(reached)

    def retract(self, batches: Sequence[RecordBatch]) -> None:
        """Take back what was delivered early of these."""
        for source, first in {batch.source: batch.first for batch in reversed(batches)}.items():
            for reader in self._readers.get(source, ()):
                if reader.is_early and reader.retract(source, first):
                    self._retracted[source] = min(first, self._retracted.get(source, first))

    def check(self, positions: Mapping[Source, int]) -> None:
        """Raise RecordsRetracted where *positions* account for retracted records."""
        for source, first in self._retracted.items():
            if positions.get(source, -1) >= first:
                raise RecordsRetracted(
                    f"{source.topic}[{source.partition}]: what was delivered from {first} on did "
                    "not become durable"
                )

    def sought(self, sources: Iterable[Source]) -> None:
        """The consumer reads these sources anew."""
        for source in sources:
            self._retracted.pop(source, None)
