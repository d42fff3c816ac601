"""Every private part of aiokafka that we use, each behind a function that says its purpose.

These uses are known to be right for the versions that `check_version` lets pass, and for no other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Final, TypeAlias
from uuid import UUID

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint

from saga.adapters.kafka.inflating import without_bombs
from saga.core.identity import instant
from saga.ports.bus import Inbound, Origin, Record, Source

FETCH_BYTES: Final = 16_777_216
FETCH_WAIT_MS: Final = 100
DROP_S: Final = 2.0
DROP_ROUNDS_MAX: Final = 10
READ_UNCOMMITTED: Final = 0
READ_COMMITTED: Final = 1
_PREFIX_BYTES: Final = 12
"""Base offset and length: the bytes before those that the length counts."""
_MAGIC_AT: Final = 16
_MAGIC: Final = 2

Delivery = asyncio.Future[Any]
"""Of one batch; done when all replicas in sync have it."""


# Which topic of which cluster: aiokafka's own requests end before Kafka gave topics their ids.


class _Uuid:
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))

    @classmethod
    def repr(cls, value: UUID) -> str:
        return str(value)


_NO_ID: Final = UUID(int=0)
_PARTITION: Final = (
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline_replicas", CompactArray(Int32)),
    ("tags", TaggedFields),
)
_BROKER: Final = (
    ("node_id", Int32),
    ("host", CompactString("utf-8")),
    ("port", Int32),
    ("rack", CompactString("utf-8")),
    ("tags", TaggedFields),
)
_TOPIC: Final = (
    ("error_code", Int16),
    ("topic", CompactString("utf-8")),
    ("topic_id", _Uuid),
    ("is_internal", Boolean),
    ("partitions", CompactArray(*_PARTITION)),
    ("authorized_operations", Int32),
    ("tags", TaggedFields),
)
_WANTED: Final = (("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields))


class _MetadataResponse10(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(*_BROKER)),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        ("topics", CompactArray(*_TOPIC)),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequest10(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse10
    SCHEMA = Schema(
        ("topics", CompactArray(*_WANTED)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


_Metadata: TypeAlias = MetadataRequest_v5 | _MetadataRequest10


class OriginsRequest(Request[_Metadata]):  # type: ignore[misc]  # aiokafka ships no types
    """Goes out in the newest version that the broker knows: without topic ids before Kafka 2.8."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(self._topics, False)  # noqa: FBT003  # makes no topics
        wanted: list[Any] = [(_NO_ID, name, {}) for name in self._topics]
        return _MetadataRequest10(wanted, False, False, False, {})  # noqa: FBT003


def origins_in(answer: Any) -> dict[str, Origin]:
    """Of each topic that is there, what the *answer* to an `OriginsRequest` says.

    Raises:
        KafkaError: the cluster refuses to tell.
    """
    origins: dict[str, Origin] = {}
    for code, name, *rest in answer.topics:
        error = kafka.for_code(code)
        if error is kafka.UnknownTopicOrPartitionError:
            continue
        if error not in (kafka.NoError, kafka.LeaderNotAvailableError):
            raise error(name)
        topic_id = rest[0] if isinstance(rest[0], UUID) and rest[0] != _NO_ID else None
        origins[name] = Origin(None if topic_id is None else str(topic_id), answer.cluster_id)
    return origins


# The producer.


def append_records(
    producer: AIOKafkaProducer,
    placed: Sequence[tuple[Source, Record]],
    *,
    now_ms: int,
    sizes: Mapping[str, int],
) -> set[Delivery]:
    """In order per partition; one future a batch costs a third of `AIOKafkaProducer.send`.

    *sizes* are the largest batches of topics that do not take those that the producer makes.
    """
    accumulator = producer._message_accumulator
    queues, append_batch = accumulator._batches, accumulator._append_batch
    deliveries: set[Delivery] = set()
    for source, record in placed:
        at = TopicPartition(*source)
        queue = queues.get(at)
        batch = queue[-1] if queue else append_batch(accumulator.create_builder(), at)
        key, value, headers = record.key, record.value, list(record.headers)
        if sizes and (largest := sizes.get(source.topic)) is not None:
            open_batch = batch._builder
            if open_batch._relative_offset and open_batch.size() + record.size > largest:
                open_batch.close()
        # None: this batch is full or on its way. The first record always fits.
        while (
            batch._builder.append(timestamp=now_ms, key=key, value=value, headers=headers) is None
        ):
            batch = append_batch(accumulator.create_builder(), at)
        if batch.future not in deliveries:
            deliveries.add(batch.future)
            batch.future.add_done_callback(_retrieve)
    return deliveries


