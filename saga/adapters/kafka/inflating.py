"""Compressed batches that inflate without measure: found before anything inflates them.

22 KB of zstd can be 700 MB, which ends a worker that has less, again after each restart. What a
batch inflates to at most is read from its frames; only where that is too much is it measured, in
steps or into a buffer of the size that is allowed. In the place of a batch that is too large stands
one record with the reason and the first bytes, so that the partition goes on.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from saga.ports.bus import SET_ASIDE

INFLATED_BYTES_MAX: Final = 32 * 1_048_576
"""Of one batch. Producers fill batches up to a megabyte or so before they compress them."""
KEPT_BYTES: Final = 1_024
"""Of a batch that is set aside."""

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_PREFIX: Final = struct.Struct(">qi")
_MAGIC_AT, _MAGIC, _ATTRIBUTES_AT, _CODEC, _CONTROL, _TRANSACTIONAL = 16, 2, 22, 0x07, 0x20, 0x10
_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4
_NAMES: Final = {_GZIP: "gzip", _SNAPPY: "snappy", _LZ4: "lz4", _ZSTD: "zstd"}
_STEP_BYTES: Final = 1_048_576
_DEFLATE_RATIO_MAX: Final = 1_032
_LZ4_RATIO_MAX: Final = 255
_ZSTD_BLOCK_BYTES_MAX: Final = 131_072
_ZSTD_MAGIC: Final = 0xFD2FB528
_ZSTD_SKIPPED: Final = range(0x184D2A50, 0x184D2A60)
_ZSTD_RLE: Final = 1
_ZSTD_COMPRESSED: Final = 2
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16
_MORE: Final = 0x80
_UNKNOWN: Final = 1 << 62
"""What a frame may inflate to that cannot be taken apart."""


def without_bombs(data: bytes) -> tuple[bytes, list[str]]:
    """*data* of a fetch with a record in the place of each bomb, and what was found."""
    parts: list[bytes] = []
    found: list[str] = []
    kept = 0
    for begin, end in _compressed_batches(data):
        batch = data[begin:end]
        codec = batch[_ATTRIBUTES_AT] & _CODEC
        if not is_bomb(codec, batch[_HEADER.size :]):
            continue
        why = _reason(batch, codec)
        found.append(why)
        parts += [data[kept:begin], _in_its_place(batch, why)]
        kept = end
    return (b"".join([*parts, data[kept:]]), found) if found else (data, found)


def is_bomb(codec: int, payload: bytes) -> bool:
    """Whether *payload* inflates to more than a batch may have."""
    if _at_most(codec, payload) <= INFLATED_BYTES_MAX:
        return False
    match codec:
        case 1:  # gzip
            return _gzip_is_larger(payload)
        case 3 | 4:  # lz4, zstd: small blocks have a high bound, so that it has to be tried
            return not _fits(codec, payload)
        case _:
            return True


def _compressed_batches(data: bytes) -> Iterator[tuple[int, int]]:
    begin = 0
    while len(data) - begin >= _HEADER.size:
        end = begin + _PREFIX.size + _PREFIX.unpack_from(data, begin)[1]
        if end > len(data) or end <= begin + _HEADER.size:
            return
        attributes = data[begin + _ATTRIBUTES_AT]
        is_compressed = attributes & _CODEC in _NAMES and not attributes & _CONTROL
        if data[begin + _MAGIC_AT] == _MAGIC and is_compressed:
            yield begin, end
        begin = end


def _at_most(codec: int, payload: bytes) -> int:
    """What *payload* inflates to at most, by its frames."""
    try:
        match codec:
            case 1:
                return len(payload) * _DEFLATE_RATIO_MAX
            case 2:
                return sum(_snappy_sizes(payload))
            case 3:
                return len(payload) * _LZ4_RATIO_MAX
            case _:
                return sum(_zstd_sizes(payload))
    except (IndexError, struct.error):
        return _UNKNOWN


def _snappy_sizes(payload: bytes) -> Iterator[int]:
    """Each block says its size, which its reader allocates."""
    if not payload.startswith(_XERIAL):
        yield _varint(payload, 0)
        return
    at = _XERIAL_HEADER_BYTES
    while at < len(payload):
        (size,) = struct.unpack_from(">i", payload, at)
        if size < 0:
            yield _UNKNOWN
            return
        yield _varint(payload, at + 4)
        at += 4 + size


def _zstd_sizes(payload: bytes) -> Iterator[int]:
    """Of each block what it holds at most, and of each frame the window that it asks for."""
    at = 0
    while at < len(payload):
        magic, size = struct.unpack_from("<II", payload, at)
        if magic in _ZSTD_SKIPPED:
            at += 8 + size
            continue
        if magic != _ZSTD_MAGIC:
            yield _UNKNOWN
            return
        flags = payload[at + 4]
        at += 5
        is_single = flags & 0x20
        if not is_single:
            exponent, mantissa = payload[at] >> 3, payload[at] & 7
            window = 1 << (10 + exponent)
            if window + (window >> 3) * mantissa > INFLATED_BYTES_MAX:
                yield _UNKNOWN
                return
            at += 1
        at += (0, 1, 2, 4)[flags & 3]
        at += (1 if is_single else 0, 2, 4, 8)[flags >> 6]
        is_last = 0
        while not is_last:
            head = int.from_bytes(payload[at : at + 3], "little")
            is_last, kind, size = head & 1, head >> 1 & 3, head >> 3
            if at + 3 > len(payload):
                raise IndexError(at)
            yield _ZSTD_BLOCK_BYTES_MAX if kind == _ZSTD_COMPRESSED else size
            at += 3 + (1 if kind == _ZSTD_RLE else size)
        at += 4 if flags & 4 else 0


def _varint(payload: bytes, at: int) -> int:
    value = shift = 0
    while True:
        byte = payload[at]
        value |= (byte & 0x7F) << shift
        if byte < _MORE:
            return value
        at, shift = at + 1, shift + 7


def _gzip_is_larger(payload: bytes) -> bool:
    """Inflate in steps and throw away; damaged data is left to whoever reads it."""
    total = 0
    try:
        while payload:
            member = zlib.decompressobj(wbits=31)
            while payload and not member.eof:
                total += len(member.decompress(payload, _STEP_BYTES))
                if total > INFLATED_BYTES_MAX:
                    return True
                payload = member.unconsumed_tail
            payload = member.unused_data
    except zlib.error:
        pass
    return False


def _fits(codec: int, payload: bytes) -> bool:
    """Whether *payload* inflates into a buffer of the size that is allowed."""
    import cramjam

    library: Any = cramjam.lz4 if codec == _LZ4 else cramjam.zstd
    try:
        library.decompress_into(payload, bytearray(INFLATED_BYTES_MAX))
    except (OSError, ValueError, RuntimeError, cramjam.DecompressionError):
        return False
    return True


def _reason(batch: bytes, codec: int) -> str:
    base, delta, count = (_HEADER.unpack_from(batch)[place] for place in (0, 6, 12))
    return (
        f"{count} records at offsets {base} to {base + delta}: {len(batch)} bytes of "
        f"{_NAMES[codec]} inflate to more than {INFLATED_BYTES_MAX} bytes or are damaged; "
        f"sha256 {hashlib.sha256(batch).hexdigest()}"
    )


def _in_its_place(batch: bytes, why: str) -> bytes:
    """A batch of one record, at the last offset of *batch*: it accounts for all of them."""
    base, _, _, _, _, attributes, delta, first_ms, _, producer, epoch, sequence, _ = (
        _HEADER.unpack_from(batch)
    )
    is_transactional = bool(attributes & _TRANSACTIONAL)
    builder = _DefaultRecordBatchBuilderPy(
        _MAGIC, 0, is_transactional, producer, epoch, sequence, 16 * KEPT_BYTES
    )
    payload = batch[_HEADER.size : _HEADER.size + KEPT_BYTES]
    headers = [(SET_ASIDE, why.encode())]
    builder.append(delta, first_ms, None, payload, headers)
    made = builder.build()
    made[:8] = struct.pack(">q", base)
    return bytes(made)
