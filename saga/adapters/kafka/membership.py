"""One life of a member: a consumer of aiokafka, from joining to leaving, and what it was assigned.

On assignment the listener never waits: aiokafka swallows what listeners raise, and would read on
from the group's committed offset while one waits. It pauses what is new at once and leaves the rest
to the next fetch. On revocation it waits, for a while, for what is in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from saga.core.identity import Instant
from saga.logs import get_logger
from saga.ports.bus import Inbound, OnRevoke, Progress, Source

STOP_S: Final = 3.0
LET_GO_S: Final = 3.0
"""How long the batch in hand may hold up a rebalance; the others wait for us meanwhile."""
log = get_logger("saga.kafka")


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Attributes: next: of each source that is read, the next offset to return. fresh: sources to
    be taken over, each with the offset where it was left if that is known. generation: how often
    the assignment has changed. settled: set while there is an assignment. let_go: awaited before a
    rebalance, if there is anybody to ask.
    """

    def __init__(self, consumer: AIOKafkaConsumer, group: str) -> None:
        self.consumer = consumer
        self.next: dict[Source, int] = {}
        self.fresh: dict[Source, int | None] = {}
        self.stopped: dict[Source, str] = {}
        self.generation = 0
        self.settled = asyncio.Event()
        self.let_go: OnRevoke | None = None
        self._group = group
        self._left: tuple[object, dict[Source, int]] | None = None

    def subscribe(self, topics: Iterable[str]) -> None:
        """Read these topics, which must exist, from the next rebalance on."""
        self.consumer.subscribe(sorted(topics), listener=self)

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:  # noqa: ARG002  # it is all
        """Called by aiokafka before each rebalance: of everything, as it knows eager ones only.
        Until this returns we are a member of the old generation, and heartbeats go on.
        """
        self.generation += 1
        self.settled.clear()
        is_finished = False
        try:
            is_finished = self.let_go is None or not self.next or await self.let_go(LET_GO_S)
        finally:
            self._left = (self._identity(1), dict(self.next) if is_finished else {})
            self._forget()

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """Called by aiokafka after each rebalance, before anything of the new sources was read."""
        self.generation += 1
        self._forget()  # once more: aiokafka may have lost the group without a word
        expected, kept = self._left or (None, {})
        # Nobody else had them in between, if this is the very next generation of the group.
        is_same = expected == self._identity(0)
        for at in assigned:
            source = Source(at.topic, at.partition)
            if is_same and source in kept:
                self.next[source] = kept[source]
                self.consumer.seek(at, kept[source])
            else:
                self.fresh[source] = None
                self.consumer.pause(at)
                # Any position will do: without one, aiokafka looks for the group's.
                self.consumer.seek(at, 0)
        self.settled.set()
        log.info(
            "assigned",
            group=self._group,
            sources=len(self.next) + len(self.fresh),
            fresh=len(self.fresh),
        )

    def _forget(self) -> None:
        self.next = {}
        self.fresh = {}
        self.stopped = {}

    async def wait(self, timeout_s: float) -> None:
        """Return when there is an assignment, or after *timeout_s*."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.settled.wait()

    def waits_for(self, topics: Iterable[str]) -> str | None:
        """Those of *topics* that do not exist, as far as the client knows, in words."""
        known = self.consumer.partitions_for_topic
        missing = sorted(topic for topic in topics if not known(topic))
        return f"topics that do not exist: {', '.join(missing)}" if missing else None

    def received(self, found: Mapping[Any, Sequence[Any]]) -> list[Inbound]:
        """Move past the records that aiokafka has *found*; them, byte for byte."""
        received: list[Inbound] = []
        add = received.append
        for at, records in found.items():
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
            self.next[Source(topic, partition)] = records[-1].offset + 1
        return received

    def progress(self) -> dict[Source, Progress]:
        """Of each source that is read, how far; its end as of the last answer of its broker."""
        end_of, assigned = self.consumer.highwater, self.consumer.assignment()
        return {
            source: Progress(offset, end_of(at) if at in assigned else None)
            for source, offset in self.next.items()
            for at in (TopicPartition(*source),)
        }

    def begin(self, source: Source, offset: int) -> None:
        """Read a fresh source from *offset* on."""
        at = TopicPartition(*source)
        self.consumer.seek(at, offset)
        self.consumer.resume(at)
        self.fresh.pop(source, None)
        self.next[source] = offset

    def stop_reading(self, source: Source, reason: str) -> None:
        """Leave *source* alone until it is assigned anew; the others go on."""
        self.consumer.pause(TopicPartition(*source))
        self.fresh.pop(source, None)
        self.next.pop(source, None)
        self.stopped[source] = reason

    def look_again(self, sources: Iterable[Source]) -> None:
        """Have these taken over anew from where they were left."""
        for source in sources:
            offset = self.next.pop(source, None)
            if offset is not None:
                self.consumer.pause(TopicPartition(*source))
                self.fresh[source] = offset

    def move(self, source: Source, offset: int) -> None:
        """Read on from there, if *source* is read here."""
        if source in self.next:
            self.next[source] = offset
            self.consumer.seek(TopicPartition(*source), offset)

    def rewind(self) -> None:
        """Drop all that is buffered and read on from what was returned last."""
        for source, offset in self.next.items():
            self.consumer.seek(TopicPartition(*source), offset)

    async def committed(self, sources: Iterable[Source]) -> dict[Source, int]:
        """The group's committed offsets of those that have one."""
        asked = list(sources)
        found = await asyncio.gather(
            *(self.consumer.committed(TopicPartition(*source)) for source in asked)
        )
        return {
            source: offset
            for source, offset in zip(asked, found, strict=True)
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
        coordinator = self.consumer._coordinator  # noqa: SLF001
        return not self.settled.is_set() or coordinator._rejoin_needed_fut.done()  # noqa: SLF001

    async def end(self) -> None:
        """Leave the group and let go of everything, within a few seconds."""
        consumer = self.consumer
        # In a task of its own: a cancelled one of aiokafka's may escape as our own cancellation.
        stopping = asyncio.ensure_future(consumer.stop())
        await asyncio.wait([stopping], timeout=STOP_S)
        if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
            return
        log.warning("a consumer did not stop by itself", group=self._group)
        for task in (stopping, *_tasks_of(consumer)):
            task.cancel()
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(STOP_S):
                await consumer._client.close()  # noqa: SLF001

    def _identity(self, later: int) -> object:
        """Who we are in which generation of the group; *later*, in the one so many after it."""
        coordinator = self.consumer._coordinator  # noqa: SLF001
        return coordinator.member_id, coordinator.generation + later


def _tasks_of(consumer: AIOKafkaConsumer) -> list[asyncio.Task[Any]]:
    coordinator, fetcher = consumer._coordinator, consumer._fetcher  # noqa: SLF001
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")
    found = [getattr(coordinator, name, None) for name in names]
    found.append(getattr(fetcher, "_fetch_task", None))
    found += getattr(fetcher, "_pending_tasks", ())
    return [task for task in found if task is not None]
