"""The bus on Apache Kafka.

One idempotent producer publishes; each member of a group reads with a consumer of its own. Nothing
here relies on topics that a cluster makes by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

from typing_extensions import override

from saga.adapters.kafka.admin import Cluster, GroupState, TopicState, describe_groups
from saga.adapters.kafka.connection import KafkaConnection
from saga.adapters.kafka.consumer import ConsumerSettings, KafkaConsumer
from saga.adapters.kafka.producer import KafkaProducer
from saga.adapters.partitioner import RECORD_BYTES_MAX
from saga.adapters.versions import check_version
from saga.ports.bus import Bus, Origin, Record, ResumeAt, Source, TopicSpec
from saga.settings import Settings

PUBLISH_S: Final = 20.0


class KafkaBus(Bus):
    """Made in the event loop that uses it; connects when it must.

    Args:
        record_bytes_max: of key, value and headers together; a larger record is refused.
        replicas: of topics that are made, None for the brokers' default; one of them may be away.
        publish_timeout_s: longer than the election of a new leader.
        compression: of published batches: gzip, snappy, lz4, zstd or None.

    Raises:
        SettingsError: the aiokafka that is installed is none that this adapter knows.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        record_bytes_max: int = RECORD_BYTES_MAX,
        replicas: int | None = None,
        consumers: ConsumerSettings | None = None,
        publish_timeout_s: float = PUBLISH_S,
        compression: str | None = None,
    ) -> None:
        check_version("aiokafka", setting="SAGA_BUS")
        self._connection = connection
        self._replicas = replicas
        self._settings = consumers or ConsumerSettings()
        self._record_bytes_max = record_bytes_max
        self._cluster = Cluster(connection)
        self._consumers: list[KafkaConsumer] = []
        self.counts: Counter[str] = Counter()
        self._producer = KafkaProducer(
            connection,
            self._cluster,
            timeout_s=publish_timeout_s,
            record_bytes_max=record_bytes_max,
            compression=compression,
            counts=self.counts,
        )

    @override
    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        for spec in topics:
            if spec.partitions < 1:
                raise ValueError(f"{spec.name}: a topic has at least one partition")
        existing = await self._cluster.layouts({spec.name for spec in topics})
        missing = {spec.name: spec for spec in topics if spec.name not in existing}
        await self._cluster.create(
            missing.values(), replicas=self._replicas, record_bytes_max=self._record_bytes_max
        )
        self._producer.forget(missing)

    @override
    async def publish(self, records: Sequence[Record]) -> None:
        await self._producer.publish(records)

    @override
    async def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        return await self._producer.learn_limits(topics)

    @override
    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> KafkaConsumer:
        consumer = KafkaConsumer(
            self._connection,
            self._cluster,
            self._settings,
            group,
            topics,
            resume_at=resume_at,
            counts=self.counts,
        )
        self._consumers = [each for each in self._consumers if not each.is_closed]
        self._consumers.append(consumer)
        await consumer.open()
        return consumer

    @override
    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        return await self._cluster.bounds(sources)

    @override
    async def origins(self, topics: Collection[str]) -> Mapping[str, Origin]:
        return await self._cluster.origins(topics)

    @override
    async def close(self) -> None:
        async with AsyncExitStack() as closers:
            for close in (self._cluster.close, self._producer.close):
                closers.push_async_callback(close)
            for consumer in self._consumers:
                closers.push_async_callback(consumer.close)

    # Beyond the port: an operator's questions.

    async def describe_topics(self, topics: Collection[str]) -> dict[str, TopicState]:
        return await self._cluster.describe(topics)

    async def describe_groups(self, groups: Collection[str]) -> dict[str, GroupState]:
        return await describe_groups(self._connection, groups)


def open_bus(settings: Settings, *, connection: KafkaConnection | None = None) -> KafkaBus:
    """The bus that *settings* name; it connects when it is used.

    Raises:
        SettingsError: settings do not fit together, or name something that cannot be loaded.
    """
    return KafkaBus(
        connection or KafkaConnection.of(settings),
        record_bytes_max=settings.record_bytes_max,
        replicas=settings.replication,
        consumers=ConsumerSettings(
            session_timeout_ms=settings.kafka_session_timeout_ms,
            instance_id=settings.kafka_instance_id,
        ),
        compression=None if settings.kafka_compression == "none" else settings.kafka_compression,
    )
