"""Columns of many rows as parameters: one array a column, so that one statement writes them all.

Arrays go in PostgreSQL's binary form, put together here: the driver's general way writes them as
text, element by element, which costs more than everything else that this side does for a batch.

PostgreSQL keeps no NUL character in text, but a message that is no JSON may well have one and must
come back as it was. It is therefore written as two characters, and the first of these, where it
occurs by itself, twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Any, ClassVar, Final

from psycopg import AsyncConnection, Connection
from psycopg.adapt import Dumper
from psycopg.pq import Format

_NUL: Final = "\x00"
_ESCAPE: Final = "\x10"
_ESCAPED_NUL: Final = _ESCAPE + "0"
_NULL_LENGTH: Final = b"\xff\xff\xff\xff"
_HEADER: Final = Struct(">5i")
_EMPTY: Final = Struct(">3i")
_LENGTH: Final = Struct(">i")
_BIGINT: Final = Struct(">q")
_BIGINT_LENGTH: Final = _LENGTH.pack(8)
_UUID_LENGTH: Final = _LENGTH.pack(16)


class Array:
    """An array parameter in binary form; the subclasses say of what."""

    __slots__ = ("data",)
    element_oid: ClassVar[int]
    array_oid: ClassVar[int]

    def __init__(self, data: bytes) -> None:
        self.data = data


class Texts(Array):
    """An array of text."""

    element_oid, array_oid = 25, 1009

    def __init__(self, values: Iterable[str | None]) -> None:
        texts = [None if value is None else escaped(value).encode() for value in values]
        super().__init__(_varying(self.element_oid, texts))


class Blobs(Array):
    """An array of bytea."""

    element_oid, array_oid = 17, 1001

    def __init__(self, values: Iterable[bytes | None]) -> None:
        super().__init__(_varying(self.element_oid, list(values)))


class Uuids(Array):
    """An array of uuid, from their 32 hex digits."""

    element_oid, array_oid = 2950, 2951

    def __init__(self, values: Iterable[str | None]) -> None:
        ids = [None if value is None else bytes.fromhex(value) for value in values]
        super().__init__(_fixed(self.element_oid, _UUID_LENGTH, ids))


class Bigints(Array):
    """An array of bigint."""

    element_oid, array_oid = 20, 1016

    def __init__(self, values: Iterable[int | None]) -> None:
        pack = _BIGINT.pack
        numbers = [None if value is None else pack(value) for value in values]
        super().__init__(_fixed(self.element_oid, _BIGINT_LENGTH, numbers))


def escaped(text: str) -> str:
    """*text* as PostgreSQL can keep it."""
    if _NUL in text or _ESCAPE in text:
        return text.replace(_ESCAPE, _ESCAPE + _ESCAPE).replace(_NUL, _ESCAPED_NUL)
    return text


def unescaped(text: str) -> str:
    """The text that `escaped` was given."""
    if _ESCAPE not in text:
        return text
    parts = text.split(_ESCAPE + _ESCAPE)
    return _ESCAPE.join(part.replace(_ESCAPED_NUL, _NUL) for part in parts)


def register_arrays(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    """Teach *connection* these parameters."""
    for kind in (Texts, Blobs, Uuids, Bigints):
        connection.adapters.register_dumper(kind, _DUMPERS[kind])


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:
        return obj.data


_DUMPERS: Final = {
    kind: type(f"{kind.__name__}Dumper", (_ArrayDumper,), {"oid": kind.array_oid})
    for kind in (Texts, Blobs, Uuids, Bigints)
}


def _varying(oid: int, values: list[bytes | None]) -> bytes:
    if not values:
        return _EMPTY.pack(0, 0, oid)
    length = _LENGTH.pack
    parts = [_HEADER.pack(1, 1, oid, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL_LENGTH)
        else:
            parts.append(length(len(value)))
            parts.append(value)
    return b"".join(parts)


def _fixed(oid: int, length: bytes, values: list[bytes | None]) -> bytes:
    if not values:
        return _EMPTY.pack(0, 0, oid)
    items = [_NULL_LENGTH if value is None else length + value for value in values]
    return b"".join([_HEADER.pack(1, 1, oid, len(values), 1), *items])
