"""Records on their way in memory, from their writer to the consumers of the same process.

Normally a record is delivered once it is durable. A consumer whose positions are kept in the same
file gets it as soon as it is written: the turn on it then commits together with it, or not at all,
and a saga's hop costs one commit instead of two. Should that commit fail, the records are
retracted; a batch that accounts for one of them is refused until its consumer seeks.
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
    """The records that wait for one consumer, and where it reads on in the file.

    A source whose next record is not the one that was delivered is *behind* and is read from the
    file until it has caught up; so it is after a seek, after an assignment, when other processes
    publish and when the buffer is full.
    """

    def __init__(self, *, is_early: bool) -> None:
        self.is_early = is_early
        """Its positions are kept in the bus's file, so it may see what is not durable yet."""
        self.next: dict[Source, int] = {}
        """Of each source that is read, the offset behind the last record that waits."""
        self.behind: set[Source] = set()
        self.buffer: deque[Inbound] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    @property
    def is_full(self) -> bool:
        """Whether no more is to be delivered."""
        return len(self.buffer) >= BUFFERED_RECORDS_MAX

    def take(self, records_max: int) -> list[Inbound]:
        """The first records that wait."""
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
        """Take the batch that comes next; False where it is another, large, or there is no room."""
        if self.next[batch.source] != batch.first or batch.is_large or self.is_full:
            return False
        self.buffer += batch.inbound()
        self.next[batch.source] = batch.end
        return True

    def notice(self, ends: Mapping[Source, int]) -> None:
        """Take note of how far the log goes by now."""
        self.behind.update(at for at, end in ends.items() if self.next.get(at, end) < end)
        self.wake()

    def read_from(self, offsets: Mapping[Source, int]) -> None:
        """Read these sources on from other offsets."""
        self.forget(dict.fromkeys(offsets, 0))
        self.next |= offsets
        self.behind |= offsets.keys()

    def keep(self, wanted: AbstractSet[Source]) -> None:
        """Let go of all sources but *wanted*."""
        gone = dict.fromkeys(self.next.keys() - wanted, 0)
        self.forget(gone)
        for source in gone:
            del self.next[source]

    def forget(self, firsts: Mapping[Source, int]) -> int:
        """Drop what waits from these offsets on; how many records that were."""
        waiting = self.buffer
        self.buffer = deque(
            inbound
            for inbound in waiting
            if inbound.offset < firsts.get(Source(inbound.topic, inbound.partition), 1 << 62)
        )
        self.behind -= firsts.keys()
        return len(waiting) - len(self.buffer)

    def retract(self, source: Source, first: int) -> bool:
        """Forget what was delivered from the offset *first* on; whether some of it was fetched."""
        delivered = self.next[source] - first
        if delivered <= 0:
            return False
        is_fetched = self.forget({source: first}) < delivered
        self.next[source] = first
        self.behind.add(source)
        return is_fetched

    def wake(self, *, always: bool = False) -> None:
        """Let a waiting fetch go on, if there is anything for it."""
        waiter = self._waiter
        if waiter is not None and not waiter.done() and (self.buffer or self.behind or always):
            waiter.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Return when there is something to do, or after so long."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._until = loop.time() + seconds
        # The timer outlives the wait: most waits end early, and the next one needs it again.
        if self._timer is None or self._timer.when() > self._until:
            self._set_timer(loop)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
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
    """Gives what was written to the readers of this process."""

    def __init__(self) -> None:
        self._readers: dict[Source, list[Reader]] = {}
        self._retracted: dict[Source, int] = {}
        self.ends: dict[Source, int] = {}
        """Of sources that are followed here, the next offset as far as it is known."""

    def follow(self, reader: Reader, source: Source, *, end: int) -> None:
        """Deliver the records of this source from now on; *end* is how far it goes by now."""
        self._readers.setdefault(source, []).append(reader)
        self.ends[source] = end

    def unfollow(self, reader: Reader, sources: Iterable[Source]) -> None:
        """Deliver no more records of these sources."""
        for source in sources:
            self._readers[source].remove(reader)
            if not self._readers[source]:
                del self._readers[source], self.ends[source]

    def deliver(self, batches: Sequence[RecordBatch]) -> None:
        """Give what was committed to those who have not seen it; in commit order."""
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
        """Give what is written to those who commit in the same file; whether to anybody."""
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
        """Take back what was delivered early of these: it is not durable, or not where it was."""
        for source, first in {batch.source: batch.first for batch in reversed(batches)}.items():
            for reader in self._readers.get(source, ()):
                if reader.is_early and reader.retract(source, first):
                    self._retracted[source] = min(first, self._retracted.get(source, first))

    def check(self, positions: Mapping[Source, int]) -> None:
        """See that *positions* are of records as they are, and not of retracted ones.

        Raises:
            RecordsRetracted: they are not; a seek tells that the consumer knows.
        """
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
