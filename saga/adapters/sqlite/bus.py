"""The local bus: topics, keyed partitions, offsets and consumer groups in one SQLite file.

Shared by any number of processes on one machine. What this process publishes reaches its own
consumers in memory; what others publish is noticed by asking SQLite every few milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from typing_extensions import override

from saga.adapters.clocks import SystemClock
from saga.adapters.partitioner import RECORD_BYTES_MAX, assign_ranges
from saga.adapters.sqlite import groups
from saga.adapters.sqlite.connection import as_bus_error
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.delivery import EarlyDelivery, Reader
from saga.adapters.sqlite.groups import NO_GROUP, Group
from saga.adapters.sqlite.records import PlacedRecord, RecordBatch, RecordLog
from saga.adapters.sqlite.writer import EarlyReaders, Job, settle
from saga.core.retry import Retry
from saga.core.values import value
from saga.errors import BusUnavailable
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
from saga.retrying import Backoff
from saga.tasks import why_ended

log = logging.getLogger(__name__)
T = TypeVar("T")
POLL_BUSY_S: Final = 0.005
POLL_IDLE_S: Final = 0.020
POLLS_BUSY: Final = 40
HEARTBEAT_S: Final = 1.0
LIVENESS_S: Final = 0.25
RETENTION_S: Final = 5.0
FILE_AWAY: Final = Retry(attempts=None, initial="50ms", factor=2.0, cap="500ms", jitter=0.5)
JOB_RECORDS_MAX: Final = 1_000
NEW_BATCHES_MAX: Final = 1_000
"""Where more were written since the last look, the end of each source is asked for."""
READ_INLINE_RECORDS_MAX: Final = 64
"""More than this is read on another thread, so as not to hold up the event loop."""


class _Together(NamedTuple):
    """Records that wait for the next transaction, and who waits for them; they are one job."""

    placed: list[PlacedRecord]
    publishers: list[asyncio.Future[None]]


@value(kw_only=True)
class LocalBusState:
    """The partitions of each topic, and of each group its living members and committed offsets."""

    partitions: Mapping[str, int]
    members: Mapping[str, int]
    committed: Mapping[str, Mapping[Source, int]]


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
        self, database: SqliteDatabase, *, clock: Clock, record_bytes_max: int = RECORD_BYTES_MAX
    ) -> None:
        self.database = database
        self._record_bytes_max = record_bytes_max
        self.log = RecordLog(database, record_bytes_max=record_bytes_max)
        self.delivery = EarlyDelivery()
        self.early_readers: EarlyReaders | None = None
        """Who may have records before they are durable."""
        self._clock = clock
        self._consumers: list[LocalConsumer] = []
        self._groups: dict[str, Group] = {}
        self._groups_version: groups.Version | None = None
        self._are_groups_old = False
        self._position = 0
        """Of the last batch in the file when it was looked for new ones."""
        self._together: _Together | None = None
        self._foreign_commits = _ForeignCommits(database)
        self._tender: asyncio.Task[None] | None = None
        self._is_closed = False

    @override
    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        def work(cursor: sqlite3.Cursor) -> None:
            if self.log.create(cursor, topics):
                groups.begin_generation_everywhere(cursor)

        await self.write(work)
        await self._follow_groups()

    @override
    async def publish(self, records: Sequence[Record]) -> None:
        placed = self.place(records)
        if not placed:
            return
        with as_bus_error():
            together = self._together
            if together is None or len(together.placed) >= JOB_RECORDS_MAX:
                together = self._together = self._next_job()
            together.placed.extend(placed)
            # Of its own: whoever stops waiting does not take the others' records along.
            published: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            together.publishers.append(published)
            await published

    @override
    async def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        return dict.fromkeys(topics, self._record_bytes_max)

    @override
    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> LocalConsumer:
        names = tuple(dict.fromkeys(topics))
        member_id = await self._join(group, names)
        is_early = self.early_readers is not None and resume_at is not None
        consumer = LocalConsumer(self, member_id, group, names, resume_at, is_early=is_early)
        self._consumers.append(consumer)
        if self._tender is None:
            self._tender = asyncio.create_task(self._tend(), name="local bus")
        try:
            await self._follow_groups()
        except BusUnavailable:
            self._consumers.remove(consumer)  # silent from the start, it is soon expelled
            raise
        return consumer

    @override
    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        return self.read_now(lambda cursor: self.log.bounds(cursor, sources))

    @override
    async def origins(self, topics: Collection[str]) -> Mapping[str, Origin]:
        return self.read_now(lambda cursor: self.log.origins(cursor, topics))

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

    def describe(self, group_names: Iterable[str]) -> LocalBusState:
        """How the bus stands; a group that never was has no members. Raises BusUnavailable."""
        names, now = list(group_names), self._clock.now()

        def query(cursor: sqlite3.Cursor) -> LocalBusState:
            group_of = groups.read_groups(cursor)
            members = {name: group_of[name].members if name in group_of else () for name in names}
            return LocalBusState(
                partitions=self.log.partitions(cursor),
                members={
                    name: sum(not groups.is_dead(member, now) for member in members[name])
                    for name in names
                },
                committed={name: self.log.committed(cursor, name) for name in names},
            )

        return self.read_now(query)

    # What stores on the same file need to publish in their own transactions.

    def allow_early_delivery(self) -> None:
        """Deliver records before they are durable to consumers that commit in the same file."""
        self.early_readers = EarlyReaders(self.delivery.deliver_early, self.delivery.retract)

    def place(self, records: Sequence[Record]) -> list[PlacedRecord]:
        """Accept all *records*, or none, and choose their partitions.

        Raises:
            BusUnavailable: the file cannot be read now.
            MessageTooLarge: a record exceeds the limit.
            TopicMissing: a topic does not exist.
        """
        if self._is_closed:
            raise BusUnavailable(f"{self.database.path}: the bus is closed")
        return self.log.place(records)

    def append(self, cursor: sqlite3.Cursor, placed: Sequence[PlacedRecord]) -> list[RecordBatch]:
        return self.log.append(cursor, placed, now=self._clock.now())

    async def expire(self) -> None:
        """Apply retention, in small transactions."""
        while await self.write(lambda cursor: self.log.expire(cursor, now=self._clock.now())):
            pass

    # What consumers need.

    def check(self) -> None:
        """Raise what ended the watch over the file: nobody is to wait for it in vain."""
        if self._tender is None or self._is_closed:
            return
        error = why_ended(self._tender, f"the watch over {self.database.path}")
        if error is not None:
            raise error

    async def rejoin(self, consumer: LocalConsumer) -> None:
        consumer.become(await self._join(consumer.group, consumer.topics))
        await self._follow_groups()

    async def leave(self, consumers: Sequence[LocalConsumer]) -> None:
        self._consumers = [other for other in self._consumers if other not in consumers]
        ids = [consumer.member_id for consumer in consumers]
        if ids:
            await self.write(lambda cursor: groups.leave(cursor, ids))
            await self._follow_groups()

    async def write(self, job: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *job* in the next commit, or raise BusUnavailable."""
        with as_bus_error():
            return await self.database.write(job)

    async def read(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query* on a reader thread, or raise BusUnavailable."""
        with as_bus_error():
            return await self.database.read(query)

    def read_now(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query* on this thread, or raise BusUnavailable."""
        with as_bus_error():
            return self.database.read_now(query)

    def _next_job(self) -> _Together:
        """A job that writes what is published until the writer comes to it."""
        together = _Together([], [])

        def close() -> None:
            if self._together is together:
                self._together = None

        def work(cursor: sqlite3.Cursor) -> list[RecordBatch]:
            close()  # it may run again, with the same records
            return self.append(cursor, together.placed)

        def end(_: object, error: BaseException | None) -> None:
            close()
            for published in together.publishers:
                settle(published, None, error)

        on_commit, early = self.delivery.deliver, self.early_readers
        self.database.writer.submit(Job(work, end, on_commit=on_commit, early_readers=early))
        return together

    # Watching the file.

    async def _join(self, group: str, topics: Sequence[str]) -> int:
        now, ours = self._clock.now(), self._ours()
        return await self.write(
            lambda cursor: groups.join(cursor, group, topics, now=now, ours=ours)
        )

    async def _tend(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(f"local bus {self.database.path}", SystemClock(), FILE_AWAY)
        beat_at = check_at = expire_at = loop.time()
        polls_busy = 0
        while True:
            try:
                polls_busy = POLLS_BUSY if await self._poll() else max(0, polls_busy - 1)
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
                backoff.reset()
            except BusUnavailable as error:  # fetch and publish say so to whoever waits
                await backoff.pause("bus unavailable", error)
            await asyncio.sleep(POLL_BUSY_S if polls_busy else POLL_IDLE_S)

    async def _poll(self) -> bool:
        """Act on what others have done to the file; whether they have published."""
        version = self.read_now(self._foreign_commits.look)
        if version is None:
            return False
        ends = self.delivery.ends
        now_ends = self.read_now(self._new_ends)
        is_more = any(ends.get(source, 0) < end for source, end in now_ends.items())
        ends.update(now_ends)
        for consumer in self._consumers:
            consumer.reader.notice(now_ends)
        self._are_groups_old = True
        if self.read_now(groups.version) != self._groups_version:
            await self._follow_groups()
        self._foreign_commits.data_version = version
        return is_more

    def _new_ends(self, cursor: sqlite3.Cursor) -> dict[Source, int]:
        """The ends of sources that are followed: only of those with something new, if it is little.

        Others than this process may write often, and there may be thousands of sources.
        """
        ends, before = self.delivery.ends, self._position
        last = self.log.last_position(cursor)
        if before <= last <= before + NEW_BATCHES_MAX:
            found = self.log.ends_since(cursor, before)
            now_ends = {source: end for source, end in found.items() if source in ends}
        else:
            bounds = self.log.bounds(cursor, ends)
            now_ends = {source: end for source, (_, end) in bounds.items()}
        self._position = last
        return now_ends

    async def _follow_groups(self) -> None:
        self._are_groups_old = False
        while self._consumers:
            self._groups_version = self.read_now(groups.version)
            self._groups = self.read_now(groups.read_groups)
            for consumer in self._consumers:
                consumer.follow(self._groups.get(consumer.group, NO_GROUP))
            late = [
                each
                for each in self._consumers
                if _is_late(each, self._groups.get(each.group, NO_GROUP))
            ]
            if not late:
                return
            await self._acknowledge(late)

    async def _acknowledge(self, consumers: Iterable[LocalConsumer]) -> None:
        reached = {consumer.member_id: consumer.generation for consumer in consumers}
        if reached:
            now = self._clock.now()
            await self.write(lambda cursor: groups.acknowledge(cursor, reached, now=now))

    async def _expel_the_dead(self) -> None:
        if self._are_groups_old:
            await self._follow_groups()  # for their signs of life
        now, ours = self._clock.now(), self._ours()
        names = {consumer.group for consumer in self._consumers} & self._groups.keys()
        followed = [self._groups[name] for name in names]
        dead = [
            member
            for group in followed
            for member in groups.dead_members(group, now=now, ours=ours)
        ]
        damaged = [member_id for group in followed for member_id in group.damaged]

        def work(cursor: sqlite3.Cursor) -> None:
            groups.expel(cursor, dead)
            groups.remove_damaged(cursor, damaged)

        if dead or damaged:
            await self.write(work)
            await self._follow_groups()

    def _ours(self) -> frozenset[int]:
        return frozenset(consumer.member_id for consumer in self._consumers)


class LocalConsumer(Consumer):
    """A member of a group; only one task at a time may fetch."""

    def __init__(
        self,
        bus: LocalBus,
        member_id: int,
        group: str,
        topics: tuple[str, ...],
        resume_at: ResumeAt | None,
        *,
        is_early: bool,
    ) -> None:
        self._bus = bus
        self._resume_at = resume_at
        self.reader = Reader(is_early=is_early)
        self.member_id = member_id
        self.group = group
        self.topics = topics
        self.generation = 0
        self._wanted: frozenset[Source] = frozenset()
        self._stopped: dict[Source, str] = {}
        self._judge_at_s = 0.0
        self._is_settled = False
        self._is_expelled = False
        self._is_closed = False

    @override
    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        loop, reader = asyncio.get_running_loop(), self.reader
        deadline = loop.time() + timeout_s
        while not self._is_closed:
            if self._is_expelled:
                await self._bus.rejoin(self)
            while self._is_settled and (self._lacks_sources or self._is_to_judge_again):
                await self._take_over()
            if reader.behind and not reader.is_full:
                await self._catch_up(records_max)
            if reader.buffer:
                return reader.take(records_max)
            remaining_s = deadline - loop.time()
            if remaining_s <= 0:
                break
            self._bus.check()
            await reader.wait(remaining_s)
            if reader.buffer:  # what it has is its own; the next fetch sees to the rest
                return reader.take(records_max)
        return []

    @override
    async def seek(self, offsets: Mapping[Source, int]) -> None:
        moved = {source: at for source, at in offsets.items() if source in self.reader.next}
        self.reader.read_from(moved)
        self._bus.delivery.sought(moved)
        self.reader.wake(always=True)

    @override
    async def commit(self, offsets: Mapping[Source, int]) -> None:
        if offsets:
            await self._bus.write(lambda cursor: self._bus.log.commit(cursor, self.group, offsets))

    @override
    def assignment(self) -> frozenset[Source]:
        return frozenset(self.reader.next)

    @property
    @override
    def progress(self) -> Mapping[Source, Progress]:
        return self.reader.progress(self._bus.delivery.ends)

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
        if not self._is_closed:
            self.end()
            await self._bus.leave([self])

    def end(self) -> None:
        """Stop reading without telling the group."""
        self._is_closed = True
        self._keep(frozenset())
        self.reader.wake(always=True)

    def follow(self, group: Group) -> None:
        """Let go now of what the group takes away; the next `fetch` takes over what it gives."""
        if self._is_closed:
            return
        if not group.has(self.member_id):
            self._is_expelled, self._is_settled = True, False
            self._keep(frozenset())
            self.reader.wake(always=True)
            return
        if group.generation != self.generation:
            topics_of = {member.member_id: member.topics for member in group.members}
            partitions = self._bus.read_now(self._bus.log.partitions)
            self._keep(frozenset(assign_ranges(topics_of, partitions)[self.member_id]))
            self.generation = group.generation
        self._is_settled = group.is_settled
        if self._is_settled and self._lacks_sources:
            self.reader.wake(always=True)

    def become(self, member_id: int) -> None:
        self.member_id, self.generation, self._is_expelled = member_id, 0, False

    @property
    def _lacks_sources(self) -> bool:
        """Whether the group gives it sources that it has neither begun nor stopped."""
        return len(self._wanted) > len(self.reader.next) + len(self._stopped)

    @property
    def _is_to_judge_again(self) -> bool:
        """Whether sources were stopped so long ago that somebody may have seen to them."""
        return bool(self._stopped) and asyncio.get_running_loop().time() >= self._judge_at_s

    def _keep(self, wanted: frozenset[Source]) -> None:
        self._wanted = wanted
        self._bus.delivery.unfollow(self.reader, self.reader.next.keys() - wanted)
        self.reader.keep(wanted)
        self._stopped = {at: reason for at, reason in self._stopped.items() if at in wanted}

    async def _take_over(self) -> None:
        bus, reader, generation = self._bus, self.reader, self.generation
        stopped = {} if self._is_to_judge_again else self._stopped
        added = sorted(self._wanted - reader.next.keys() - stopped.keys())
        starts: Mapping[Source, int | str]
        if self._resume_at is not None:
            starts = await self._resume_at(added)
        else:
            starts = bus.read_now(lambda cursor: bus.log.committed(cursor, self.group))
        bounds = await bus.bounds(added)
        if generation != self.generation or not self._is_settled:
            return  # the group has changed meanwhile
        self._judge_at_s = asyncio.get_running_loop().time() + STOPPED_S
        offsets: dict[Source, int] = {}
        for source, (begin, end) in bounds.items():
            start = starts.get(source, begin)
            lost = start if isinstance(start, str) else why_lost(source, start, begin, end)
            if lost is not None and self._resume_at is not None:
                self._stop_reading(source, lost)
                continue
            self._stopped.pop(source, None)
            bus.delivery.follow(reader, source, end=end)
            offsets[source] = begin if lost is not None else int(start)
        reader.read_from(offsets)

    def _stop_reading(self, source: Source, reason: str) -> None:
        if self._stopped.get(source) != reason:
            extra = {"topic": source.topic, "partition": source.partition, "reason": reason}
            log.critical("%s: a partition stops: %s", self.group, reason, extra=extra)
        self._stopped[source] = reason

    async def _catch_up(self, records_max: int) -> None:
        bus, reader = self._bus, self.reader
        ends = bus.delivery.ends
        starts = {at: reader.next[at] for at in sorted(reader.behind) if reader.next[at] < ends[at]}
        share = max(1, records_max // max(len(starts), 1))
        backlog = sum(ends[at] - offset for at, offset in starts.items())
        reader.behind.clear()
        if not starts:
            return

        def query(cursor: sqlite3.Cursor) -> dict[Source, list[Inbound]]:
            return {at: bus.log.read(cursor, at, offset, share) for at, offset in starts.items()}

        try:
            is_short = backlog <= READ_INLINE_RECORDS_MAX
            records_of = bus.read_now(query) if is_short else await bus.read(query)
        except BusUnavailable:
            reader.behind.update(starts.keys() & reader.next.keys())
            raise
        for source, records in records_of.items():
            if reader.next.get(source) != starts[source] or not records:
                continue  # sought or let go of meanwhile; or nothing there yet
            reader.buffer += records
            reader.next[source] = end = records[-1].offset + 1
            if end < ends[source] or len(records) >= share:
                reader.behind.add(source)


class _ForeignCommits:
    """Whether other processes have written the file; what this one writes comes through memory."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._commits = (0, 0)
        self.data_version = -1
        """SQLite's, as it was when all that others had written was known."""

    def look(self, cursor: sqlite3.Cursor) -> int | None:
        """SQLite's data version, if others may have written since the last look."""
        (own, others), self._commits = self._commits, self._database.commits
        if self._commits[0] != own and self._commits[1] == others:
            self.data_version = -1
            return None
        (version,) = cursor.execute("PRAGMA data_version").fetchone()
        return None if version == self.data_version else int(version)


def _is_late(consumer: LocalConsumer, group: Group) -> bool:
    """Whether the group waits for this member to let go."""
    return any(
        member.member_id == consumer.member_id and member.generation < consumer.generation
        for member in group.members
    )
