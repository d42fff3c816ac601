"""The bus as an effect service on a FastStream broker sees it.

It reads through the broker's subscriber; everything else is `KafkaBus`: answers are published by
its idempotent producer, in order, and never by FastStream's, whose settings are the user's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saga.adapters.faststream.subscriber import EffectsSubscriber
from saga.adapters.kafka import KafkaBus, KafkaConsumer
from saga.ports.bus import Inbound, Progress, Record, ResumeAt, Source, TopicSpec


class BrokerBus:
    """A bus for the one service of *subscriber*."""

    def __init__(self, kafka: KafkaBus, subscriber: EffectsSubscriber) -> None:
        self._kafka = kafka
        self._subscriber = subscriber

    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        """As `KafkaBus`."""
        await self._kafka.create_topics(topics)

    async def publish(self, records: Sequence[Record]) -> None:
        """As `KafkaBus`."""
        await self._kafka.publish(records)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> BrokerConsumer:
        """Join *group* and have the subscriber read.

        Raises:
            BusUnavailable: nobody answers.
        """
        member = await self._kafka.subscribe(group, topics, resume_at=resume_at)
        self._subscriber.begin(member)
        member.on_revoke(self._subscriber.finish)
        return BrokerConsumer(member, self._subscriber)

    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        """As `KafkaBus`."""
        return await self._kafka.bounds(sources)

    async def close(self) -> None:
        """Nothing: whoever made the `KafkaBus` closes it."""


class BrokerConsumer:
    """A member of a group whose records come through FastStream."""

    def __init__(self, member: KafkaConsumer, subscriber: EffectsSubscriber) -> None:
        self._member = member
        self._subscriber = subscriber
        self._is_closed = False

    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        """Up to *records_max* records; empty after *timeout_s*.

        Raises:
            BusUnavailable: nobody answers; the next fetch tries again.
        """
        return await self._subscriber.fetch(records_max=records_max, timeout_s=timeout_s)

    async def seek(self, offsets: Mapping[Source, int]) -> None:
        """Read on from these offsets."""
        await self._subscriber.seek(offsets)

    async def commit(self, offsets: Mapping[Source, int]) -> None:
        """Remember for the group the *next* offset to read of each source.

        Raises:
            BusUnavailable: nobody answers.
        """
        await self._member.commit(offsets)

    def assignment(self) -> frozenset[Source]:
        """The sources this member reads now."""
        return self._member.assignment()

    @property
    def progress(self) -> Mapping[Source, Progress]:
        """Of each source that this member reads, how far."""
        return self._member.progress

    @property
    def stopped(self) -> Mapping[Source, str]:
        """The sources that are assigned to this member and not read."""
        return self._member.stopped

    @property
    def waits_for(self) -> str | None:
        """What is missing before this member reads all of its topics; None when nothing is."""
        return self._member.waits_for

    async def close(self) -> None:
        """End the loop, then leave the group at once."""
        if not self._is_closed:
            self._is_closed = True
            await self._subscriber.halt()
            await self._member.close()
