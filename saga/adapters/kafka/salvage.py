r"""Reads a batch that aiokafka refuses: one in which a header's name is no UTF-8.

Kafka takes any bytes there, so that one careless producer could stop a partition for good. The
values of such a record come through as they are; what is no text in a name is escaped, as `\xff`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka import errors as kafka
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint
from aiokafka.structs import TopicPartition

from saga.core.identity import Instant
from saga.ports.bus import Headers, Inbound, Source

FETCH_BYTES: Final = 16_777_216
FETCH_WAIT_MS: Final = 100
READ_COMMITTED: Final = 1
_PREFIX_BYTES: Final = 12
"""Base offset and length: what stands before the bytes that the length counts."""
_MAGIC_AT: Final = 16
_MAGIC: Final = 2


async def read_carefully(consumer: AIOKafkaConsumer, source: Source, offset: int) -> list[Inbound]:
    """The records from *offset* to the end of its batch.

    Raises:
        KafkaError: they cannot be fetched, or are damaged.
        ValueError: they are not what Kafka's format says.
    """
    client = consumer._client  # noqa: SLF001
    leader = client.cluster.leader_for_partition(TopicPartition(*source))
    request = FetchRequest(
        FETCH_WAIT_MS,
        1,
        FETCH_BYTES,
        READ_COMMITTED,
        [(source.topic, [(source.partition, offset, FETCH_BYTES)])],
    )
    answer = await client.send(leader, request)
    for _, partitions in answer.topics:
        for _, code, _, _, _, aborted, *_, data in partitions:
            error = kafka.for_code(code)
            if error is not kafka.NoError:
                raise error(f"{source}")
            return _first_batch(source, offset, bytes(data or b""), dict(aborted or ()))
    return []


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
        found = [record for record in records if record.offset >= offset]
        if found:
            return found
        data = data[length:]
    return []


class TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka ships no types
    """A batch whose header names may be anything."""

    def read(self, source: Source) -> list[Inbound]:
        """All its records.

        Raises:
            ValueError: it ends too early.
        """
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
            _headers(headers),
            Instant(at_ms * 1000),
        )
        return record, place


def _bytes(buffer: Any, place: int) -> tuple[bytes | None, int]:
    length, place = decode_varint(buffer, place)
    if length < 0:
        return None, place
    return bytes(buffer[place : place + length]), place + length


def _headers(pairs: list[tuple[str, bytes | None]]) -> Headers:
    return tuple(pairs)