async def drop_producer(producer: AIOKafkaProducer, error: Exception) -> None:
    """End *producer* at once; all that it holds fails with *error*.

    Its sender waits for requests, which end with the client, and for metadata that never comes.
    """
    producer._closed = True  # else it complains of never having been stopped
    accumulator, sender = producer._message_accumulator, producer._sender.sender_task
    queued = [batch for queue in accumulator._batches.values() for batch in queue]
    for batch in (*queued, *accumulator._pending_batches):
        if not batch.future.done():
            batch.future.set_exception(error)
    with contextlib.suppress(TimeoutError, kafka.KafkaError, OSError):
        async with asyncio.timeout(DROP_S):
            await producer.client.close()
    if sender is None:
        return
    sender.remove_done_callback(producer._sender._fail_all)  # which is done already
    sender.cancel()
    for _ in range(DROP_ROUNDS_MAX):
        update = producer.client._md_update_fut
        if update is not None and not update.done():
            update.set_result(False)
        await asyncio.wait([sender], timeout=DROP_S / DROP_ROUNDS_MAX)
        if sender.done():
            break
    sender.cancel()
    if sender.done() and not sender.cancelled():
        sender.exception()  # retrieved only: the session ended for a reason of its own


# The consumer.


def set_bombs_aside(consumer: AIOKafkaConsumer, note: Callable[[str], None]) -> None:
    """Have whatever *consumer* fetches looked at before aiokafka inflates it."""
    client = consumer._client
    send = client.send

    async def looked_at(node_id: Any, request: Any, **options: Any) -> Any:
        response = await send(node_id, request, **options)
        if getattr(response, "API_KEY", None) == FetchRequest.API_KEY:
            for _, partitions in response.topics:
                for place, partition in enumerate(partitions):
                    data, found = without_bombs(bytes(partition[-1] or b""))
                    if found:
                        partitions[place] = (*partition[:-1], data)
                        for why in found:
                            note(why)
        return response

    client.send = looked_at


def generation_of(consumer: AIOKafkaConsumer) -> tuple[str, int]:
    """The member's id, and the generation of its group."""
    coordinator = consumer._coordinator
    return coordinator.member_id, coordinator.generation


def wants_to_rejoin(consumer: AIOKafkaConsumer) -> bool:
    is_wanted: bool = consumer._coordinator._rejoin_needed_fut.done()
    return is_wanted


async def committed(
    consumer: AIOKafkaConsumer, sources: Sequence[Source]
) -> dict[Source, tuple[int, str]]:
    """The group's next offset of each source, and what was committed beside it."""
    partitions = [TopicPartition(*source) for source in sources]
    found = await consumer._coordinator.fetch_committed_offsets(partitions)
    return {
        Source(*at): (kept.offset, kept.metadata or "")
        for at, kept in found.items()
        if kept.offset >= 0
    }


async def drop_consumer(consumer: AIOKafkaConsumer) -> None:
    """For a *consumer* that `stop` could not end."""
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")
    tasks = [getattr(coordinator, name, None) for name in names]
    tasks += [getattr(fetcher, "_fetch_task", None), *getattr(fetcher, "_pending_tasks", ())]
    for task in tasks:
        if task is not None:
            task.cancel()
    with contextlib.suppress(TimeoutError, kafka.KafkaError, OSError):
        async with asyncio.timeout(DROP_S):
            await consumer._client.close()


