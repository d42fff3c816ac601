"""The local bus: topics, keyed partitions, offsets and consumer groups in one SQLite file.

Durable and shared by any number of processes on one machine, and no more than Kafka offers. What
this process publishes reaches its own consumers in memory, once it is committed; what others
publish is noticed by asking SQLite every few milliseconds whether anybody has written.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from saga.adapters.sqlite import groups
from saga.adapters.sqlite.commits import settle
from saga.adapters.sqlite.connection import as_bus_error
from saga.adapters.sqlite.consumer import LocalConsumer
from saga.adapters.sqlite.database import EarlyReaders, SqliteDatabase
from saga.adapters.sqlite.groups import Group, dead_members, read_groups
from saga.adapters.sqlite.records import (
    PARTITION_BITS,
    AppendedRecords,
    EarlyDelivery,
    EncodedRecord,
    RecordLog,
)
from saga.core.identity import Instant
from saga.core.values import value
from saga.errors import BusUnavailable
from saga.ports.bus import Record, ResumeAt, Source, TopicSpec
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


class LocalBus:
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

    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        """Make the topics that are not there; those that are stay as they are.

        Raises:
            BusUnavailable: the file cannot be written now.
        """

        def work(cursor: sqlite3.Cursor) -> None:
            if self.log.create(cursor, topics):
                groups.begin_generation_everywhere(cursor)

        await self.write(work)
        self.log.topics(spec.name for spec in topics)
        await self._follow_groups()

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish all of *records* in one transaction: durable when it returns, or none of them.

        Raises:
            BusUnavailable: the file cannot be written now.
            MessageTooLarge: a record exceeds the limit; none was published.
            TopicMissing: a topic does not exist; none was published.
        """
        encoded = self.encode(records)
        if encoded:
            await self._publishing.write(encoded)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> LocalConsumer:
        """Join *group* on *topics*; those that do not exist yet are read once they do.

        Raises:
            BusUnavailable: the file cannot be written now.
        """
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

    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        """Of each source the first offset kept and the next one to be written.

        Raises:
            TopicMissing: a source does not exist.
        """
        numbers = {self.log.source_id(source): source for source in sources}
        bounds_of = self.read_now(lambda cursor: self.log.bounds(cursor, numbers))
        return {numbers[source_id]: bounds for source_id, bounds in bounds_of.items()}

    async def close(self) -> None:
        """Leave all groups and stop watching the file. The database stays open."""
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
        """Raise what ended the watch over the file, if anything did: nobody may wait for it in
        vain.
        """
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

        What this process writes is handed over in memory. While it writes, its writer tells whether
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
        """Tell the consumers how their groups stand, and the groups what the consumers made of
        it.
        """
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
        found = read_groups(cursor)
        nobody = Group(generation=0, members=())
        members = {name: _living(found.get(name, nobody), now) for name in groups}
        return LocalBusState(partitions=dict(topics.values()), members=members, committed=committed)

    return await database.read(query)


def _living(group: Group, now: Instant) -> int:
    return len(group.members) - len(dead_members(group, now=now, ours=()))
