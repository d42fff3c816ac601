"""Which partition a key belongs to: murmur2, as all of Kafka's own clients choose."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

KEYS_CACHED_MAX: Final = 65_536

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of *key* in a topic of so many *partitions*."""
    return (_cached(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 of *data*."""
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


# All records of a saga share a key.
_cached = lru_cache(maxsize=KEYS_CACHED_MAX)(murmur2)
