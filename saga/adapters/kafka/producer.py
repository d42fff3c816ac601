"""The publishing half of `KafkaBus`: a producer that is replaced when it cannot be trusted.

After a batch has failed for good, the sequence numbers of an idempotent producer no longer fit, and
records that it still holds could be sent after those of its successor. So a publisher without an
answer in time ends the whole session, with all that it holds; the records are published again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from time import time
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from saga.adapters.kafka import _aiokafka
from saga.adapters.kafka._aiokafka import Delivery
from saga.adapters.kafka.admin import Cluster
from saga.adapters.kafka.connection import KafkaConnection, described, within
from saga.adapters.kafka.diagnosis import connecting
from saga.adapters.partitioner import Partitioner, too_large
from saga.errors import BusUnavailable, MessageTooLarge, TopicMissing
from saga.ports.bus import Record, Source

CONNECT_S: Final = 10.0
STOP_S: Final = 5.0
LOOK_FOR_TOPICS_S: Final = 2.0
"""How long a delivery may take before its topic is looked for."""
LIMIT_LOOKED_UP_BYTES: Final = 500_000
"""Smaller records fit into every topic whose limit is not known to be lower."""
FRAMING_BYTES: Final = 256
"""The most that a record and its batch cost beyond key, value and headers."""
BATCH_BYTES: Final = 262_144
"""A batch counts as one message to `max.message.bytes`, so that it has to be well below it."""
REQUEST_BYTES_MAX: Final = 104_857_600
METADATA_MAX_AGE_MS: Final = 60_000
"""How long new partitions of a topic may be unknown."""

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
log = logging.getLogger(__name__)


class KafkaProducer:
    """Publishes records through one session after another; arguments are those of `KafkaBus`."""

    def __init__(
        self,
        connection: KafkaConnection,
        cluster: Cluster,
        *,
        timeout_s: float,
        record_bytes_max: int,
        compression: str | None,
        counts: Counter[str],
    ) -> None:
        self._connection = connection
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._partitioner = Partitioner(record_bytes_max=record_bytes_max)
        self._compression = compression
        self._session: ProducerSession | None = None
        self._starting = asyncio.Lock()
        self._record_bytes_max = record_bytes_max
        self._limits: dict[str, int] = {}
        self._batch_bytes: dict[str, int] = {}
        """Of topics that do not take a batch as large as those that are made."""
        self._is_closed = False
        self._counts = counts

    async def publish(self, records: Sequence[Record]) -> None:
        if not records:
            return
        session = await self._started_session()
        counts = await self._partition_counts(session, {record.topic for record in records})
        self._partitioner.check(records)
        choose = self._partitioner.choose
        placed = [
            (Source(record.topic, choose(record, counts[record.topic])), record)
            for record in records
        ]
        await self._check_limits(records)
        # Nothing waits from here to `put`: two publishers keep the order in which they come here.
        if session.is_ended:
            raise BusUnavailable("kafka: the producer was replaced meanwhile")
        deliveries = session.put(placed, sizes=self._batch_bytes)
        await self._deliver(session, deliveries, records)

    async def learn_limits(self, topics: Collection[str]) -> Mapping[str, int]:
        """As `Bus.limits` says; the answer is also ours from now on."""
        known = await self._cluster.record_limits(topics)
        for topic in topics:
            self._limits.pop(topic, None)
            self._batch_bytes.pop(topic, None)
        for topic, largest in known.items():
            room = largest - FRAMING_BYTES
            self._limits[topic] = min(room, self._record_bytes_max)
            if room < BATCH_BYTES:
                self._batch_bytes[topic] = room
        return {topic: self._limits[topic] for topic in known}

    async def close(self) -> None:
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.stop(STOP_S)

    def forget(self, topics: Iterable[str]) -> None:
        """For topics whose limits may have changed."""
        for topic in topics:
            self._limits.pop(topic, None)
            self._batch_bytes.pop(topic, None)

    async def _started_session(self) -> ProducerSession:
        async with self._starting:
            if self._is_closed:
                raise BusUnavailable("the bus is closed")
            if self._session is None or self._session.is_ended:
                session = ProducerSession(self._connection, compression=self._compression)
                async with connecting(self._connection, CONNECT_S, "connect a producer"):
                    await session.start()
                self._session = session
            return self._session

    async def _partition_counts(
        self, session: ProducerSession, topics: Iterable[str]
    ) -> Mapping[str, int]:
        counts = {topic: session.partitions(topic) for topic in topics}
        if unknown := [topic for topic, count in counts.items() if not count]:
            existing = await self._cluster.layouts(unknown)
            async with within(CONNECT_S, "find topics"):
                for topic in unknown:
                    if topic not in existing:
                        raise TopicMissing(topic)
                    counts[topic] = await session.learn(topic)
        return counts

    async def _check_limits(self, records: Sequence[Record]) -> None:
        """Ask anew before a record is refused: the limit may have been raised."""
        limits = self._limits
        suspects = {
            record.topic
            for record in records
            if not record.fits(limits.get(record.topic, LIMIT_LOOKED_UP_BYTES))
        }
        if suspects:
            await self.learn_limits(suspects)
            self._refuse_what_is_too_large(records)

    def _refuse_what_is_too_large(self, records: Sequence[Record]) -> None:
        for record in records:
            limit = self._limits.get(record.topic)
            if limit is not None and not record.fits(limit):
                raise too_large(record.topic, record.size, limit)

    async def _deliver(
        self, session: ProducerSession, deliveries: set[Delivery], records: Sequence[Record]
    ) -> None:
        topics = {record.topic for record in records}
        late, missing = await self._wait(deliveries, topics)
        failures = [error for each in deliveries - late if (error := each.exception()) is not None]
        if not late and not failures:
            return
        if missing is not None:
            reason = f"the topic {missing} was deleted"
        elif failures:
            reason = described(failures[-1])
        else:
            reason = f"no acknowledgement within {self._timeout_s:g} s"
        if not session.is_ended:
            self._counts["producers_replaced"] += 1
            log.warning("the producer is replaced: %s", reason, extra={"reason": reason})
            await session.drop()
        if missing is not None:
            raise TopicMissing(missing)
        if any(isinstance(failure, _TOO_LARGE) for failure in failures):
            await self._explain_too_large(records, reason)
        raise BusUnavailable(f"kafka: not all was published: {reason}")

    async def _explain_too_large(self, records: Sequence[Record], reason: str) -> None:
        """Raise which record is too large; return where only a batch of them was."""
        before = dict(self._batch_bytes)
        await self.learn_limits({record.topic for record in records})
        self._refuse_what_is_too_large(records)
        if len(records) == 1 or before == self._batch_bytes:
            text = f"the cluster takes no record as large as one of these: {reason}"
            raise MessageTooLarge(text, topic=records[0].topic if len(records) == 1 else None)

    async def _wait(
        self, deliveries: set[Delivery], topics: Collection[str]
    ) -> tuple[set[Delivery], str | None]:
        """What is late, and the topic that is missing, if one is: aiokafka never reports that."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._timeout_s
        late = deliveries
        while late and (left_s := deadline_s - loop.time()) > 0:
            _, late = await asyncio.wait(late, timeout=min(LOOK_FOR_TOPICS_S, left_s))
            if late:
                with contextlib.suppress(BusUnavailable):
                    existing = await self._cluster.layouts(topics)
                    if missing := sorted(set(topics) - existing.keys()):
                        return late, missing[0]
        return late, None


