"""Publishing: records to partitions, and a producer that is replaced when it cannot be trusted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError

from saga.adapters.kafka.cluster import Cluster
from saga.adapters.kafka.connection import KafkaConnection
from saga.adapters.kafka.diagnosis import connecting
from saga.adapters.kafka.failures import described, within
from saga.adapters.kafka.outlet import Delivery, Outlet
from saga.adapters.partitioner import partition_of
from saga.errors import BusUnavailable, MessageTooLarge, TopicMissing
from saga.logs import get_logger
from saga.ports.bus import Record, Source

CONNECT_S: Final = 10.0
STOP_S: Final = 5.0
LOOK_FOR_TOPICS_S: Final = 2.0
"""How long a delivery may take before it is asked whether its topic is still there."""
LIMIT_LOOKED_UP_BYTES: Final = 500_000
"""Smaller records are taken by every topic that nobody has set lower on purpose."""
FRAMING_BYTES: Final = 512
"""What a record costs beyond key, value and headers, and the batch around it: at most."""

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
log = get_logger("saga.kafka")


class Publishing:
    """The publishing half of `KafkaBus`.

    Args:
        timeout_s: how long a delivery may take: longer than the election of a leader.
        record_bytes_max: the largest record that is accepted: key, value and headers together.
    """

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
        self._record_bytes_max = record_bytes_max
        self._compression = compression
        self._outlet: Outlet | None = None
        self._starting = asyncio.Lock()
        self._limits: dict[str, int] = {}
        self._unkeyed = 0
        self._is_closed = False
        self._counts = counts

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish all, in order per partition; as `Bus.publish` says.

        Raises:
            BusUnavailable, MessageTooLarge, TopicMissing: as there.
        """
        if not records:
            return
        await self._check_sizes(records)
        outlet = await self._opened()
        counts = await self._partition_counts(outlet, {record.topic for record in records})
        placed = [(self._place(record, counts[record.topic]), record) for record in records]
        # From here to `put` nothing waits: two publishers keep the order in which they came here.
        if outlet.is_over:
            raise BusUnavailable("kafka: the producer was replaced meanwhile")
        await self._deliver(outlet, outlet.put(placed), counts.keys())

    async def close(self) -> None:
        """Finish what was accepted, within a few seconds."""
        self._is_closed = True
        outlet, self._outlet = self._outlet, None
        if outlet is not None:
            await outlet.stop(STOP_S)

    def forget(self, topics: Sequence[str]) -> None:
        """What is known of these topics may be wrong by now."""
        for topic in topics:
            self._limits.pop(topic, None)

    async def _opened(self) -> Outlet:
        if self._outlet is not None and not self._outlet.is_over:
            return self._outlet
        async with self._starting:
            if self._is_closed:
                raise BusUnavailable("the bus is closed")
            if self._outlet is None or self._outlet.is_over:
                outlet = Outlet(self._connection, compression=self._compression)
                async with connecting(self._connection, CONNECT_S, "connect a producer"):
                    await outlet.start()
                self._outlet = outlet
            return self._outlet

    async def _partition_counts(self, outlet: Outlet, topics: set[str]) -> Mapping[str, int]:
        known = {topic: outlet.partitions(topic) for topic in topics}
        unknown = [topic for topic, count in known.items() if count is None]
        if unknown:
            found = await self._cluster.layouts(unknown)
            for topic in unknown:
                if topic not in found:
                    raise TopicMissing(topic)
            async with within(CONNECT_S, "find topics"):
                for topic in unknown:
                    await outlet.learn(topic)
                    known[topic] = outlet.partitions(topic)
        counts: dict[str, int] = {}
        for topic, count in known.items():
            if not count:
                raise TopicMissing(topic)
            counts[topic] = count
        return counts

    def _place(self, record: Record, partitions: int) -> Source:
        if record.partition is not None:
            if not 0 <= record.partition < partitions:
                raise TopicMissing(record.topic, record.partition)
            return Source(record.topic, record.partition)
        if record.key is not None:
            return Source(record.topic, partition_of(record.key, partitions))
        self._unkeyed += 1
        return Source(record.topic, self._unkeyed % partitions)

    async def _check_sizes(self, records: Sequence[Record]) -> None:
        for record in records:
            size = _size(record)
            if size > self._record_bytes_max:
                raise MessageTooLarge(
                    f"a record of {size} bytes on {record.topic} exceeds the limit of "
                    f"{self._record_bytes_max}"
                )
            if size > LIMIT_LOOKED_UP_BYTES:
                limit = await self._limit(record.topic)
                if size + FRAMING_BYTES > limit:
                    raise MessageTooLarge(
                        f"a record of {size} bytes exceeds max.message.bytes of {record.topic}, "
                        f"{limit}"
                    )

    async def _limit(self, topic: str) -> int:
        """The largest batch that *topic* takes."""
        known = self._limits.get(topic)
        if known is None:
            found = (await self._cluster.configs([topic])).get(topic)
            if found is None:
                raise TopicMissing(topic)
            known = self._limits[topic] = int(found.get("max.message.bytes") or 1_048_588)
        return known

    async def _deliver(
        self, outlet: Outlet, deliveries: set[Delivery], topics: Collection[str]
    ) -> None:
        late, missing = await self._wait(deliveries, topics)
        failure: BaseException | None = None
        for delivery in deliveries - late:
            failure = delivery.exception() or failure
        if not late and failure is None:
            return
        if missing is not None:
            reason = f"the topic {missing} was deleted"
        elif failure is None:
            reason = f"no acknowledgement within {self._timeout_s:g} s"
        else:
            reason = described(failure)
        if not outlet.is_over:
            self._counts["producers_replaced"] += 1
            log.warning("the producer is replaced", reason=reason)
            await outlet.give_up()
        if missing is not None:
            raise TopicMissing(missing)
        if isinstance(failure, _TOO_LARGE):
            raise MessageTooLarge(f"the cluster takes no record as large as one of these: {reason}")
        raise BusUnavailable(f"kafka: not all was published: {reason}")

    async def _wait(
        self, deliveries: set[Delivery], topics: Collection[str]
    ) -> tuple[set[Delivery], str | None]:
        """The deliveries that do not come in time; no longer waited for once a topic is found
        missing, which aiokafka would never say: to it, a topic that was deleted may come back any
        time.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._timeout_s
        late = deliveries
        while late and loop.time() < deadline_s:
            slice_s = min(LOOK_FOR_TOPICS_S, deadline_s - loop.time())
            _, late = await asyncio.wait(late, timeout=slice_s)
            if late:
                with contextlib.suppress(BusUnavailable):
                    found = await self._cluster.layouts(topics)
                    missing = sorted(set(topics) - found.keys())
                    if missing:
                        return late, missing[0]
        return late, None


def _size(record: Record) -> int:
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name) + len(value or b"")
    return size
