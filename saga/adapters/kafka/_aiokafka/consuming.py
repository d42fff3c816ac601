"""What a consumer knows of its group, and what it makes of batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint

from saga.adapters.kafka.inflating import without_bombs
from saga.core.identity import instant
from saga.ports.bus import Inbound, Source

DROP_S: Final = 2.0
FETCH_BYTES: Final = 16_777_216
FETCH_WAIT_MS: Final = 100
READ_UNCOMMITTED: Final = 0
READ_COMMITTED: Final = 1
_PREFIX_BYTES: Final = 12
"""Base offset and length: the bytes before those that the length counts."""
_MAGIC_AT: Final = 16
_MAGIC: Final = 2


def is_open(connection: AIOKafkaConnection) -> bool:
    """Whether *connection* was ever made, so that its close is to be awaited."""
    return connection._protocol is not None


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


def give_inbound(consumer: AIOKafkaConsumer) -> None:
    """Have *consumer*, which has just started, make nothing but an `Inbound` of a record."""
    fetcher = consumer._fetcher
    process = fetcher._proc_fetch_request
    assert callable(PartitionRecords._consumer_record), "or aiokafka would give its own records"

    async def processed(*arguments: Any) -> bool:
        is_new: bool = await process(*arguments)
        for result in fetcher._records.values() if is_new else ():
            if isinstance(result, FetchResult) and result.has_more():
                result._partition_records._consumer_record = _inbound
        return is_new

    fetcher._proc_fetch_request = processed


def _inbound(at: TopicPartition, record: Any) -> Inbound:
    return Inbound(
        at.topic,
        at.partition,
        record.offset,
        record.key,
        record.value,
        tuple(record.headers),
        instant(record.timestamp * 1000),
    )


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
