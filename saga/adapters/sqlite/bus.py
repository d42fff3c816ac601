"""The local bus: topics, keyed partitions, offsets and consumer groups in one SQLite file.

Durable and shared by any number of processes on one machine, and no more than Kafka offers. What
this process publishes reaches its own consumers in memory, once it is committed; what others
publish is noticed by asking SQLite every few milliseconds whether anybody has written.

Records that this process commits are delivered in memory to a consumer that keeps up with them. A
source whose next record is not the one that was delivered is *behind* and is read from the file,
until it has caught up; so it is after a seek, after an assignment, when other processes publish and
when the buffer is full.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from typing_extensions import override

from saga.adapters.sqlite import groups
from saga.adapters.sqlite.commits import settle
from saga.adapters.sqlite.connection import as_bus_error
from saga.adapters.sqlite.database import EarlyReaders, SqliteDatabase
from saga.adapters.sqlite.groups import Group, assign_ranges, dead_members, read_groups
from saga.adapters.sqlite.records import (
    PARTITION_BITS,
    AppendedRecords,
    EarlyDelivery,
    EncodedRecord,
    RecordLog,
    committed_offsets,
)
from saga.core.identity import Instant
from saga.core.values import value
from saga.errors import BusUnavailable
from saga.ports.bus import (
    Bus,
    Consumer,
    Inbound,
    Progress,
    Record,
    ResumeAt,
    Source,
    TopicSpec,
    why_lost,
)
from saga.ports.clock import Clock

T = TypeVar("T")
RECORD_BYTES_MAX: Final = 1_048_576
POLL_BUSY_S: Final = 0.005
POLL_IDLE_S: Final = 0.020
POLLS_BUSY: Final = 40
HEARTBEAT_S: Final = 1.0
LIVENESS_S: Final = 0.25
RETENTION_S: Final = 5.0
RETRY_S: Final = 0.5
RECORDS_TOGETHER_MAX: Final = 1_000
BUFFERED_RECORDS_MAX: Final = 8_192
READ_INLINE_RECORDS_MAX: Final = 64
"""More than this is read on another thread, so as not to hold up the event loop."""


class LocalBus(Bus):
    """A bus in the file of *database*, which stays its maker's to close.

    Args:
        clock: dates records and heartbeats.
        record_bytes_max: the largest record that is accepted: key, value and headers together.

    Raises:
        StoreTooNew: a newer version of saga wrote the file.
        StoreUnavailable: the file cannot be read or written.
    """

    def __init__(
        self,
        database: SqliteDatabase,
        *,
        clock: Clock,
        record_bytes_max: int = RECORD_BYTES_MAX,
    ) -> None:
        self.database = database
        self.log = RecordLog(database, record_bytes_max=record_bytes_max)
        self.delivery = EarlyDelivery(self.log)
        """How records reach the consumers of this process."""
        self._publishing = _Publishing(
            database, append=self.append, on_commit=self.delivery.deliver
        )
        self.delivers_early = False
        """Whether an event store on the same file has asked for it: see `EarlyDelivery`."""
        self._clock = clock
        self._consumers: list[LocalConsumer] = []
        self._groups: dict[str, groups.Group] = {}
        self._data_version = -1
        self._commits = (0, 0)
        self._polls_busy = 0
        self._tender: asyncio.Task[None] | None = None
        self._is_closed = False

    @override
    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        def work(cursor: sqlite3.Cursor) -> None:
            if self.log.create(cursor, topics):
                groups.begin_generation_everywhere(cursor)

        await self.write(work)
        self.log.topics(spec.name for spec in topics)
        await self._follow_groups()

    @override
    async def publish(self, records: Sequence[Record]) -> None:
        encoded = self.encode(records)
        if encoded:
            await self._publishing.write(encoded)

    @override
    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> LocalConsumer:
        names = tuple(dict.fromkeys(topics))
        member_id = await self._join(group, names)
        consumer = LocalConsumer(self, member_id, group, names, resume_at)
        self._consumers.append(consumer)
        self._tend_from_now_on()
        try:
            await self._follow_groups()
        except BusUnavailable:
            self._consumers.remove(consumer)  # silent from the start, it is soon expelled
            raise
        return consumer

    @override
    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        numbers = {self.log.source_id(source): source for source in sources}
        bounds_of = self.read_now(lambda cursor: self.log.bounds(cursor, numbers))
        return {numbers[source_id]: bounds for source_id, bounds in bounds_of.items()}

    @override
    async def close(self) -> None:
        self._is_closed = True
        if self._tender is not None:
            self._tender.cancel()
            await asyncio.gather(self._tender, return_exceptions=True)
        consumers = list(self._consumers)
        for consumer in consumers:
            consumer.end()
        await self.leave(consumers)

    # What an event store on the same file needs to publish in its own transaction.

    def allow_early_delivery(self) -> None:
        """From now on deliver records before they are durable to who commits in the same file."""
        self.delivers_early = True
        self._publishing.early_readers = EarlyReaders(
            self.delivery.deliver_early, self.delivery.retract
        )

    def encode(self, records: Sequence[Record]) -> list[EncodedRecord]:
        """Choose partitions and encode headers, on the event loop.

        Raises:
            BusUnavailable: the file cannot be read now.
            MessageTooLarge: a record exceeds the limit.
            TopicMissing: a topic does not exist.
        """
        if self._is_closed:
            raise BusUnavailable(f"{self.database.path}: the bus is closed")
        with as_bus_error():
            return self.log.encode(records)

    def append(self, cursor: sqlite3.Cursor, encoded: Sequence[EncodedRecord]) -> AppendedRecords:
        """Write *encoded* as a part of a job of the writer."""
        return self.log.append(cursor, encoded, now=self._clock.now())

    async def expire(self) -> None:
        """Delete what retention no longer keeps, in small transactions."""
        is_more = True
        while is_more:
            is_more = await self.write(
                lambda cursor: self.log.expire(cursor, now=self._clock.now())
            )

    # What consumers need.

    def check(self) -> None:
        """Raise what ended the watch over the file, so that nobody waits for it in vain."""
        if self._tender is not None and self._tender.done() and not self._is_closed:
            self._tender.result()

    def backlog(self, starts: Mapping[int, int]) -> int:
        """How many records are to be read from there; the sources are followed."""
        return sum(
            max(0, self.delivery.ends[source_id] - next_) for source_id, next_ in starts.items()
        )

    async def rejoin(self, consumer: LocalConsumer) -> None:
        """Make *consumer* a member again, after the group had given it up."""
        consumer.rejoined(await self._join(consumer.group, consumer.topics))
        await self._follow_groups()

    async def leave(self, consumers: Sequence[LocalConsumer]) -> None:
        """Take *consumers* out of their groups."""
        self._consumers = [other for other in self._consumers if other not in consumers]
        ids = [consumer.member_id for consumer in consumers]
        if ids:
            await self.write(lambda cursor: groups.leave(cursor, ids))
            await self._follow_groups()

    async def write(
        self,
        job: Callable[[sqlite3.Cursor], T],
        on_commit: Callable[[T], None] | None = None,
    ) -> T:
        """Run *job* in the next commit.

        Raises:
            BusUnavailable: the file cannot be written now.
        """
        with as_bus_error():
            return await self.database.write(job, on_commit=on_commit)

    async def read(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query* on a reader thread.

        Raises:
            BusUnavailable: the file cannot be read now.
        """
        with as_bus_error():
            return await self.database.read(query)

    def read_now(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query* here and now.

        Raises:
            BusUnavailable: the file cannot be read now.
        """
        with as_bus_error():
            return self.database.read_now(query)

    # Watching the file.

    async def _join(self, group: str, topics: Sequence[str]) -> int:
        now, ours = self._clock.now(), self._ours()
        return await self.write(
            lambda cursor: groups.join(cursor, group, topics, now=now, ours=ours)
        )

    def _tend_from_now_on(self) -> None:
        if self._tender is None:
            self._tender = asyncio.create_task(self._tend(), name="local bus")

    async def _tend(self) -> None:
        loop = asyncio.get_running_loop()
        beat_at = check_at = expire_at = loop.time()
        while True:
            try:
                await self._poll()
                now = loop.time()
                if now >= check_at:
                    check_at = now + LIVENESS_S
                    await self._expel_the_dead()
                if now >= beat_at:
                    beat_at = now + HEARTBEAT_S
                    await self._acknowledge(self._consumers)
                if now >= expire_at:
                    expire_at = now + RETENTION_S
                    await self.expire()
            except BusUnavailable:
                await asyncio.sleep(RETRY_S)  # fetch and publish say so to whoever waits
            self._polls_busy = max(0, self._polls_busy - 1)
            await asyncio.sleep(POLL_BUSY_S if self._polls_busy else POLL_IDLE_S)

    async def _poll(self) -> None:
        """See what others have done to the file since the last look.

        What this process writes is delivered in memory. While it writes, its writer tells whether
        others do too; only the first look after it has paused must assume that they might.
        """
        commits = self.database.commits
        version = self.read_now(_data_version)
        own, others = self._commits
        self._commits = commits
        if commits[0] != own and commits[1] == others:
            self._data_version = -1
            return
        if version == self._data_version:
            return
        followed, ends_known = self.delivery.sources, self.delivery.ends
        ends = self.read_now(lambda cursor: self.log.bounds(cursor, followed))
        known = {source_id: end for source_id, (_, end) in ends.items()}
        if any(ends_known.get(source_id, 0) < end for source_id, end in known.items()):
            self._polls_busy = POLLS_BUSY
        ends_known.update(known)
        for consumer in self._consumers:
            consumer.notice(known)
        await self._follow_groups()
        self._data_version = version

    async def _follow_groups(self) -> None:
        """Tell the consumers how their groups stand, and the groups what they made of it."""
        while self._consumers:
            self._groups = self.read_now(groups.read_groups)
            for consumer in self._consumers:
                consumer.follow(self._groups[consumer.group])
            late = [consumer for consumer in self._consumers if self._is_late(consumer)]
            if not late:
                return
            await self._acknowledge(late)

    def _is_late(self, consumer: LocalConsumer) -> bool:
        return any(
            member.member_id == consumer.member_id and member.generation < consumer.generation
            for member in self._groups[consumer.group].members
        )

    async def _acknowledge(self, consumers: Iterable[LocalConsumer]) -> None:
        reached = {consumer.member_id: consumer.generation for consumer in consumers}
        if reached:
            now = self._clock.now()
            await self.write(lambda cursor: groups.acknowledge(cursor, reached, now=now))

    async def _expel_the_dead(self) -> None:
        now, ours = self._clock.now(), self._ours()
        dead = [
            member
            for name in {consumer.group for consumer in self._consumers} & self._groups.keys()
            for member in groups.dead_members(self._groups[name], now=now, ours=ours)
        ]
        if dead:
            await self.write(lambda cursor: groups.expel(cursor, dead))
            await self._follow_groups()

    def _ours(self) -> frozenset[int]:
        return frozenset(consumer.member_id for consumer in self._consumers)


class LocalConsumer(Consumer):
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

    @override
    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
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

    @override
    async def seek(self, offsets: Mapping[Source, int]) -> None:
        numbers = {self._bus.log.source_id(source): at for source, at in offsets.items()}
        moved = numbers.keys() & self._next.keys()
        self._drop(moved)
        for source_id in moved:
            self._next[source_id] = numbers[source_id]
            self._behind.add(source_id)
            self._bus.delivery.sought(source_id)
        self._wake()

    @override
    async def commit(self, offsets: Mapping[Source, int]) -> None:
        rows = [(self.group, self._bus.log.source_id(at), next_) for at, next_ in offsets.items()]

        def work(cursor: sqlite3.Cursor) -> None:
            for row in rows:
                cursor.execute("INSERT OR REPLACE INTO bus_offsets VALUES (?, ?, ?)", row)

        if rows:
            await self._bus.write(work)

    @override
    def assignment(self) -> frozenset[Source]:
        return frozenset(map(self._bus.log.source, self._next))

    @property
    @override
    def progress(self) -> Mapping[Source, Progress]:
        ends = self._bus.delivery.ends
        following = dict(self._next)
        for source_id, inbound in reversed(self._buffer):
            following[source_id] = inbound.offset
        return {
            self._bus.log.source(source_id): Progress(offset, ends.get(source_id))
            for source_id, offset in following.items()
        }

    @property
    @override
    def stopped(self) -> Mapping[Source, str]:
        return {
            self._bus.log.source(source_id): reason for source_id, reason in self._stopped.items()
        }

    @property
    @override
    def waits_for(self) -> str | None:
        return None

    @override
    async def close(self) -> None:
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
        """Whether its generation gives it sources that it has neither begun nor given up."""
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


def _data_version(cursor: sqlite3.Cursor) -> int:
    return int(cursor.execute("PRAGMA data_version").fetchone()[0])


class _Together:
    """Records that wait for the next transaction, and who waits for them to be durable."""

    __slots__ = ("encoded", "task", "waiting")

    def __init__(self) -> None:
        self.encoded: list[EncodedRecord] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.task: asyncio.Task[None]

    def end(self, error: Exception | None) -> None:
        """Tell all who still wait."""
        for waiting in self.waiting:
            settle(waiting, None, error)


class _Publishing:
    """The way of published records to the writer of *database*.

    Args:
        append: writes records as a part of a job.
        on_commit: told of those that are durable, in commit order.
    """

    def __init__(
        self,
        database: SqliteDatabase,
        *,
        append: Callable[[sqlite3.Cursor, Sequence[EncodedRecord]], AppendedRecords],
        on_commit: Callable[[AppendedRecords], None],
    ) -> None:
        self._database = database
        self._append = append
        self._on_commit = on_commit
        self._together: _Together | None = None
        self.early_readers: EarlyReaders | None = None
        """Who may see records before they are durable."""

    async def write(self, encoded: Sequence[EncodedRecord]) -> None:
        """Return once these are durable; if it raises, none of them is.

        Raises:
            BusUnavailable: the file cannot be written now.
        """
        together = self._together
        if together is None or len(together.encoded) >= RECORDS_TOGETHER_MAX:
            together = self._together = _Together()
            together.task = asyncio.create_task(self._write(together))
        together.encoded += encoded
        # A future each: whoever stops waiting does not take the others' records along.
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        together.waiting.append(waiting)
        with as_bus_error():
            await waiting

    async def _write(self, together: _Together) -> None:
        def work(cursor: sqlite3.Cursor) -> AppendedRecords:
            self._seal(together)
            return self._append(cursor, together.encoded)

        failure: Exception | None = None
        try:
            await self._database.write(
                work, on_commit=self._on_commit, early_readers=self.early_readers
            )
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            failure = error
        finally:
            self._seal(together)
        together.end(failure)

    def _seal(self, together: _Together) -> None:
        """What is published from now on is not part of it: it may run again, or has failed."""
        if self._together is together:
            self._together = None


@value(kw_only=True)
class LocalBusState:
    """The partitions of each topic, and of each group its living members and committed offsets."""

    partitions: Mapping[str, int]
    members: Mapping[str, int]
    committed: Mapping[str, Mapping[Source, int]]


async def describe_local_bus(
    database: SqliteDatabase, groups: Collection[str], *, now: Instant
) -> LocalBusState:
    """How the bus in the file of *database* stands; a group that never was has no members.

    Raises:
        StoreUnavailable: the file cannot be read now.
    """

    def query(cursor: sqlite3.Cursor) -> LocalBusState:
        cursor.execute("SELECT topic_id, name, partitions FROM bus_topics")
        topics = {topic_id: (name, partitions) for topic_id, name, partitions in cursor.fetchall()}
        cursor.execute("SELECT group_name, source_id, next_offset FROM bus_offsets")
        committed: dict[str, dict[Source, int]] = {name: {} for name in groups}
        for group, source_id, offset in cursor.fetchall():
            if group in committed:
                topic, _ = topics[source_id >> PARTITION_BITS]
                partition = source_id & ((1 << PARTITION_BITS) - 1)
                committed[group][Source(topic, partition)] = offset
        group_of = read_groups(cursor)
        nobody = Group(generation=0, members=())
        members = {name: _living(group_of.get(name, nobody), now) for name in groups}
        return LocalBusState(partitions=dict(topics.values()), members=members, committed=committed)

    return await database.read(query)


def _living(group: Group, now: Instant) -> int:
    return len(group.members) - len(dead_members(group, now=now, ours=()))
