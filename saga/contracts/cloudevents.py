"""CloudEvents 1.0 headers of Kafka's binary mode: written fast, read leniently.

What we send has every attribute, and stays what it says while it is in this process; what we
receive may have none. A known header that is null, no UTF-8 or too long to be kept is reported as
damaged. The structured mode is taken apart into the same shape.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, ClassVar, Final, final

import orjson
from typing_extensions import override

from saga.contracts.json_text import flaw_of
from saga.core.durations import SECOND_US
from saga.core.identity import ID_BYTES_MAX, Instant
from saga.core.values import value

Header = tuple[str, bytes | None]
Headers = Sequence[Header]
"""The same type as `saga.ports.bus.Headers`."""

SPECVERSION = "ce_specversion"
ID = "ce_id"
SOURCE = "ce_source"
TYPE = "ce_type"
TIME = "ce_time"
SUBJECT = "ce_subject"
CORRELATION_ID = "ce_correlationid"
CAUSATION_ID = "ce_causationid"
IDEMPOTENCY_KEY = "ce_idempotencykey"
UNDOES = "ce_sagaundoes"
PARENT_KEY = "ce_parentkey"
CONTENT_TYPE = "content-type"
TRACEPARENT = "traceparent"
SIGNATURE = "x-saga-signature"

JSON_CONTENT_TYPE = "application/json"
STRUCTURED_CONTENT_TYPE = "application/cloudevents+json"

HEADERS_READ_MAX = 100
"""How many headers of one record are looked at."""

_KNOWN = frozenset(
    (
        SPECVERSION,
        ID,
        SOURCE,
        TYPE,
        TIME,
        SUBJECT,
        CORRELATION_ID,
        CAUSATION_ID,
        IDEMPOTENCY_KEY,
        UNDOES,
        PARENT_KEY,
        CONTENT_TYPE,
        TRACEPARENT,
        SIGNATURE,
    )
)
_SAID: Final[dict[str, Callable[[Any], str]]] = dict.fromkeys(_KNOWN, bytes.decode)
_SPECVERSION_1 = (SPECVERSION, b"1.0")
_CONTENT_IS_JSON = (CONTENT_TYPE, JSON_CONTENT_TYPE.encode())
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES_CACHED_MAX = 1024
_SECONDS_CACHED_MAX = 64


class _Named:
    """The value of one header; None where it is absent, empty or damaged."""

    def __init__(self, header: str) -> None:
        self._header = header

    def __get__(self, attributes: Attributes, _: object) -> str | None:
        return attributes.values.get(self._header) or None


@value
class Attributes:
    """The headers of one record that mean something here; *damaged* names the unreadable ones."""

    values: dict[str, str]
    damaged: tuple[str, ...] = ()

    id = _Named(ID)
    source = _Named(SOURCE)
    contract_name = _Named(TYPE)
    saga_id = _Named(SUBJECT)
    correlation_id = _Named(CORRELATION_ID)
    causation_id = _Named(CAUSATION_ID)
    undoes = _Named(UNDOES)
    parent_key = _Named(PARENT_KEY)
    traceparent = _Named(TRACEPARENT)
    signature = _Named(SIGNATURE)


@final
@dataclass(slots=True, eq=False)
class Said(Sequence[Header]):
    """The headers of a record whose value is the JSON of *contract_name*, as what they say.

    As a sequence they are byte pairs, which are made for the first who wants them; None is left
    out. No text is longer than an id may be.

    Attributes:
        correlation_id: only where no saga is known; the messages of a saga share its id.
        undoes: the contract of the step that an intent undoes.
        parent_key: of a trigger the business key of the saga that starts a child with it.
    """

    id: str
    contract_name: str
    source: str
    at: Instant
    saga_id: str | None = None
    causation_id: str | None = None
    idempotency_key: str | None = None
    undoes: str | None = None
    traceparent: str | None = None
    correlation_id: str | None = None
    signature: str | None = None
    parent_key: str | None = None
    _pairs: tuple[Header, ...] = field(init=False, repr=False)  # once somebody wants them

    damaged: ClassVar[tuple[str, ...]] = ()

    @property
    def pairs(self) -> tuple[Header, ...]:
        try:
            return self._pairs
        except AttributeError:
            self._pairs = tuple(self._made())
        return self._pairs

    def _made(self) -> Iterator[Header]:
        yield _SPECVERSION_1
        yield ID, self.id.encode()
        yield _name(SOURCE, self.source)
        yield _name(TYPE, self.contract_name)
        yield TIME, rfc3339(self.at)
        yield _CONTENT_IS_JSON
        if self.saga_id is not None:
            saga = self.saga_id.encode()
            yield SUBJECT, saga
            yield CORRELATION_ID, saga
        elif self.correlation_id is not None:
            yield CORRELATION_ID, self.correlation_id.encode()
        if self.causation_id is not None:
            yield CAUSATION_ID, self.causation_id.encode()
        if self.idempotency_key is not None:
            yield IDEMPOTENCY_KEY, self.idempotency_key.encode()
        if self.undoes is not None:
            yield _name(UNDOES, self.undoes)
        if self.parent_key is not None:
            yield PARENT_KEY, self.parent_key.encode()
        if self.traceparent is not None:
            yield TRACEPARENT, self.traceparent.encode()
        if self.signature is not None:
            yield SIGNATURE, self.signature.encode()

    @override
    def __iter__(self) -> Iterator[Header]:
        return iter(self.pairs)

    @override
    def __len__(self) -> int:
        return len(self.pairs)

    @override
    def __getitem__(self, place: Any) -> Any:
        return self.pairs[place]

    @override
    def __eq__(self, other: object) -> bool:
        return self.pairs == (other.pairs if isinstance(other, Said) else other)

    @override
    def __hash__(self) -> int:
        return hash(self.pairs)


def rfc3339(at: Instant) -> bytes:
    """A moment as `2026-01-31T12:00:00.000001Z`."""
    second, micros = divmod(at, SECOND_US)
    return b"%b.%06dZ" % (_second(second), micros)


def parse_rfc3339(text: str) -> Instant | None:
    """The moment that *text* says, or None where it says none; a time without a zone says none."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            return None
        return Instant((moment - _EPOCH) // timedelta(microseconds=1))
    except (ValueError, OverflowError):
        return None


def read_headers(headers: Iterable[Header]) -> Attributes | Said:
    """The headers known here, by name; of several with one name the last. Does not raise."""
    if type(headers) is Said:
        return headers
    if type(headers) is tuple and len(headers) <= HEADERS_READ_MAX:
        try:
            # Whoever follows the standard writes nothing else: a third of the time.
            values = {name: _SAID[name](value) for name, value in headers}
            together = "".join(values.values())
            if len(together) <= ID_BYTES_MAX and together.isascii():
                return Attributes(values)
        except (KeyError, TypeError, UnicodeDecodeError):
            pass  # another header, or a damaged one: one after the other
    values = {}
    damaged: tuple[str, ...] = ()
    for place, (name, text) in enumerate(headers):
        if place == HEADERS_READ_MAX:
            break
        known = name if name in _KNOWN else name.lower()
        if known not in _KNOWN:
            continue
        try:
            values[known] = _bounded(text)
        except ValueError:
            damaged = (*damaged, known)
            values.pop(known, None)
    return Attributes(values, damaged)


def read_record(
    headers: Iterable[Header], value: bytes | None
) -> tuple[Attributes | Said, bytes | None]:
    """Attributes and value in either mode; never raises, a broken envelope stays the value."""
    attributes = read_headers(headers)
    if type(attributes) is Said:
        return attributes, value
    content_type = attributes.values.get(CONTENT_TYPE)
    if value is None or content_type is None or content_type == JSON_CONTENT_TYPE:
        return attributes, value
    if not content_type.lower().startswith(STRUCTURED_CONTENT_TYPE) or flaw_of(value):
        return attributes, value
    envelope: Any = orjson.loads(value)
    if not isinstance(envelope, dict):
        return attributes, value
    data = _data(envelope)
    if data is None:
        return attributes, value
    values, damaged = dict(attributes.values), attributes.damaged
    values[CONTENT_TYPE] = JSON_CONTENT_TYPE
    for name, attribute in envelope.items():
        known = TRACEPARENT if name == TRACEPARENT else f"ce_{name}"
        if known in _KNOWN and isinstance(attribute, str):
            if len(attribute.encode()) > ID_BYTES_MAX:
                damaged = (*damaged, known)
            else:
                values[known] = attribute
    return Attributes(values, damaged), data


def _bounded(text: bytes | None) -> str:
    if text is None or len(text) > ID_BYTES_MAX:
        raise ValueError("null, or too long to be kept")
    return text.decode()


def _data(envelope: dict[str, Any]) -> bytes | None:
    """The payload of a structured event, as the bytes it would have in binary mode."""
    if "data" in envelope:
        return orjson.dumps(envelope["data"])
    encoded = envelope.get("data_base64")
    if not isinstance(encoded, str):
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None


@lru_cache(maxsize=_NAMES_CACHED_MAX)
def _name(header: str, value: str) -> tuple[str, bytes]:
    """A header whose values are few."""
    return header, value.encode()


@lru_cache(maxsize=_SECONDS_CACHED_MAX)
def _second(second: int) -> bytes:
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19].encode()
