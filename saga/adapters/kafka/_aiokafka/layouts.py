"""What aiokafka sends and reads, with numbers that follow each other packed at once.

aiokafka makes some calls for each number, and there are a dozen for each partition of a fetch or of
what is published. The bytes and the values are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from itertools import groupby
from struct import Struct
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Int64, Schema

_NUMBERS: Final = {Int8: "b", Int16: "h", Int32: "i", Int64: "q"}
_SIZE: Final = Struct(">i")


def pack_at_once(client: AIOKafkaClient) -> None:
    """Have *client* fetch and publish in this way."""
    send = client.send

    async def send_at_once(node_id: Any, request: Request[Any], **options: Any) -> Any:
        if isinstance(request, FetchRequest | ProduceRequest):
            request._CLASSES = packed(type(request)._CLASSES)
        return await send(node_id, request, **options)

    client.send = send_at_once


@lru_cache
def packed(versions: tuple[type[Any], ...]) -> tuple[type[Any], ...]:
    """These *versions* of a request, the same but for how they are written and answers are read."""
    return tuple(
        _version(each, {"RESPONSE_TYPE": _version(each.RESPONSE_TYPE, {})}) for each in versions
    )


def _version(layout: type[Any], attributes: dict[str, Any]) -> type[Any]:
    fields = zip(layout.SCHEMA.names, map(_field, layout.SCHEMA.fields), strict=True)
    return type(layout.__name__, (layout,), {"SCHEMA": Schema(*fields), **attributes})


def _field(field: Any) -> Any:
    is_of_rows = isinstance(field, Array) and isinstance(field.array_of, Schema)
    return _Rows(field) if is_of_rows else field


class _Rows(Array):  # type: ignore[misc]  # aiokafka ships no types
    """An array of rows, each of runs of numbers and of other fields between them."""

    def __init__(self, array: Array) -> None:
        self.array_of = array.array_of
        self._parts: list[tuple[Struct | None, Any, int]] = []
        for is_number, together in groupby(array.array_of.fields, key=_is_number):
            fields = list(together)
            if is_number:
                formats = "".join(_NUMBERS[each] for each in fields)
                self._parts.append((Struct(f">{formats}"), None, len(fields)))
            else:
                self._parts += [(None, _field(each), 1) for each in fields]

    def encode(self, items: Sequence[Sequence[Any]] | None) -> bytes:
        if items is None:
            return _SIZE.pack(-1)
        return b"".join([_SIZE.pack(len(items)), *map(self._written, items)])

    def decode(self, data: BytesIO) -> list[tuple[Any, ...]] | None:
        (count,) = _SIZE.unpack(data.read(_SIZE.size))
        return None if count < 0 else [self._read(data) for _ in range(count)]

    def _written(self, item: Sequence[Any]) -> bytes:
        written = []
        at = 0
        for numbers, field, width in self._parts:
            if numbers is not None:
                written.append(numbers.pack(*item[at : at + width]))
            else:
                written.append(field.encode(item[at]))
            at += width
        return b"".join(written)

    def _read(self, data: BytesIO) -> tuple[Any, ...]:
        row: list[Any] = []
        for numbers, field, _ in self._parts:
            if numbers is not None:
                row += numbers.unpack(data.read(numbers.size))
            else:
                row.append(field.decode(data))
        return tuple(row)


def _is_number(field: Any) -> bool:
    return isinstance(field, type) and field in _NUMBERS
