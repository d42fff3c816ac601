"""The bus on Apache Kafka.

Publishing is one idempotent producer, replaced when it cannot be trusted any more; reading is one
consumer a member, whose positions are the caller's. Nothing here relies on topics that a cluster
makes by itself, and nothing is promised that Kafka could not give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from saga.adapters.kafka.cluster import Cluster
from saga.adapters.kafka.connection import KafkaConnection
from saga.adapters.kafka.consumer import KafkaConsumer
from saga.adapters.kafka.groups import GroupState, describe_groups
from saga.adapters.kafka.publishing import Publishing
from saga.adapters.kafka.settings import ConsumerSettings
from saga.adapters.kafka.topics import TopicDefaults, TopicState, state_of
from saga.ports.bus import Record, ResumeAt, Source, TopicSpec

RECORD_BYTES_MAX: Final = 1_048_576
PUBLISH_S: Final = 20.0


class KafkaBus:
    """A bus in a Kafka cluster. Made in the event loop that uses it; connects when it must.

    Args:
        connection: where the cluster is, and who we are.
        record_bytes_max: the largest record that is accepted: key, value and headers together.
        topics: how topics are made, beyond what their specification says.
        consumers: how members of groups behave.
        publish_timeout_s: how long a delivery may take before it is given up and said to have
            failed: longer than the election of a new leader.
        compression: of what is published: gzip, snappy, lz4, zstd or None.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        record_bytes_max: int = RECORD_BYTES_MAX,
        topics: TopicDefaults | None = None,
        consumers: ConsumerSettings | None = None,
        publish_timeout_s: float = PUBLISH_S,
        compression: str | None = None,
    ) -> None:
        self._connection = connection
        self._topics = topics or TopicDefaults()
        self._settings = consumers or ConsumerSettings()
        self._record_bytes_max = record_bytes_max
        self._cluster = Cluster(connection)
        self._consumers: list[KafkaConsumer] = []
        self.counts: Counter[str] = Counter()
        self._publishing = Publishing(
            connection,
            self._cluster,
            timeout_s=publish_timeout_s,
            record_bytes_max=record_bytes_max,
            compression=compression,
            counts=self.counts,
        )

    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        """Make the topics that are not there; those that are stay as they are.

        Raises:
            BusUnavailable: nobody answers, or the cluster refuses.
        """
        for spec in topics:
            if spec.partitions < 1:
                raise ValueError(f"{spec.name}: a topic has at least one partition")
        found = await self._cluster.layouts({spec.name for spec in topics})
        missing = {spec.name: spec for spec in topics if spec.name not in found}
        await self._cluster.create(
            [
                (
                    spec.name,
                    spec.partitions,
                    self._topics.replicas_asked,
                    self._topics.configs(spec, record_bytes_max=self._record_bytes_max),
                )
                for spec in missing.values()
            ]
        )
        self._publishing.forget(list(missing))

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish all, in order per partition; acknowledged by all replicas in sync when it
        returns. Not atomic: an error may leave some of them published.

        Raises:
            BusUnavailable: try again later; repeat all.
            MessageTooLarge: a record exceeds the limit; none was published, unless only the cluster
                knew its limit.
            TopicMissing: none was published, unless the topic was there a moment ago.
        """
        await self._publishing.publish(records)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> KafkaConsumer:
        """Join *group* on *topics*; those that do not exist yet are read once they do.

        Raises:
            BusUnavailable: nobody answers.
        """
        consumer = KafkaConsumer(
            self._connection,
            self._cluster,
            self._settings,
            group=group,
            topics=topics,
            resume_at=resume_at,
            counts=self.counts,
            closed=self._forget,
        )
        await consumer.open()
        self._consumers.append(consumer)
        await consumer.join()
        return consumer

    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        """Of each source the first offset kept and the next one to be written.

        Raises:
            TopicMissing: a source does not exist.
            BusUnavailable: nobody answers.
        """
        return await self._cluster.bounds(sources)

    async def close(self) -> None:
        """Leave all groups, finish what was accepted and let go of all connections; within
        seconds.
        """
        for consumer in list(self._consumers):
            await consumer.close()
        await self._publishing.close()
        await self._cluster.close()

    # Beyond the port: what an operator asks.

    async def describe_topics(self, topics: Collection[str]) -> dict[str, TopicState]:
        """How those *topics* that exist are set.

        Raises:
            BusUnavailable: nobody answers, or this user may not ask.
        """
        layouts = await self._cluster.layouts(topics)
        configs = await self._cluster.configs(layouts)
        return {name: state_of(layout, configs.get(name, {})) for name, layout in layouts.items()}

    async def describe_groups(self, groups: Collection[str]) -> dict[str, GroupState]:
        """How these *groups* stand; one that never was has no members and no offsets.

        Raises:
            BusUnavailable: nobody answers, or this user may not ask.
        """
        return await describe_groups(self._connection, groups)

    def _forget(self, consumer: KafkaConsumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)
