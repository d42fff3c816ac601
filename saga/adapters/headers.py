"""
Record headers as one blob, byte for byte: null values, repeated names and binary values included.

Two forms. The plain one joins names and values with a separator and is what nearly every record
takes; the exact one prefixes lengths, and is taken when a value is null or has the separator in it.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import islice
from typing import Final

from saga.ports.bus import Headers

_SEPARATOR: Final = b"\x1f"
_PLAIN: Final = b"\x00"
_EXACT: Final = b"\x01"
_NULL: Final = 0xFFFFFFFF
_LENGTH: Final = struct.Struct("<I")
_NAME_LISTS_CACHED_MAX: Final = 4_096


def encode_headers(headers: Headers) -> bytes:
    """
    The blob of *headers*; empty for none.
    """
    if not headers:
        return b""
    names, values = zip(*headers, strict=True)
    try:
        blob = _joined_names(names) + _SEPARATOR.join(values)
    except TypeError:  # a null value
        return _encode_exactly(headers)
    if blob.count(_SEPARATOR) != 2 * len(names) - 1:
        return _encode_exactly(headers)
    return blob


def decode_headers(blob: bytes) -> Headers:
    """
    The headers that `encode_headers` was given.
    """
    if not blob:
        return ()
    if blob[:1] == _EXACT:
        return _decode_exactly(blob)
    parts = blob[1:].split(_SEPARATOR)
    half = len(parts) >> 1
    return tuple(zip(_names(tuple(parts[:half])), islice(parts, half, None), strict=True))


@lru_cache(maxsize=_NAME_LISTS_CACHED_MAX)
def _joined_names(names: tuple[str, ...]) -> bytes:
    return _PLAIN + b"".join(name.encode() + _SEPARATOR for name in names)


@lru_cache(maxsize=_NAME_LISTS_CACHED_MAX)
def _names(names: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(name.decode() for name in names)


def _encode_exactly(headers: Headers) -> bytes:
    parts = [_EXACT]
    for name, value in headers:
        encoded = name.encode()
        parts += (_LENGTH.pack(len(encoded)), encoded)
        if value is None:
            parts.append(_LENGTH.pack(_NULL))
        else:
            parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def _decode_exactly(blob: bytes) -> Headers:
    headers: list[tuple[str, bytes | None]] = []
    place = 1
    while place < len(blob):
        name, place = _take(blob, place)
        value, place = _take(blob, place)
        assert name is not None, blob
        headers.append((name.decode(), value))
    return tuple(headers)


def _take(blob: bytes, place: int) -> tuple[bytes | None, int]:
    (length,) = _LENGTH.unpack_from(blob, place)
    place += 4
    if length == _NULL:
        return None, place
    return blob[place : place + length], place + length
