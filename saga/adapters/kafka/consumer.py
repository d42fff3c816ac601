"""One member of a consumer group, as `KafkaConsumer.fetch` leads it through its life.

1. **Join.** A `ConsumerSession` is one consumer of aiokafka, from joining to leaving. There is a
   new one whenever the last makes no progress (`watch`).
2. **Assigned.** The listener pauses the new partitions at once, and never waits: aiokafka swallows
   what a listener raises, and would read on from the group's committed offset meanwhile.
3. **Take over.** The next fetch asks where to begin, seeks and resumes. So an error reaches its
   caller, the next fetch tries again, and heartbeats go on meanwhile.
4. **Poll.** Records are returned, and positions move on in memory. While there is one that aiokafka
   cannot decode, partitions are polled one by one, so that it stops no other.
5. **Commit.** The caller commits offsets, once it is done with the records below them.
6. **Revoked.** The listener waits, for a while, until the records in hand are dealt with. The store
   fences those of a partition that was taken away all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
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
from saga.adapters.kafka.admin import Cluster
from saga.adapters.kafka.connection import KafkaConnection, described, within
from saga.adapters.kafka.diagnosis import connecting
from saga.core.values import value
from saga.errors import BusUnavailable, TopicMissing
from saga.ports.bus import (
    STOPPED_S,
    UNKNOWN_ORIGIN,
    Consumer,
    HearsOfRevocation,
    Inbound,
    OnRevoke,
    Origin,
    Progress,
    ResumeAt,
    Source,
    why_foreign,
    why_lost,
)
from saga.tasks import why_ended

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
"""With fewer polls it is the member that does not fetch, and its client is not to blame."""
FETCH_BYTES: Final = 16 * 1_048_576
"""Of one answer. A larger record comes all the same, alone; buffered is less than twice this."""
PARTITION_BYTES: Final = 1_048_576

_UNDECODABLE = (ValueError, RuntimeError, AssertionError)
"""What aiokafka raises for a record that it cannot decode; its own errors are RuntimeErrors."""
_REBALANCED = (CommitFailedError, IllegalStateError, RebalanceInProgressError)
log = logging.getLogger(__name__)


@value(kw_only=True)
class ConsumerSettings:
    """How members of groups behave.

    Args:
        session_timeout_ms: at least the brokers' `group.min.session.timeout.ms`, 6000 by default.
        judge_again_s: how often sources that are not read, and ids of topics, are looked at.
        stalled_s: how long a member may read nothing of what there is before it is made anew.
        instance_id: makes the membership static, without a leave on close; one for each process.
    """

    session_timeout_ms: int = 6_000
    heartbeat_interval_ms: int = 1_000
    fetch_wait_ms: int = 500
    metadata_max_age_ms: int = 10_000
    judge_again_s: float = STOPPED_S
    stalled_s: float = 20.0
    instance_id: str | None = None

    def options(self) -> dict[str, Any]:
        return {
            "session_timeout_ms": self.session_timeout_ms,
            "heartbeat_interval_ms": min(self.heartbeat_interval_ms, self.session_timeout_ms // 3),
            "rebalance_timeout_ms": 10_000,
            "fetch_max_wait_ms": self.fetch_wait_ms,
            "fetch_min_bytes": 1,
            "fetch_max_bytes": FETCH_BYTES,
            "max_partition_fetch_bytes": PARTITION_BYTES,
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


class KafkaConsumer(Consumer, HearsOfRevocation):
    """A member of a group; one task fetches. Without *resume_at* it begins at committed offsets."""

    def __init__(
        self,
        connection: KafkaConnection,
        cluster: Cluster,
        settings: ConsumerSettings,
        group: str,
        topics: Iterable[str],
        *,
        resume_at: ResumeAt | None,
        counts: Counter[str],
    ) -> None:
        self.group: Final = group
        self._connection = connection
        self._cluster = cluster
        self._settings = settings
        self._topics = frozenset(topics)
        self._resume_at = resume_at
        self._counts = counts
        self._on_revoke: OnRevoke | None = None
        self._session = self._new_session()
        self.is_closed = False

    async def open(self) -> None:
        """Return without an assignment where the group waits too long for a killed member."""
        await self._session.start(self._cluster)
        await self._follow_topics(self._session)
        if self._session.subscribed:
            await self._session.wait_for_assignment(JOIN_S)

    @override
    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not self.is_closed:
            session = await self._living_session()
            if session.subscribed != self._topics:
                await self._follow_topics(session)
            if session.unpositioned and session.is_assigned.is_set():
                await self._take_over(session)
            slice_s = max(0.0, min(SLICE_S, deadline_s - loop.time()))
            records = await self._poll(session, records_max, slice_s)
            session.polls += 1
            if records or loop.time() >= deadline_s:
                return records
        return []

    @override
    async def seek(self, offsets: Mapping[Source, int]) -> None:
        for source, offset in offsets.items():
            self._session.move(source, offset)

    @override
    async def commit(self, offsets: Mapping[Source, int]) -> None:
        if not offsets or self._session.is_ended:
            return
        try:
            async with within(EXCHANGE_S, "commit offsets"):
                await self._session.commit(offsets)
        except BusUnavailable as error:
            # A source that another member reads by now is that member's to commit.
            if not isinstance(error.__cause__, _REBALANCED):
                raise
            log.debug("%s: not committed: %s", self.group, error, extra={"reason": str(error)})

    @override
    def on_revoke(self, drain: OnRevoke) -> None:
        self._on_revoke = drain

    @override
    def assignment(self) -> frozenset[Source]:
        return frozenset(self._session.positions)

    @property
    @override
    def progress(self) -> Mapping[Source, Progress]:
        return self._session.progress()

    @property
    @override
    def stopped(self) -> Mapping[Source, str]:
        return dict(self._session.stopped)

    @property
    @override
    def waits_for(self) -> str | None:
        session = self._session
        if not session.is_assigned.is_set() or session.unpositioned:
            return f"an assignment in the group {self.group}"
        known = session.consumer.partitions_for_topic
        missing = sorted(topic for topic in self._topics if not known(topic))
        return f"topics that do not exist: {', '.join(missing)}" if missing else None

    @override
    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            await self._session.end()

    # 1. Join.

    def _new_session(self) -> ConsumerSession:
        return ConsumerSession(self._connection, self._settings, self.group, self._drained)

    async def _living_session(self) -> ConsumerSession:
        why = self._session.stalled
        if why is not None and not self._session.is_ended:
            self._counts["consumers_restarted"] += 1
            log.error("%s: the consumer is made anew: %s", self.group, why, extra={"reason": why})
            await self._session.end()
        if self._session.is_ended:
            self._session = self._new_session()
            await self._session.start(self._cluster)
        return self._session

    async def _follow_topics(self, session: ConsumerSession) -> None:
        """Subscribe to those topics that exist: asked for others, a cluster might make them."""
        now_s = asyncio.get_running_loop().time()
        if now_s < session.look_for_topics_at_s:
            return
        session.look_for_topics_at_s = now_s + MISSING_TOPICS_S
        missing = self._topics - session.subscribed
        existing = frozenset(await self._cluster.layouts(missing))
        if existing:
            session.subscribe(session.subscribed | existing)
        if missing - existing:
            log.info("%s: waits for topics: %s", self.group, ", ".join(sorted(missing - existing)))

    # 3. Take over.

    async def _take_over(self, session: ConsumerSession) -> None:
        """A source whose place is lost stops; without *resume_at* it begins anew."""
        generation, unpositioned = session.generation, dict(session.unpositioned)
        # Asked first: a topic that is made anew after this is found out the next time.
        origins = await self._cluster.origins({source.topic for source in unpositioned})
        starts: dict[Source, int | str]
        starts = {
            source: left
            for source, left in unpositioned.items()
            if left is not None and session.is_still(source, origins)
        }
        if unknown := sorted(unpositioned.keys() - starts.keys()):
            starts.update(await self._starts(session, unknown, origins))
        try:
            bounds = await self._cluster.bounds(unpositioned)
        except TopicMissing as error:
            raise BusUnavailable(f"kafka: {error.topic} has vanished") from error
        if session.generation != generation or self.is_closed:
            return  # the group has changed meanwhile
        session.origins.update(origins)
        for source in sorted(unpositioned):
            begin, end = bounds[source]
            start = starts.get(source, begin)
            lost = start if isinstance(start, str) else why_lost(source, start, begin, end)
            if lost is None:
                session.begin(source, int(start))
            elif self._resume_at is not None:
                self._stop_reading(session, source, lost)
            else:
                self._begin_anew(session, source, begin, lost)

    async def _starts(
        self, session: ConsumerSession, sources: Sequence[Source], origins: Mapping[str, Origin]
    ) -> Mapping[Source, int | str]:
        if self._resume_at is not None:
            return await self._resume_at(sources)
        async with within(EXCHANGE_S, "read committed offsets"):
            committed = await session.committed(sources)
        starts: dict[Source, int | str] = {}
        for source, (offset, origin) in committed.items():
            found = origins.get(source.topic, UNKNOWN_ORIGIN)
            starts[source] = why_foreign(source, origin, found) or offset
        return starts

    def _begin_anew(
        self, session: ConsumerSession, source: Source, begin: int, reason: str
    ) -> None:
        self._counts["sources_begun_anew"] += 1
        extra = {"topic": source.topic, "partition": source.partition, "reason": reason}
        log.error("%s: a partition begins anew: %s", self.group, reason, extra=extra)
        session.begin(source, begin)

    def _stop_reading(self, session: ConsumerSession, source: Source, reason: str) -> None:
        if session.stopped.get(source) == reason:
            session.stop_reading(source, reason)
            return
        self._counts["sources_stopped"] += 1
        extra = {"topic": source.topic, "partition": source.partition, "reason": reason}
        log.critical("%s: a partition stops: %s", self.group, reason, extra=extra)
        session.stop_reading(source, reason)

    # 4. Poll.

    async def _poll(
        self, session: ConsumerSession, records_max: int, timeout_s: float
    ) -> list[Inbound]:
        loop = asyncio.get_running_loop()
        if not session.is_assigned.is_set():
            await session.wait_for_assignment(timeout_s)
            return []
        if loop.time() < session.careful_until_s:
            return await self._poll_one_by_one(session, records_max, timeout_s)
        try:
            # Longer than its own wait: aiokafka waits for the end of a rebalance without a limit.
            async with asyncio.timeout(timeout_s + SLICE_S):
                batches = await session.consumer.getmany(
                    timeout_ms=timeout_s * 1000, max_records=records_max
                )
        except (TimeoutError, ConsumerStoppedError):
            return []
        except OffsetOutOfRangeError as error:
            session.look_again(error.args[0])
            return []
        except _UNDECODABLE as error:
            # aiokafka does not say which record, and has moved past others that it drained with it.
            session.rewind()
            session.careful_until_s = loop.time() + CAREFUL_S
            why = described(error)
            if isinstance(error, KafkaError):
                raise BusUnavailable(f"kafka: fetch: {why}") from error
            extra = {"reason": why}
            log.warning("%s: records cannot be decoded: %s", self.group, why, extra=extra)
            return []
        return session.received(batches) if batches else []

    async def _poll_one_by_one(
        self, session: ConsumerSession, records_max: int, timeout_s: float
    ) -> list[Inbound]:
        """So a partition that cannot be read is known by name, and stops no other."""
        records: list[Inbound] = []
        for source in list(session.positions):
            at, room = TopicPartition(*source), records_max - len(records)
            try:
                batches = await session.consumer.getmany(at, timeout_ms=0, max_records=room)
            except (ConsumerStoppedError, IllegalStateError):
                break
            except OffsetOutOfRangeError as error:
                session.look_again(error.args[0])
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
        offset = session.positions.get(source)
        if offset is None:
            return []
        try:
            if isinstance(error, KafkaError) and error.retriable:
                raise error
            records = await _aiokafka.read_corrupt_batch(session.consumer, source, offset)
        except _UNDECODABLE as failure:
            why = described(failure)
            if isinstance(failure, KafkaError) and failure.retriable:
                session.move(source, offset)
                raise BusUnavailable(f"kafka: fetch: {why}") from failure
            place = f"{source.topic}[{source.partition}]"
            self._stop_reading(session, source, f"{place} cannot be read at {offset}: {why}")
            return []
        self._counts["corrupt_batches_read"] += 1
        session.move(source, records[-1].offset + 1 if records else offset)
        return records

    # 6. Revoked.

    async def _drained(self) -> bool:
        return self._on_revoke is None or await self._on_revoke(DRAIN_S)


class ConsumerSession(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """One consumer of aiokafka, from joining to leaving, and its assignment.

    Attributes:
        positions: the next offset to return, of each source that is read.
        unpositioned: sources to be taken over, each with the offset where it was left, or None.
        stopped: sources that are assigned and not read, each with the reason.
        origins: of each topic which it was when it was taken over.
        generation: how often the assignment has changed; not the group's.
        polls: counted by whoever polls, and begun anew by the watchdog.
        stalled: why it makes no progress; None while it does.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        settings: ConsumerSettings,
        group: str,
        drained: Callable[[], Awaitable[bool]],
    ) -> None:
        options = connection.options() | settings.options()
        self.consumer: Final = AIOKafkaConsumer(group_id=group, **options)
        _aiokafka.set_bombs_aside(
            self.consumer, lambda why: log.error("%s: a batch is set aside: %s", group, why)
        )
        self.positions: dict[Source, int] = {}
        self.unpositioned: dict[Source, int | None] = {}
        self.stopped: dict[Source, str] = {}
        self.origins: dict[str, Origin] = {}
        self.generation = 0
        self.is_assigned = asyncio.Event()
        self.subscribed: frozenset[str] = frozenset()
        self.look_for_topics_at_s = 0.0
        self.careful_until_s = 0.0
        self.polls = 0
        self.stalled: str | None = None
        self.is_ended = False
        self._connection = connection
        self._judge_again_s = settings.judge_again_s
        self._stalled_s = settings.stalled_s
        self._group = group
        self._drained = drained
        self._left: tuple[tuple[str, int], dict[Source, int]] | None = None
        self._watchers: list[asyncio.Task[None]] = []

    async def start(self, cluster: Cluster) -> None:
        """Connect, and be watched from now on; it has ended where that fails."""
        try:
            async with connecting(self._connection, EXCHANGE_S, "connect a consumer"):
                await self.consumer.start()
            _aiokafka.give_inbound(self.consumer)
            _aiokafka.fetch_in_sessions(self.consumer)
        except BaseException:
            await self.end()
            raise
        # Bare tasks: the session begins in one call and ends in another.
        self._watchers = [
            asyncio.create_task(watch(self, cluster, self._stalled_s), name="watchdog"),
            asyncio.create_task(judge_again(self, cluster, self._judge_again_s), name="judge"),
        ]
        for watcher in self._watchers:
            watcher.add_done_callback(self._watch_ended)

    def _watch_ended(self, watcher: asyncio.Task[None]) -> None:
        """Nobody would see any more what aiokafka does not say: the session is made anew."""
        if not self.is_ended and self.stalled is None:
            self.stalled = str(why_ended(watcher, "the watch over it"))

    def subscribe(self, topics: frozenset[str]) -> None:
        """Read these topics, which must exist, from the next rebalance on."""
        self.subscribed = topics
        self.consumer.subscribe(sorted(topics), listener=self)

    @override
    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.generation += 1
        self._forget()  # once more: aiokafka may have lost the group without a word
        expected, left = self._left or (None, {})
        # Nobody else had them in between, if this is the very next generation of the group.
        is_next = expected == _aiokafka.generation_of(self.consumer)
        for at in assigned:
            source = Source(*at)
            if is_next and source in left:
                self.positions[source] = left[source]
                self.consumer.seek(at, left[source])
            else:
                self.unpositioned[source] = None
                self.consumer.pause(at)
                # Any position will do: without one, aiokafka looks for the group's.
                self.consumer.seek(at, 0)
        self.is_assigned.set()
        log.info(
            "%s: %d partitions are assigned, %d of them without a committed offset",
            self._group,
            len(self.positions) + len(self.unpositioned),
            len(self.unpositioned),
        )

    @override
    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        # All is revoked: aiokafka knows eager rebalances only. Heartbeats go on meanwhile.
        self.generation += 1
        self.is_assigned.clear()
        is_drained = False
        try:
            is_drained = not self.positions or await self._drained()
        finally:
            member_id, generation = _aiokafka.generation_of(self.consumer)
            expected = (member_id, generation + 1)
            self._left = (expected, dict(self.positions) if is_drained else {})
            self._forget()

    def _forget(self) -> None:
        self.positions, self.unpositioned, self.stopped = {}, {}, {}

    async def wait_for_assignment(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.is_assigned.wait()

    def received(self, batches: Mapping[TopicPartition, Sequence[Inbound]]) -> list[Inbound]:
        """Move past the records of *batches* and return them, byte for byte."""
        received: list[Inbound] = []
        for at, records in batches.items():
            source = Source(*at)
            if source in self.positions:  # or else it is to be taken over anew
                received += records
                self.positions[source] = records[-1].offset + 1
        return received

    def progress(self) -> dict[Source, Progress]:
        """How far each source is read; its end as of the last answer of its broker."""
        end_of, assigned = self.consumer.highwater, self.consumer.assignment()
        return {
            source: Progress(offset, end_of(at) if at in assigned else None)
            for source, offset in self.positions.items()
            for at in (TopicPartition(*source),)
        }

    def begin(self, source: Source, offset: int) -> None:
        at = TopicPartition(*source)
        self.consumer.seek(at, offset)
        self.consumer.resume(at)
        self.unpositioned.pop(source, None)
        self.stopped.pop(source, None)
        self.positions[source] = offset

    def stop_reading(self, source: Source, reason: str) -> None:
        """Leave *source* alone until it is assigned anew; the others go on."""
        self.consumer.pause(TopicPartition(*source))
        self.unpositioned.pop(source, None)
        self.positions.pop(source, None)
        self.stopped[source] = reason

    def look_again(self, partitions: Iterable[TopicPartition]) -> None:
        """Have these taken over anew from their positions."""
        for at in partitions:
            offset = self.positions.pop(Source(*at), None)
            if offset is not None:
                self.consumer.pause(at)
                self.unpositioned[Source(*at)] = offset

    def take_over_anew(self, source: Source) -> None:
        """Have *source* judged as if it were new here; one that is stopped is so until then."""
        self.consumer.pause(TopicPartition(*source))
        self.positions.pop(source, None)
        self.unpositioned[source] = None

    def is_still(self, source: Source, origins: Mapping[str, Origin]) -> bool:
        """Whether its topic is, by *origins*, the one that was taken over."""
        known = self.origins.get(source.topic, UNKNOWN_ORIGIN)
        return why_foreign(source, known, origins.get(source.topic, UNKNOWN_ORIGIN)) is None

    def move(self, source: Source, offset: int) -> None:
        """Drop what is buffered of *source* and read on at *offset*; nothing if it is not read."""
        if source in self.positions:
            self.positions[source] = offset
            self.consumer.seek(TopicPartition(*source), offset)

    def rewind(self) -> None:
        """Drop all that is buffered; the records returned last do not come again."""
        for source, offset in self.positions.items():
            self.consumer.seek(TopicPartition(*source), offset)

    async def committed(self, sources: Sequence[Source]) -> dict[Source, tuple[int, Origin]]:
        """A source without a committed offset is left out."""
        found = await _aiokafka.committed(self.consumer, sources)
        return {source: (offset, _origin_in(kept)) for source, (offset, kept) in found.items()}

    async def commit(self, offsets: Mapping[Source, int]) -> None:
        """Never beyond what was read: records in hand may be of a topic that is no more."""
        await self.consumer.commit(
            {
                TopicPartition(*at): OffsetAndMetadata(
                    min(following, self.positions.get(at, following)), self._metadata(at)
                )
                for at, following in offsets.items()
            }
        )

    def _metadata(self, source: Source) -> str:
        """What is committed beside an offset: which topic it belongs to."""
        return "/".join(each or "" for each in self.origins.get(source.topic, UNKNOWN_ORIGIN))

    @property
    def is_rejoining(self) -> bool:
        return not self.is_assigned.is_set() or _aiokafka.wants_to_rejoin(self.consumer)

    async def end(self) -> None:
        """Leave the group within a few seconds, even where aiokafka does not stop by itself."""
        if self.is_ended:
            return
        self.is_ended = True
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        # In a task of its own: a cancelled one of aiokafka's may escape as our own cancellation.
        stopping = asyncio.ensure_future(self.consumer.stop())
        await asyncio.wait([stopping], timeout=STOP_S)
        if not stopping.done() or stopping.cancelled() or stopping.exception() is not None:
            log.warning("%s: the consumer did not stop by itself", self._group)
            stopping.cancel()
            await _aiokafka.drop_consumer(self.consumer)
        self._forget()
        self.is_assigned.clear()


def _origin_in(metadata: str) -> Origin:
    """What was committed beside an offset, by us; what others have written there says nothing."""
    parts = metadata.split("/")
    return Origin(*(part or None for part in parts)) if len(parts) == len(Origin()) else Origin()


async def judge_again(session: ConsumerSession, cluster: Cluster, every_s: float) -> None:
    """Have taken over anew what another topic has come in the place of, and what was stopped.

    Where it is fetched from, Kafka knows a topic by its name alone.
    """
    while True:
        await asyncio.sleep(every_s)
        with contextlib.suppress(BusUnavailable):
            found = await cluster.origins({source.topic for source in session.positions})
            for source in list(session.positions):
                if not session.is_still(source, found):
                    session.take_over_anew(source)
        for source in session.stopped:
            session.take_over_anew(source)


async def watch(session: ConsumerSession, cluster: Cluster, stalled_s: float) -> None:
    """Notice that aiokafka stopped fetching without an error; asks the cluster, not the client."""
    behind: dict[Source, int] = {}
    was_rejoining = False
    while session.stalled is None:
        session.polls = 0
        await asyncio.sleep(stalled_s)
        if session.is_rejoining:
            if was_rejoining:
                session.stalled = f"no assignment for {stalled_s:g} s"
            was_rejoining, behind = True, {}
            continue
        was_rejoining = False
        now_behind = await _sources_behind(session, cluster)
        stuck = [source for source, at in now_behind.items() if behind.get(source) == at]
        if stuck and session.polls >= POLLS_MIN:
            session.stalled = f"records of {stuck[0]} are not fetched for {stalled_s:g} s"
        behind = now_behind


async def _sources_behind(session: ConsumerSession, cluster: Cluster) -> dict[Source, int]:
    positions = dict(session.positions)
    try:
        bounds = await cluster.bounds(positions, isolation=_aiokafka.READ_COMMITTED)
    except (BusUnavailable, TopicMissing):
        return {}  # then the client is not to blame
    return {source: at for source, at in positions.items() if at < bounds[source][1]}
