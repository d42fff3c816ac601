"""Which partition a record goes to and which member reads it, as Kafka's own clients choose."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from operator import attrgetter
from typing import Final, TypeVar

from saga.errors import MessageTooLarge, TopicMissing
from saga.ports.bus import OWN_HEADERS_BYTES_MAX, Record, Source

RECORD_BYTES_MAX: Final = 1_048_576
KEYS_CACHED_MAX: Final = 65_536
KEY_CACHED_BYTES_MAX: Final = 128
"""Longer keys are hashed each time: all that are remembered take some megabytes."""

_TEXTS: Final = (attrgetter("key"), attrgetter("value"))
_headers: Final = attrgetter("headers")
_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF

Member = TypeVar("Member")


class Partitioner:
    """*record_bytes_max* counts key, value and headers together."""

    def __init__(self, *, record_bytes_max: int) -> None:
        self._record_bytes_max = record_bytes_max
        self._surely_fit = record_bytes_max - OWN_HEADERS_BYTES_MAX
        """Bytes of key and value, beside headers that saga writes itself."""
        self._unkeyed = 0

    def check(self, records: Collection[Record]) -> None:
        """Raise `MessageTooLarge` where one of them is; what surely fits is not measured."""
        most = sum(max(map(len, filter(None, map(part, records))), default=0) for part in _TEXTS)
        if most <= self._surely_fit and tuple not in map(type, map(_headers, records)):
            return
        for record in records:
            if not record.fits(self._record_bytes_max):
                raise too_large(record.topic, record.size, self._record_bytes_max)

    def choose(self, record: Record, partitions: int) -> int:
        """Raises `TopicMissing` for a partition that does not exist."""
        key = record.key
        if record.partition is not None:
            if not 0 <= record.partition < partitions:
                raise TopicMissing(record.topic, record.partition)
            return record.partition
        if key is not None:
            return _numbers[key] % partitions
        self._unkeyed += 1
        return self._unkeyed % partitions


def assign_ranges(
    topics_of: Mapping[Member, Collection[str]], partitions: Mapping[str, int]
) -> dict[Member, set[Source]]:
    """Kafka's range assignment: of each topic a run of partitions to each member that wants it."""
    assigned: dict[Member, set[Source]] = {member: set() for member in topics_of}
    for topic, count in partitions.items():
        readers = [member for member, topics in topics_of.items() if topic in topics]
        first = 0
        for place, member in enumerate(readers):
            last = first + count // len(readers) + (place < count % len(readers))
            assigned[member] |= {Source(topic, number) for number in range(first, last)}
            first = last
    return assigned


def too_large(topic: str, size: int, limit: int) -> MessageTooLarge:
    """Of a record with that *size*, which its topic does not take."""
    raised = "make it smaller, or raise max.message.bytes of the topic and SAGA_RECORD_BYTES"
    text = f"a record of {size} bytes for {topic} exceeds its limit of {limit}: {raised}"
    return MessageTooLarge(text, topic=topic)


def partition_of(key: bytes, partitions: int) -> int:
    return _numbers[key] % partitions


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit variant of murmur2."""
    length = len(data)
    whole = length & ~3
    h = _SEED ^ length
    for word in struct.unpack(f"<{whole >> 2}I", data[:whole]):
        k = (word * _M) & _MASK
        k = ((k ^ (k >> 24)) * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    if length & 3:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


class _Numbers(dict[bytes, int]):
    """Of keys the numbers that their partitions follow from; all records of a saga share a key."""

    def __missing__(self, key: bytes) -> int:
        number = murmur2(key) & 0x7FFFFFFF
        if len(key) <= KEY_CACHED_BYTES_MAX:
            if len(self) >= KEYS_CACHED_MAX:
                self.clear()
            self[key] = number
        return number


_numbers: Final = _Numbers()
