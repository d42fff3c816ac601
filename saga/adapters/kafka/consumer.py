"""One member of a consumer group: joins, fetches, and takes over assigned sources.

A `ConsumerSession` is one consumer of aiokafka from joining to leaving; `KafkaConsumer` makes a new
one whenever the watchdog finds that the last makes no progress.

On assignment the listener never waits: aiokafka swallows what a listener raises, and would read on
from the group's committed offset meanwhile. The listener pauses the new sources at once. The next
`fetch` asks where to begin, so that an error reaches its caller, the next fetch tries again,
and heartbeats go on meanwhile. On revocation the listener waits, for a while, until the records in
hand are dealt with. The store fences records of a source that was taken away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
)
from aiokafka.structs import OffsetAndMetadata
from typing_extensions import override

from saga.adapters.kafka import _aiokafka
from saga.adapters.kafka.admin import READ_COMMITTED, Cluster
from saga.adapters.kafka.connection import KafkaConnection, described, within
from saga.adapters.kafka.diagnosis import connecting
from saga.core.identity import Instant
from saga.core.values import value
from saga.errors import BusUnavailable, TopicMissing
from saga.ports.bus import (
    Consumer,
    HearsOfRevocation,
    Inbound,
    OnRevoke,
    Progress,
    ResumeAt,
    Source,
    why_lost,
)

EXCHANGE_S: Final = 10.0
JOIN_S: Final = 2.0
STOP_S: Final = 3.0
DRAIN_S: Final = 3.0
"""How long the records in hand may hold up a rebalance; the other members wait meanwhile."""
SLICE_S: Final = 0.2
"""How long a fetch waits for records before it looks at the assignment again."""
MISSING_TOPICS_S: Final = 1.0
CAREFUL_S: Final = 5.0
POLLS_MIN: Final = 3
"""A member that does not fetch makes no progress either, and its client is not to blame."""

log = logging.getLogger(__name__)


@value(kw_only=True)
class ConsumerSettings:
    """How members of groups behave.

    Args:
        session_timeout_ms: how long a killed member's partitions stay unread. Not less than the
            brokers' `group.min.session.timeout.ms`, which is 6000 unless somebody changed it.
        heartbeat_interval_ms: how late a member hears of a rebalance.
        rebalance_timeout_ms: how long the others wait for one that does not answer.
        fetch_wait_ms: how long a broker holds a fetch without records; a record ends it at once.
        fetch_bytes: the size of one answer. A larger record comes all the same, alone. What is
            buffered stays below twice this size a broker.
        partition_bytes: the size of one partition in an answer.
        metadata_max_age_ms: how late new partitions, and topics that come later, are noticed.
        stalled_s: how long a member may make no progress, although there is something to read,
            before it is made anew.
        instance_id: makes the membership static. A member that comes back within the session
            timeout under the same id gets its partitions back without a rebalance, and does not
            leave when it closes. Each process needs its own.
    """

    session_timeout_ms: int = 6_000
    heartbeat_interval_ms: int = 1_000
    rebalance_timeout_ms: int = 10_000
    fetch_wait_ms: int = 500
    fetch_bytes: int = 16 * 1_048_576
    partition_bytes: int = 1_048_576
    metadata_max_age_ms: int = 10_000
    stalled_s: float = 20.0
    instance_id: str | None = None

    def options(self) -> dict[str, Any]:
        """The arguments of a consumer of aiokafka, beside its connection and group."""
        return {
            "session_timeout_ms": self.session_timeout_ms,
            "heartbeat_interval_ms": min(self.heartbeat_interval_ms, self.session_timeout_ms // 3),
            "rebalance_timeout_ms": self.rebalance_timeout_ms,
            "fetch_max_wait_ms": self.fetch_wait_ms,
            "fetch_min_bytes": 1,
            "fetch_max_bytes": self.fetch_bytes,
            "max_partition_fetch_bytes": self.partition_bytes,
            "metadata_max_age_ms": self.metadata_max_age_ms,
            "group_instance_id": self.instance_id,
            # Several assignors make aiokafka join once for each of them; range brings equal
            # partition numbers, hence the records of one saga, to one member.
            "partition_assignment_strategy": (RangePartitionAssignor,),
            # Positions are ours: nothing is committed behind our back, and where there is no
            # position, nothing is read rather than the wrong records.
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            # Records that an upstream transaction has withdrawn must not start a saga.
            "isolation_level": "read_committed",
            "check_crcs": True,
            "exclude_internal_topics": True,
            # A store that is away for a day must not cost the membership; heartbeats go on.
            "max_poll_interval_ms": 86_400_000,
            "consumer_timeout_ms": 200,
        }


@value
class GroupSubscription:
    """A group, its topics, and who knows where to begin; None leaves that to the group."""

    group: str
    topics: frozenset[str]
    resume_at: ResumeAt | None


class KafkaConsumer(Consumer, HearsOfRevocation):
    """A member of a group. Made by `KafkaBus.subscribe`; one task at a time fetches."""

    def __init__(
        self,
        connection: KafkaConnection,
        cluster: Cluster,
        settings: ConsumerSettings,
        subscription: GroupSubscription,
        *,
        counts: Counter[str],
        on_close: Callable[[KafkaConsumer], None],
    ) -> None:
        self.group: Final = subscription.group
        self._connection = connection
        self._cluster = cluster
        self._settings = settings
        self._subscription = subscription
        self._counts = counts
        self._on_close = on_close
        self._drain: OnRevoke | None = None
        self._session: ConsumerSession | None = None
        self._watchdog: Watchdog | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Connect and join.

        Raises:
            BusUnavailable: no broker answers.
        """
        consumer = AIOKafkaConsumer(
            group_id=self.group, **self._connection.options(), **self._settings.options()
        )
        session = ConsumerSession(consumer, self.group)
        session.drain = self._drain
        try:
            async with connecting(self._connection, EXCHANGE_S, "connect a consumer"):
                await consumer.start()
        except BaseException:
            await session.end()
            raise
        self._session = session
        self._watchdog = Watchdog(session, self._cluster, self._settings.stalled_s)
        self._watchdog.start()
        await self._follow_topics(session)

    async def join(self) -> None:
        """Wait until the group has assigned a share to this member, but not for long.

        While the group waits for a member that was killed, there is other work to do.
        """
        session = self._session
        if session is not None and session.subscribed:
            await session.wait_for_assignment(JOIN_S)

    @override
    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not self._is_closed:
            session = await self._living_session()
            if session.subscribed != self._subscription.topics:
                await self._follow_topics(session)
            if session.fresh and session.is_assigned.is_set():
                await self._take_over(session)
            slice_s = max(0.0, min(SLICE_S, deadline_s - loop.time()))
            records = await self._poll(session, records_max, slice_s)
            if self._watchdog is not None:
                self._watchdog.polls += 1
            if records or loop.time() >= deadline_s:
                return records
        return []

    @override
    async def seek(self, offsets: Mapping[Source, int]) -> None:
        if self._session is not None:
            for source, offset in offsets.items():
                self._session.move(source, offset)

    @override
    async def commit(self, offsets: Mapping[Source, int]) -> None:
        # A source that another member reads by now is that member's to commit.
        if not offsets or self._session is None:
            return
        try:
            async with within(EXCHANGE_S, "commit offsets"):
                await self._session.commit(offsets)
        except IllegalStateError as error:
            log.debug(
                "%s: offsets are not committed: %s",
                self.group,
                described(error),
                extra={"reason": described(error)},
            )
        except BusUnavailable as error:
            if not isinstance(error.__cause__, CommitFailedError | RebalanceInProgressError):
                raise
            log.debug(
                "%s: offsets are not committed: %s", self.group, error, extra={"reason": str(error)}
            )

    @override
    def on_revoke(self, drain: OnRevoke) -> None:
        self._drain = drain
        if self._session is not None:
            self._session.drain = drain

    @override
    def assignment(self) -> frozenset[Source]:
        return frozenset() if self._session is None else frozenset(self._session.following)

    @property
    def has_joined(self) -> bool:
        """Whether the group has assigned a share, be it nothing, and all of it is read."""
        session = self._session
        return session is not None and session.is_assigned.is_set() and not session.fresh

    @property
    @override
    def progress(self) -> Mapping[Source, Progress]:
        return {} if self._session is None else self._session.progress()

    @property
    @override
    def stopped(self) -> Mapping[Source, str]:
        return {} if self._session is None else dict(self._session.stopped)

    @property
    @override
    def waits_for(self) -> str | None:
        if self._session is None or not self.has_joined:
            return f"an assignment in the group {self.group}"
        return self._session.waits_for(self._subscription.topics)

    @override
    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._on_close(self)
            await self._leave()

    async def _living_session(self) -> ConsumerSession:
        """The session; a new one where there is none, or where it makes no progress."""
        if self._watchdog is not None and self._watchdog.verdict is not None:
            self._counts["consumers_restarted"] += 1
            log.error(
                "%s: the consumer is made anew: %s",
                self.group,
                self._watchdog.verdict,
                extra={"reason": self._watchdog.verdict},
            )
            await self._leave()
        if self._session is None:
            await self.open()
        assert self._session is not None, "`open` makes one or raises"
        return self._session

    async def _leave(self) -> None:
        session, self._session = self._session, None
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            await watchdog.stop()
        if session is not None:
            await session.end()
            session.following = {}

    async def _follow_topics(self, session: ConsumerSession) -> None:
        """Subscribe to those topics that exist: asked for others, a cluster might make them."""
        now_s = asyncio.get_running_loop().time()
        if now_s < session.look_for_topics_at_s:
            return
        session.look_for_topics_at_s = now_s + MISSING_TOPICS_S
        missing = self._subscription.topics - session.subscribed
        existing = frozenset(await self._cluster.layouts(missing))
        if existing:
            session.subscribe(session.subscribed | existing)
        if missing - existing:
            log.info("%s: waits for topics: %s", self.group, ", ".join(sorted(missing - existing)))

    async def _take_over(self, session: ConsumerSession) -> None:
        """Begin to read the sources that are fresh; one whose place is lost stops."""
        generation = session.generation
        fresh = dict(session.fresh)
        unknown = sorted(source for source, offset in fresh.items() if offset is None)
        starts = {source: offset for source, offset in fresh.items() if offset is not None}
        starts.update(await self._starts(session, unknown))
        try:
            bounds = await self._cluster.bounds(fresh)
        except TopicMissing as error:
            raise BusUnavailable(f"kafka: {error.topic} has vanished") from error
        if session.generation != generation or self._is_closed:
            return  # the group has changed meanwhile
        for source in sorted(fresh):
            begin, end = bounds[source]
            start = starts.get(source, begin)
            lost = why_lost(source, start, begin, end)
            if lost is None:
                session.begin(source, start)
            elif self._subscription.resume_at is None:
                log.error(
                    "%s: a partition begins anew: %s",
                    self.group,
                    lost,
                    extra={"topic": source.topic, "partition": source.partition, "reason": lost},
                )
                self._counts["sources_begun_anew"] += 1
                session.begin(source, begin)
            else:
                self._stop_reading(session, source, lost)

    async def _starts(
        self, session: ConsumerSession, sources: Sequence[Source]
    ) -> Mapping[Source, int]:
        if not sources:
            return {}
        if self._subscription.resume_at is not None:
            return await self._subscription.resume_at(sources)
        async with within(EXCHANGE_S, "read committed offsets"):
            return await session.committed(sources)

    def _stop_reading(self, session: ConsumerSession, source: Source, reason: str) -> None:
        self._counts["sources_stopped"] += 1
        log.critical(
            "%s: a partition stops: %s",
            self.group,
            reason,
            extra={"topic": source.topic, "partition": source.partition, "reason": reason},
        )
        session.stop_reading(source, reason)

    async def _poll(
        self, session: ConsumerSession, records_max: int, timeout_s: float
    ) -> list[Inbound]:
        loop = asyncio.get_running_loop()
        if not session.is_assigned.is_set():
            await session.wait_for_assignment(timeout_s)
            return []
        if loop.time() < session.careful_until_s:
            return await self._poll_carefully(session, records_max, timeout_s)
        try:
            # Twice as long: aiokafka itself waits for the end of a rebalance without a limit.
            async with asyncio.timeout(timeout_s + SLICE_S):
                batches = await session.consumer.getmany(
                    timeout_ms=timeout_s * 1000, max_records=records_max
                )
        except (TimeoutError, ConsumerStoppedError):
            return []
        except OffsetOutOfRangeError as error:
            session.look_again(_sources_of(error))
            return []
        except KafkaError as error:
            session.rewind()
            session.careful_until_s = loop.time() + CAREFUL_S
            raise BusUnavailable(f"kafka: fetch: {described(error)}") from error
        except (UnicodeDecodeError, ValueError, RuntimeError, AssertionError) as error:
            # A record that cannot be decoded. aiokafka does not say which, and has moved past the
            # others that it drained with it.
            log.warning(
                "%s: records cannot be decoded: %s",
                self.group,
                described(error),
                extra={"reason": described(error)},
            )
            session.rewind()
            session.careful_until_s = loop.time() + CAREFUL_S
            return []
        return session.received(batches) if batches else []

    async def _poll_carefully(
        self, session: ConsumerSession, records_max: int, timeout_s: float
    ) -> list[Inbound]:
        """Partition by partition, so that one that cannot be read is known by name."""
        records: list[Inbound] = []
        for source in list(session.following):
            at = TopicPartition(*source)
            try:
                batches = await session.consumer.getmany(
                    at, timeout_ms=0, max_records=records_max - len(records)
                )
            except (ConsumerStoppedError, IllegalStateError):
                break
            except OffsetOutOfRangeError as error:
                session.look_again(_sources_of(error))
                break
            except Exception as error:  # noqa: BLE001  # decoding may raise anything
                records += await self._skip_corrupt_batch(session, source, error)
                break
            records += session.received(batches)
            if len(records) >= records_max:
                break
        if not records:
            await asyncio.sleep(min(timeout_s, 0.02))
        return records

    async def _skip_corrupt_batch(
        self, session: ConsumerSession, source: Source, error: Exception
    ) -> list[Inbound]:
        """Read past a record that aiokafka cannot decode, or stop the partition where we cannot."""
        offset = session.following.get(source)
        if offset is None:
            return []
        if isinstance(error, KafkaError) and error.retriable:
            session.move(source, offset)
            raise BusUnavailable(f"kafka: fetch: {described(error)}") from error
        try:
            records = await _aiokafka.read_corrupt_batch(session.consumer, source, offset)
        except (KafkaError, ValueError, RuntimeError, AssertionError) as failure:
            if isinstance(failure, KafkaError) and failure.retriable:
                session.move(source, offset)
                raise BusUnavailable(f"kafka: fetch: {described(failure)}") from failure
            reason = f"{source.topic}[{source.partition}] cannot be read at {offset}: "
            self._stop_reading(session, source, reason + described(failure))
            return []
        self._counts["corrupt_batches_read"] += 1
        session.move(source, records[-1].offset + 1 if records else offset)
        return records