async def read_corrupt_batch(
    consumer: AIOKafkaConsumer, source: Source, offset: int
) -> list[Inbound]:
    r"""The records from *offset* to the end of its batch, although aiokafka refuses the batch.

    It refuses a header's name that is no UTF-8, which Kafka takes: one careless producer could stop
    a partition for good. Such a name is escaped, as `\xff`.

    Raises:
        KafkaError: they cannot be fetched, or are damaged.
        ValueError: they break Kafka's format.
    """
    client = consumer._client
    leader = client.cluster.leader_for_partition(TopicPartition(*source))
    wanted = [(source.topic, [(source.partition, offset, FETCH_BYTES)])]
    request = FetchRequest(FETCH_WAIT_MS, 1, FETCH_BYTES, READ_COMMITTED, wanted)
    answer = await client.send(leader, request)
    for _, partitions in answer.topics:
        for _, code, _, _, _, aborted, *_, data in partitions:
            error = kafka.for_code(code)
            if error is not kafka.NoError:
                raise error(f"{source}")
            return _first_batch(source, offset, bytes(data or b""), dict(aborted or ()))
    return []


def is_open(connection: AIOKafkaConnection) -> bool:
    """Whether *connection* was ever made, so that its close is to be awaited."""
    return connection._protocol is not None


class TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka ships no types
    """A batch whose header names may be anything."""

    def read(self, source: Source) -> list[Inbound]:
        """Raises `ValueError` where the batch ends too early."""
        self._maybe_uncompress()
        place = self._pos
        records: list[Inbound] = []
        try:
            for _ in range(self._num_records):
                record, place = self._read(source, place)
                records.append(record)
        except IndexError as error:
            raise ValueError(f"{source}: a batch ends too early") from error
        return records

    def _read(self, source: Source, place: int) -> tuple[Inbound, int]:
        buffer = self._buffer
        _, place = decode_varint(buffer, place)
        _, place = decode_varint(buffer, place)  # attributes
        later_ms, place = decode_varint(buffer, place)
        further, place = decode_varint(buffer, place)
        key, place = _bytes(buffer, place)
        value, place = _bytes(buffer, place)
        count, place = decode_varint(buffer, place)
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(count):
            name, place = _bytes(buffer, place)
            text, place = _bytes(buffer, place)
            headers.append(((name or b"").decode("utf-8", "backslashreplace"), text))
        is_log_time = self.timestamp_type == self.LOG_APPEND_TIME
        at_ms = self.max_timestamp if is_log_time else self.first_timestamp + later_ms
        record = Inbound(
            source.topic,
            source.partition,
            self.base_offset + further,
            key,
            value,
            tuple(headers),
            instant(at_ms * 1000),
        )
        return record, place


def _first_batch(
    source: Source, offset: int, data: bytes, aborted: Mapping[int, int]
) -> list[Inbound]:
    while len(data) > _MAGIC_AT:
        length = int.from_bytes(data[8:_PREFIX_BYTES], "big") + _PREFIX_BYTES
        if data[_MAGIC_AT] != _MAGIC or length > len(data):
            raise ValueError(f"no batch of version {_MAGIC} at {offset}")
        batch = TolerantBatch(data[:length])
        if not batch.validate_crc():
            raise kafka.CorruptRecordException(f"{source} at {offset}")
        is_aborted = batch.is_transactional and (
            aborted.get(batch.producer_id, batch.base_offset + 1) <= batch.base_offset
        )
        is_ours = not (batch.is_control_batch or is_aborted)
        records = batch.read(source) if is_ours else []
        if wanted := [record for record in records if record.offset >= offset]:
            return wanted
        data = data[length:]
    return []


def _bytes(buffer: Any, place: int) -> tuple[bytes | None, int]:
    length, place = decode_varint(buffer, place)
    if length < 0:
        return None, place
    return bytes(buffer[place : place + length]), place + length


def _retrieve(delivery: Delivery) -> None:
    """Look at a failure, so that asyncio does not report it where no caller waits for it."""
    if not delivery.cancelled():
        delivery.exception()
