"""One member of a consumer group: fetches, and takes over what a rebalance gives.

Where to begin is asked in `fetch`, while the new sources are paused: whatever goes wrong reaches
whoever fetches, the next fetch tries again, and heartbeats go on meanwhile. Records of a source
that was taken away are fenced by the store; here they are only no longer returned.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
)

from saga.adapters.kafka.cluster import Cluster
from saga.adapters.kafka.connection import KafkaConnection
from saga.adapters.kafka.diagnosis import connecting
from saga.adapters.kafka.failures import described, within
from saga.adapters.kafka.membership import Membership
from saga.adapters.kafka.salvage import read_carefully
from saga.adapters.kafka.settings import ConsumerSettings
from saga.adapters.kafka.watchdog import Watchdog
from saga.errors import BusUnavailable, TopicMissing
from saga.logs import get_logger
from saga.ports.bus import Inbound, OnRevoke, Progress, ResumeAt, Source, why_lost

EXCHANGE_S: Final = 10.0
JOIN_S: Final = 2.0
SLICE_S: Final = 0.2
"""How long a fetch waits for records before it looks at the assignment again."""
MISSING_TOPICS_S: Final = 1.0
CAREFUL_S: Final = 5.0

Closed = Callable[["KafkaConsumer"], None]
log = get_logger("saga.kafka")


class KafkaConsumer:
    """A member of a group. Made by `KafkaBus.subscribe`; one task at a time fetches."""

    def __init__(
        self,
        connection: KafkaConnection,
        cluster: Cluster,
        settings: ConsumerSettings,
        *,
        group: str,
        topics: Sequence[str],
        resume_at: ResumeAt | None,
        counts: Counter[str],
        closed: Closed,
    ) -> None:
        self._connection = connection
        self._cluster = cluster
        self._settings = settings
        self._topics = frozenset(topics)
        self._resume_at = resume_at
        self._counts = counts
        self._closed = closed
        self._membership: Membership | None = None
        self._let_go: OnRevoke | None = None
        self._subscribed: frozenset[str] = frozenset()
        self._look_for_topics_at = 0.0
        self._careful_until = 0.0
        self._watchdog: Watchdog | None = None
        self._is_closed = False
        self.group = group

    async def open(self) -> None:
        """Connect and join.

        Raises:
            BusUnavailable: nobody answers.
        """
        loop = asyncio.get_running_loop()
        consumer = AIOKafkaConsumer(
            group_id=self.group, **self._connection.options(), **self._settings.options()
        )
        membership = Membership(consumer, self.group)
        membership.let_go = self._let_go
        try:
            async with connecting(self._connection, EXCHANGE_S, "connect a consumer"):
                await consumer.start()
        except BaseException:
            await membership.end()
            raise
        self._membership = membership
        self._subscribed = frozenset()
        self._look_for_topics_at = 0.0
        self._watchdog = Watchdog(membership, self._cluster, self._settings.stalled_s)
        self._watchdog.start(loop)
        await self._follow_topics(membership, loop.time())

    async def join(self) -> None:
        """Wait until the group has given this member its share. Not for long: while the group waits
        for a member that was killed, there is other work to do.
        """
        membership = self._membership
        if self._subscribed and membership is not None:
            await membership.wait(JOIN_S)

    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        """Up to *records_max* records, as they were published; empty after *timeout_s*.

        Raises:
            BusUnavailable: nobody answers; the next fetch tries again.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not self._is_closed:
            now_s = loop.time()
            membership = await self._living()
            if self._subscribed != self._topics:
                await self._follow_topics(membership, now_s)
            if membership.fresh and membership.settled.is_set():
                await self._take_over(membership)
            slice_s = max(0.0, min(SLICE_S, deadline_s - loop.time()))
            found = await self._poll(membership, records_max, slice_s)
            if self._watchdog is not None:
                self._watchdog.polls += 1
            if found or loop.time() >= deadline_s:
                return found
        return []

    async def seek(self, offsets: Mapping[Source, int]) -> None:
        """Read on from these offsets; sources that are not read here are left alone."""
        if self._membership is not None:
            for source, offset in offsets.items():
                self._membership.move(source, offset)

    async def commit(self, offsets: Mapping[Source, int]) -> None:
        """Remember for the group the *next* offset to read of each source; forward or back.

        What another member reads by now is its to commit: then this does nothing.

        Raises:
            BusUnavailable: nobody answers.
        """
        if not offsets or self._membership is None:
            return
        try:
            async with within(EXCHANGE_S, "commit offsets"):
                await self._membership.commit(offsets)
        except IllegalStateError as error:
            log.debug("offsets not committed", group=self.group, reason=described(error))
        except BusUnavailable as error:
            if not isinstance(error.__cause__, CommitFailedError | RebalanceInProgressError):
                raise
            log.debug("offsets not committed", group=self.group, reason=str(error))

    def on_revoke(self, let_go: OnRevoke) -> None:
        """Have *let_go* awaited before each rebalance, for a few seconds at most."""
        self._let_go = let_go
        if self._membership is not None:
            self._membership.let_go = let_go

    def assignment(self) -> frozenset[Source]:
        """The sources this member reads now."""
        return frozenset() if self._membership is None else frozenset(self._membership.next)

    @property
    def has_joined(self) -> bool:
        """Whether the group has said what this member reads, be it nothing, and it reads all of
        it.
        """
        membership = self._membership
        return membership is not None and membership.settled.is_set() and not membership.fresh

    @property
    def progress(self) -> Mapping[Source, Progress]:
        """Of each source that this member reads, how far."""
        return {} if self._membership is None else self._membership.progress()

    @property
    def stopped(self) -> Mapping[Source, str]:
        """The sources that are assigned to this member and not read, each with the reason."""
        return {} if self._membership is None else dict(self._membership.stopped)

    @property
    def waits_for(self) -> str | None:
        """What is missing before this member reads all of its topics; None when nothing is."""
        if self._membership is None or not self.has_joined:
            return f"an assignment in the group {self.group}"
        return self._membership.waits_for(self._topics)

    async def close(self) -> None:
        """Leave the group at once, if its member is not a static one."""
        if not self._is_closed:
            self._is_closed = True
            self._closed(self)
            await self._leave()

    async def _living(self) -> Membership:
        """The membership; a new one where there is none, or where it makes no progress."""
        if self._watchdog is not None and self._watchdog.verdict is not None:
            self._counts["consumers_restarted"] += 1
            log.error("a consumer is made anew", group=self.group, reason=self._watchdog.verdict)
            await self._leave()
        if self._membership is None:
            await self.open()
        assert self._membership is not None
        return self._membership

    async def _leave(self) -> None:
        membership, self._membership = self._membership, None
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            await watchdog.stop()
        if membership is not None:
            await membership.end()
            membership.next = {}

    async def _follow_topics(self, membership: Membership, now_s: float) -> None:
        """Subscribe to those topics that exist: asked for others, a cluster might make them."""
        if now_s < self._look_for_topics_at:
            return
        self._look_for_topics_at = now_s + MISSING_TOPICS_S
        missing = self._topics - self._subscribed
        found = frozenset(await self._cluster.layouts(missing))
        if found:
            self._subscribed |= found
            membership.subscribe(self._subscribed)
        if missing - found:
            log.info("waiting for topics", group=self.group, missing=sorted(missing - found))

    async def _take_over(self, membership: Membership) -> None:
        """Begin to read what a rebalance has given; a source whose place is lost stops."""
        generation = membership.generation
        fresh = dict(membership.fresh)
        unknown = sorted(source for source, offset in fresh.items() if offset is None)
        starts = {source: offset for source, offset in fresh.items() if offset is not None}
        starts.update(await self._starts(membership, unknown))
        try:
            bounds = await self._cluster.bounds(fresh)
        except TopicMissing as error:
            raise BusUnavailable(f"kafka: {error.topic} has vanished") from error
        if membership.generation != generation or self._is_closed:
            return  # the group has changed meanwhile
        for source in sorted(fresh):
            begin, end = bounds[source]
            start = starts.get(source, begin)
            lost = why_lost(source, start, begin, end)
            if lost is None:
                membership.begin(source, start)
            elif self._resume_at is None:
                log.error("begins anew", group=self.group, reason=lost)
                self._counts["sources_begun_anew"] += 1
                membership.begin(source, begin)
            else:
                self._stop_reading(membership, source, lost)

    async def _starts(
        self, membership: Membership, sources: Sequence[Source]
    ) -> Mapping[Source, int]:
        if not sources:
            return {}
        if self._resume_at is not None:
            return await self._resume_at(sources)
        async with within(EXCHANGE_S, "read committed offsets"):
            return await membership.committed(sources)

    def _stop_reading(self, membership: Membership, source: Source, reason: str) -> None:
        self._counts["sources_stopped"] += 1
        log.critical("a partition stops", group=self.group, reason=reason)
        membership.stop_reading(source, reason)

    async def _poll(
        self, membership: Membership, records_max: int, timeout_s: float
    ) -> list[Inbound]:
        loop = asyncio.get_running_loop()
        if not membership.settled.is_set():
            await membership.wait(timeout_s)
            return []
        if loop.time() < self._careful_until:
            return await self._poll_carefully(membership, records_max, timeout_s)
        try:
            # Twice as long: aiokafka itself waits for the end of a rebalance without a limit.
            async with asyncio.timeout(timeout_s + SLICE_S):
                found = await membership.consumer.getmany(
                    timeout_ms=timeout_s * 1000, max_records=records_max
                )
        except TimeoutError:
            return []
        except ConsumerStoppedError:
            return []
        except OffsetOutOfRangeError as error:
            membership.look_again(_sources_of(error))
            return []
        except KafkaError as error:
            membership.rewind()
            self._careful_until = loop.time() + CAREFUL_S
            raise BusUnavailable(f"kafka: fetch: {described(error)}") from error
        except (UnicodeDecodeError, ValueError, RuntimeError, AssertionError) as error:
            # A record that cannot be decoded. What was drained of others beside it is lost in
            # aiokafka, which has moved on; and it does not say which one it was.
            log.warning("cannot decode", group=self.group, reason=described(error))
            membership.rewind()
            self._careful_until = loop.time() + CAREFUL_S
            return []
        return membership.received(found) if found else []

    async def _poll_carefully(
        self, membership: Membership, records_max: int, timeout_s: float
    ) -> list[Inbound]:
        """Partition by partition, so that one that cannot be read is known by name."""
        found: list[Inbound] = []
        for source in list(membership.next):
            at = TopicPartition(*source)
            try:
                records = await membership.consumer.getmany(
                    at, timeout_ms=0, max_records=records_max - len(found)
                )
            except (ConsumerStoppedError, IllegalStateError):
                break
            except OffsetOutOfRangeError as error:
                membership.look_again(_sources_of(error))
                break
            except Exception as error:  # noqa: BLE001  # whatever decoding may raise
                found += await self._salvage(membership, source, error)
                break
            found += membership.received(records)
            if len(found) >= records_max:
                break
        if not found:
            await asyncio.sleep(min(timeout_s, 0.02))
        return found

    async def _salvage(
        self, membership: Membership, source: Source, error: Exception
    ) -> list[Inbound]:
        """Read past a record that aiokafka cannot decode; what we cannot either stops the
        partition.
        """
        offset = membership.next.get(source)
        if offset is None:
            return []
        if isinstance(error, KafkaError) and error.retriable:
            membership.move(source, offset)
            raise BusUnavailable(f"kafka: fetch: {described(error)}") from error
        try:
            records = await read_carefully(membership.consumer, source, offset)
        except (KafkaError, ValueError, RuntimeError, AssertionError) as failure:
            if isinstance(failure, KafkaError) and failure.retriable:
                membership.move(source, offset)
                raise BusUnavailable(f"kafka: fetch: {described(failure)}") from failure
            reason = f"{source.topic}[{source.partition}] cannot be read at {offset}: "
            self._stop_reading(membership, source, reason + described(failure))
            return []
        self._counts["batches_salvaged"] += 1
        membership.move(source, records[-1].offset + 1 if records else offset)
        return records


def _sources_of(error: OffsetOutOfRangeError) -> list[Source]:
    return [Source(at.topic, at.partition) for at in error.args[0]]