class ProducerSession:
    """One idempotent producer of aiokafka; `put` keeps the order of records, `drop` ends it."""

    def __init__(self, connection: KafkaConnection, *, compression: str | None) -> None:
        self._producer = AIOKafkaProducer(
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            compression_type=compression,
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES_MAX,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            transactional_id=None,
            **connection.options(),
        )
        _aiokafka.pack_at_once(self._producer.client)
        self.is_ended = False

    async def start(self) -> None:
        """Connect; it has ended where that fails."""
        try:
            await self._producer.start()
        except BaseException:
            await self.drop()
            raise

    def partitions(self, topic: str) -> int:
        """Without asking the cluster; 0 for a topic that this producer does not know."""
        return len(self._producer.client.cluster.partitions_for_topic(topic) or ())

    async def learn(self, topic: str) -> int:
        """Ask the cluster for the number of partitions; the topic must exist."""
        return len(await self._producer.partitions_for(topic))

    def put(
        self, placed: Sequence[tuple[Source, Record]], *, sizes: Mapping[str, int]
    ) -> set[Delivery]:
        """In order per partition; returns the deliveries of their batches."""
        now_ms = int(time() * 1000)
        return _aiokafka.append_records(self._producer, placed, now_ms=now_ms, sizes=sizes)

    async def stop(self, timeout_s: float) -> None:
        """Deliver the records that were put, if *timeout_s* suffices, and end."""
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(timeout_s):
                await self._producer.flush()
        await self.drop()

    async def drop(self) -> None:
        """End at once; deliveries under way fail."""
        if self.is_ended:
            return
        self.is_ended = True
        await _aiokafka.drop_producer(self._producer, KafkaError("the producer was dropped"))
