"""A batch of records as bytes: what one row of the local bus holds.

A line of JSON, `[head, rows]`, then the texts of all records one behind the other. A record's row
begins with the lengths of its key and value, -1 for null. Of headers that are bytes, which have no
head, their names follow, and the lengths of their values, which stand behind the record's. Headers
that are what they say (`Said`) stand in the row as that, with contract and source of all of them in
the head. What their id begins with is only a length, and so is a contract that ends the topic.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import orjson

from saga.contracts.cloudevents import Said
from saga.core.identity import Instant, instant
from saga.ports.bus import Headers, Record

UNREADABLE: Final = (ValueError, TypeError, LookupError, StopIteration, struct.error)
"""What bytes raise that are no batch."""

BATCH_RECORDS_MAX: Final = 128

Unpacked = tuple[bytes | None, bytes | None, Headers]
"""Key, value and headers."""

_OFTEN: Final = ("id", "at", "saga_id", "causation_id", "idempotency_key")
_SELDOM: Final = ("undoes", "traceparent", "correlation_id", "signature", "parent_key")
_said_in: Final = attrgetter(*_OFTEN, *_SELDOM)
_NOTHING: Final = [None] * len(_SELDOM)


def pack(records: Sequence[Record], at: Instant) -> bytes:
    """One batch, written *at*; its records have the same topic, and headers of one kind.

    They are bytes, or of the same contract and source.
    """
    first = records[0].headers
    if type(first) is not Said:
        return _pack_bytes(records)
    rows: list[list[Any]] = []
    texts: list[bytes | None] = []
    for record in records:
        key, value = record.key, record.value
        name, said_at, saga, cause, own, *seldom = _said_in(record.headers)
        row: list[Any] = [
            -1 if key is None else len(key),
            -1 if value is None else len(value),
            name,
            said_at - at,
            saga if saga is None or not name.startswith(saga) else len(saga),
            cause if cause is None or not name.startswith(cause) else len(cause),
            own if own is None or not name.startswith(own) else len(own),
        ]
        if seldom != _NOTHING:
            row += seldom
        rows.append(row)
        texts += key, value
    contract = first.contract_name
    is_topics = records[0].topic.endswith(contract)
    return _joined((len(contract) if is_topics else contract, first.source), rows, texts)


def unpack(packed: bytes, count: int, topic: str, at: Instant) -> list[Unpacked]:
    """The *count* records of a batch; raises one of `UNREADABLE`."""
    if not (type(count) is int and 1 <= count <= BATCH_RECORDS_MAX):
        raise ValueError(f"its records is {count!r:.60}, no number from 1 to {BATCH_RECORDS_MAX}")
    if packed[3:4] == b"\0":
        return _unpack_numbers(packed, count)
    line, _, joined = packed.partition(b"\n")
    head, rows = orjson.loads(line)
    if len(rows) != count:
        raise ValueError(f"its records is {count}, and it has {len(rows)}")
    if head is None:
        _check_texts(chain.from_iterable(row[2] for row in rows))
        texts = _split(joined, [*chain.from_iterable((*row[:2], *row[3]) for row in rows)])
        return [
            (next(texts), next(texts), tuple([(name, next(texts)) for name in row[2]]))
            for row in rows
        ]
    contract, source = head
    if type(contract) is int:
        contract = topic[len(topic) - contract :]
    texts = _split(joined, [*chain.from_iterable(row[:2] for row in rows)])
    return [(next(texts), next(texts), _said(contract, source, at, *row[2:])) for row in rows]


def _pack_bytes(records: Iterable[Record]) -> bytes:
    rows: list[Any] = []
    texts: list[bytes | None] = []
    for record in records:
        of_record = (record.key, record.value, *[text for _, text in record.headers])
        key, value, *lengths = [-1 if text is None else len(text) for text in of_record]
        rows.append((key, value, [name for name, _ in record.headers], lengths))
        texts += of_record
    return _joined(None, rows, texts)


def _joined(head: object, rows: object, texts: Iterable[bytes | None]) -> bytes:
    return b"%b\n%b" % (orjson.dumps((head, rows)), b"".join(filter(None, texts)))


def _said(contract: Any, source: Any, written_at: Instant, name: Any, us: int, *more: Any) -> Said:
    parts = [name[:part] if type(part) is int else part for part in more]
    if type(us) is not int:
        raise ValueError(f"{us!r:.60} is no time")
    _check_texts([contract, source, name, *(part for part in parts if part is not None)])
    return Said(name, contract, source, instant(written_at + us), *parts)


def _check_texts(texts: Iterable[Any]) -> None:
    for text in texts:
        if type(text) is not str:
            raise ValueError(f"{text!r:.60} is no text")


def _split(joined: bytes, lengths: Sequence[int]) -> Iterator[bytes | None]:
    if sum(length for length in lengths if length > 0) != len(joined):
        raise ValueError("its texts are not as long as it says")
    return _each(joined, lengths)


def _each(joined: bytes, lengths: Iterable[int]) -> Iterator[bytes | None]:
    start = 0
    for length in lengths:
        if length < 0:
            yield None
        else:
            yield joined[start : start + length]
            start += length


def _unpack_numbers(packed: bytes, count: int) -> list[Unpacked]:
    """Of the layout before: all records have the same header names.

    Little-endian 4-byte integers: the number of fields (key, value, header values), the number of
    those that vary, which ones, and the length of each text that follows, -1 for null. The texts:
    header names as JSON, all fields of the first record, of each further one those that vary.
    """
    fields, varied = struct.unpack_from("<2i", packed)
    texts_count = 1 + fields + varied * (count - 1)
    numbers = struct.unpack_from(f"<{varied + texts_count}i", packed, 8)
    texts = _split(packed[8 + 4 * len(numbers) :], numbers[varied:])
    names = orjson.loads(next(texts) or b"")
    row = [next(texts) for _ in range(fields)]
    records: list[Unpacked] = []
    for number in range(count):
        for field in numbers[:varied] if number else ():
            row[field] = next(texts)
        records.append((row[0], row[1], tuple(zip(names, row[2:], strict=True))))
    return records