class ConsumerSession(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """One consumer of aiokafka, from joining to leaving, and its assignment.

    Attributes:
        following: the next offset to return, of each source that is read.
        fresh: sources to be taken over, each with the offset where it was left, or None.
        stopped: sources that are assigned and not read, each with the reason.
        generation: how often the assignment has changed.
        is_assigned: set while there is an assignment.
        drain: awaited before a rebalance.
        subscribed: the topics that the consumer was told to read.
    """

    def __init__(self, consumer: AIOKafkaConsumer, group: str) -> None:
        self.consumer = consumer
        self.following: dict[Source, int] = {}
        self.fresh: dict[Source, int | None] = {}
        self.stopped: dict[Source, str] = {}
        self.generation = 0
        self.is_assigned = asyncio.Event()
        self.drain: OnRevoke | None = None
        self.subscribed: frozenset[str] = frozenset()
        self.look_for_topics_at_s = 0.0
        self.careful_until_s = 0.0
        self._group = group
        self._left: tuple[tuple[str, int], dict[Source, int]] | None = None

    def subscribe(self, topics: frozenset[str]) -> None:
        """Read these topics, which must exist, from the next rebalance on."""
        self.subscribed = topics
        self.consumer.subscribe(sorted(topics), listener=self)

    @override
    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        # All is revoked, as aiokafka knows eager rebalances only. Until this returns we are a
        # member of the old generation, and heartbeats go on.
        self.generation += 1
        self.is_assigned.clear()
        is_drained = False
        try:
            is_drained = self.drain is None or not self.following or await self.drain(DRAIN_S)
        finally:
            member_id, generation = _aiokafka.generation_of(self.consumer)
            expected = (member_id, generation + 1)
            self._left = (expected, dict(self.following) if is_drained else {})
            self._forget()

    @override
    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        # Called before anything of the new sources was read.
        self.generation += 1
        self._forget()  # once more: aiokafka may have lost the group without a word
        expected, left = self._left or (None, {})
        # Nobody else had them in between, if this is the very next generation of the group.
        is_next = expected == _aiokafka.generation_of(self.consumer)
        for at in assigned:
            source = Source(at.topic, at.partition)
            if is_next and source in left:
                self.following[source] = left[source]
                self.consumer.seek(at, left[source])
            else:
                self.fresh[source] = None
                self.consumer.pause(at)
                # Any position will do: without one, aiokafka looks for the group's.
                self.consumer.seek(at, 0)
        self.is_assigned.set()
        log.info(
            "%s: %d partitions are assigned, %d of them without a committed offset",
            self._group,
            len(self.following) + len(self.fresh),
            len(self.fresh),
        )

    def _forget(self) -> None:
        self.following = {}
        self.fresh = {}
        self.stopped = {}

    async def wait_for_assignment(self, timeout_s: float) -> None:
        """Return when there is an assignment, or after *timeout_s*."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.is_assigned.wait()

    def waits_for(self, topics: Iterable[str]) -> str | None:
        """Those of *topics* that do not exist, as far as the client knows, in words."""
        known = self.consumer.partitions_for_topic
        missing = sorted(topic for topic in topics if not known(topic))
        return f"topics that do not exist: {', '.join(missing)}" if missing else None

    def received(self, batches: Mapping[Any, Sequence[Any]]) -> list[Inbound]:
        """The records of *batches*, byte for byte; moves past them."""
        received: list[Inbound] = []
        add = received.append
        for at, records in batches.items():
            topic, partition = at
            for record in records:
                add(
                    Inbound(
                        topic,
                        partition,
                        record.offset,
                        record.key,
                        record.value,
                        record.headers,
                        Instant(record.timestamp * 1000),
                    )
                )
            self.following[Source(topic, partition)] = records[-1].offset + 1
        return received

    def progress(self) -> dict[Source, Progress]:
        """How far each source is read; its end as of the last answer of its broker."""
        end_of, assigned = self.consumer.highwater, self.consumer.assignment()
        return {
            source: Progress(offset, end_of(at) if at in assigned else None)
            for source, offset in self.following.items()
            for at in (TopicPartition(*source),)
        }

    def begin(self, source: Source, offset: int) -> None:
        """Read a fresh source from *offset* on."""
        at = TopicPartition(*source)
        self.consumer.seek(at, offset)
        self.consumer.resume(at)
        self.fresh.pop(source, None)
        self.following[source] = offset

    def stop_reading(self, source: Source, reason: str) -> None:
        """Leave *source* alone until it is assigned anew; the others go on."""
        self.consumer.pause(TopicPartition(*source))
        self.fresh.pop(source, None)
        self.following.pop(source, None)
        self.stopped[source] = reason

    def look_again(self, sources: Iterable[Source]) -> None:
        """Have these taken over anew from where they were left."""
        for source in sources:
            offset = self.following.pop(source, None)
            if offset is not None:
                self.consumer.pause(TopicPartition(*source))
                self.fresh[source] = offset

    def move(self, source: Source, offset: int) -> None:
        """Read on from there, if *source* is read here."""
        if source in self.following:
            self.following[source] = offset
            self.consumer.seek(TopicPartition(*source), offset)

    def rewind(self) -> None:
        """Drop all that is buffered and read on behind the records returned last."""
        for source, offset in self.following.items():
            self.consumer.seek(TopicPartition(*source), offset)

    async def committed(self, sources: Sequence[Source]) -> dict[Source, int]:
        """The group's committed offsets, of those *sources* that have one."""
        offsets = await asyncio.gather(
            *(self.consumer.committed(TopicPartition(*source)) for source in sources)
        )
        return {
            source: offset
            for source, offset in zip(sources, offsets, strict=True)
            if offset is not None
        }

    async def commit(self, offsets: Mapping[Source, int]) -> None:
        """Commit for the group."""
        await self.consumer.commit(
            {
                TopicPartition(*source): OffsetAndMetadata(offset, "")
                for source, offset in offsets.items()
            }
        )

    @property
    def is_rejoining(self) -> bool:
        """Whether a rebalance is wanted or under way."""
        return not self.is_assigned.is_set() or _aiokafka.wants_to_rejoin(self.consumer)

    async def end(self) -> None:
        """Leave the group and close all connections, within a few seconds."""
        consumer = self.consumer
        # In a task of its own: a cancelled one of aiokafka's may escape as our own cancellation.
        stopping = asyncio.ensure_future(consumer.stop())
        await asyncio.wait([stopping], timeout=STOP_S)
        if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
            return
        log.warning("%s: the consumer did not stop by itself", self._group)
        for task in (stopping, *_aiokafka.tasks_of(consumer)):
            task.cancel()
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(STOP_S):
                await _aiokafka.close_client(consumer)


class Watchdog:
    """Notices a session without progress: aiokafka can stop fetching or rejoining without an error.

    It asks the cluster, not the client, whose view may be stuck as well. *verdict* is the problem,
    or None while all is well.
    """

    def __init__(self, session: ConsumerSession, cluster: Cluster, stalled_s: float) -> None:
        self._session = session
        self._cluster = cluster
        self._stalled_s = stalled_s
        self._task: asyncio.Task[None] | None = None
        self.polls = 0
        self.verdict: str | None = None

    def start(self) -> None:
        """Begin to watch."""
        # A bare task: the session begins in one call and ends in another.
        self._task = asyncio.create_task(self._watch(), name="kafka watchdog")

    async def stop(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        behind: dict[Source, int] = {}
        was_rejoining = False
        while self.verdict is None:
            self.polls = 0
            await asyncio.sleep(self._stalled_s)
            if self._session.is_rejoining:
                if was_rejoining:
                    self.verdict = f"no assignment for {self._stalled_s:g} s"
                was_rejoining, behind = True, {}
                continue
            was_rejoining = False
            now_behind = await self._sources_behind()
            stuck = [source for source, at in now_behind.items() if behind.get(source) == at]
            if stuck and self.polls >= POLLS_MIN:
                self.verdict = f"records of {stuck[0]} are not fetched for {self._stalled_s:g} s"
            behind = now_behind

    async def _sources_behind(self) -> dict[Source, int]:
        """The next offset of each source that has more records."""
        following = dict(self._session.following)
        try:
            bounds = await self._cluster.bounds(following, isolation=READ_COMMITTED)
        except (BusUnavailable, TopicMissing):
            return {}  # then the client is not to blame
        return {source: at for source, at in following.items() if at < bounds[source][1]}


def _sources_of(error: OffsetOutOfRangeError) -> list[Source]:
    return [Source(at.topic, at.partition) for at in error.args[0]]
