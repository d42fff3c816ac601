"""What it costs to refuse a record grows as the record does, whatever is wrong with it.

Judged by processor time of this process at one size against four times that size, up to a
megabyte: what is linear takes about four times as long, what is quadratic sixteen times.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import Field

from saga import Context, EffectContext, SagaApp, saga
from saga.contracts import (
    ContractRegistry,
    Event,
    Intent,
    TopicNames,
    Unreadable,
    UnreadableCode,
    canonical_text,
    decode,
    upcast,
    wrong_headers,
)
from saga.contracts.cloudevents import Attributes, read_headers, read_record
from saga.core.identity import Instant
from saga.effects import Effects, Subscription
from saga.ports import Inbound
from saga.runtime.router import Rejected, Router

SIZES = [4_000, 16_000, 64_000, 256_000, 1_000_000]
GROWTH_MAX = 10
NOISE_S = 0.003
RUNS, RUNS_MAX = 3, 30
"""What a busy machine adds to one run it does not add to all of so many."""


class Older(Event, topic="growth.older", version=1, key="text"):
    text: str


class Newer(Event, topic="growth.older", version=2, key="text"):
    text: str


@upcast
def _fails(old: Older) -> Newer:
    raise ValueError(old.text)


class Taken(Event, topic="growth.taken", version=1, key="text"):
    text: str = ""
    number: int = 0
    numbers: tuple[int, ...] = ()
    counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    anything: Any = None


class Note(Intent[None], topic="growth.note", version=1):
    text: str = ""
    counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    anything: Any = None


@saga("growing", version=1, starts_on=Taken)
async def growing(ctx: Context, taken: Taken) -> None:
    await ctx.do(Note(text=taken.text))


CONTRACTS = ContractRegistry([Taken, Note, Newer, Older])
TAKEN = "growth.evt.taken.v1"


def _repeated(before: bytes, part: bytes, size: int, after: bytes = b"") -> bytes:
    return before + part * ((size - len(before) - len(after)) // len(part)) + after


def _names(size: int) -> bytes:
    """Half of it one name, the other half wrong values below it."""
    wrong = b",".join(b'"%d":"x"' % number for number in range(size // 24))
    return b'{"counts":{"' + b"k" * (size // 2) + b'":{' + wrong + b"}}}"


def _short_names(size: int) -> bytes:
    wrong = b",".join(b'"%d":"x"' % number for number in range(size // 14))
    return b'{"counts":{"k":{' + wrong + b"}}}"


Hostile = Callable[[int], bytes]
VALUES: dict[str, tuple[UnreadableCode, Hostile]] = {
    "a text that never ends": (
        UnreadableCode.TOO_DEEP,
        lambda size: _repeated(b"[" * 101 + b'"', rb"\"", size),
    ),
    "a text that never ends, among fewer brackets": (
        UnreadableCode.NOT_JSON,
        lambda size: _repeated(b'{"anything":"', rb"\"", size),
    ),
    "quotes": (UnreadableCode.TOO_DEEP, lambda size: _repeated(b"[" * 101, b'"', size)),
    "backslashes": (
        UnreadableCode.TOO_DEEP,
        lambda size: _repeated(b"[" * 101 + b'"', b"\\", size),
    ),
    "brackets": (UnreadableCode.TOO_DEEP, lambda size: b"[" * size),
    "objects": (UnreadableCode.TOO_DEEP, lambda size: _repeated(b"", b'{"anything":', size)),
    "a long name": (UnreadableCode.NAME_TOO_LONG, lambda size: _names(max(size, 64_000))),
    "many names": (UnreadableCode.SCHEMA, _short_names),
    "blanks": (UnreadableCode.NOT_JSON, lambda size: _repeated(b"", b" ", size, b"x")),
    "lines": (UnreadableCode.NOT_JSON, lambda size: _repeated(b"", b"\n", size, b"{")),
    "no UTF-8": (
        UnreadableCode.NOT_UTF8,
        lambda size: _repeated(b'{"text":"', b"a", size, b'\xff"}'),
    ),
    "names twice": (
        UnreadableCode.DUPLICATE_KEY,
        lambda size: _repeated(b'{"anything":{', b'"k":1,', size, b'"k":1}}'),
    ),
    "digits": (
        UnreadableCode.NUMBER_OUT_OF_RANGE,
        lambda size: _repeated(b'{"number":', b"1", size, b"}"),
    ),
    "digits anywhere": (
        UnreadableCode.NUMBER_OUT_OF_RANGE,
        lambda size: _repeated(b'{"anything":', b"1", size, b"}"),
    ),
    "an exponent": (
        UnreadableCode.NUMBER_OUT_OF_RANGE,
        lambda size: _repeated(b'{"anything":', b"1", size, b"e999}"),
    ),
    "half surrogate pairs": (
        UnreadableCode.LONE_SURROGATE,
        lambda size: _repeated(b'{"text":"', rb"\ud800", size, b'"}'),
    ),
    "an array": (UnreadableCode.NOT_AN_OBJECT, lambda size: _repeated(b"[", b"1,", size, b"1]")),
    "wrong values": (
        UnreadableCode.SCHEMA,
        lambda size: _repeated(b'{"numbers":[', b'"x",', size, b"1]}"),
    ),
    "a wrong text": (
        UnreadableCode.SCHEMA,
        lambda size: _repeated(b'{"number":"', b"1", size, b'"}'),
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_refusing_a_value_takes_as_long_as_the_value_is(name: str) -> None:
    code, hostile = VALUES[name]

    def refused(value: bytes) -> None:
        assert _code(decode(CONTRACTS, TAKEN, value)) == code
        if code not in (UnreadableCode.SCHEMA, UnreadableCode.NOT_AN_OBJECT):
            assert isinstance(canonical_text(value), Unreadable)

    _grows_as_its_input(hostile, refused)


@pytest.mark.parametrize("name", VALUES)
def test_an_envelope_is_opened_in_as_long_as_it_is(name: str) -> None:
    structured = (("content-type", b"application/cloudevents+json"),)

    _grows_as_its_input(VALUES[name][1], lambda value: read_record(structured, value))


def _older(value: bytes) -> None:
    assert _code(decode(CONTRACTS, "growth.evt.older.v1", value)) is UnreadableCode.UPCAST_FAILED


def _too_large(value: bytes) -> None:
    decoded = decode(CONTRACTS, TAKEN, value, bytes_max=1_000)
    assert _code(decoded) is UnreadableCode.TOO_LARGE


def _no_value(value: bytes) -> None:
    assert value
    assert _code(decode(CONTRACTS, TAKEN, None)) is UnreadableCode.NULL_VALUE


def _unknown(value: bytes) -> None:
    decoded = decode(CONTRACTS, value.decode(), b"{}")
    assert _code(decoded) is UnreadableCode.UNKNOWN_CONTRACT


def _damaged_header(value: bytes) -> None:
    attributes = read_headers((("ce_id", value + b"\xff"), ("ce_source", value)))
    assert _code(wrong_headers(TAKEN, attributes)) is UnreadableCode.BAD_HEADER


def _another_version(value: bytes) -> None:
    attributes = Attributes({"ce_type": "growth.evt.taken.v" + value.decode()})
    assert _code(wrong_headers(TAKEN, attributes)) is UnreadableCode.UNSUPPORTED_VERSION


OTHERS: dict[UnreadableCode, tuple[Hostile, Callable[[bytes], None]]] = {
    UnreadableCode.UPCAST_FAILED: (
        lambda size: _repeated(b'{"text":"', b"a", size, b'"}'),
        _older,
    ),
    UnreadableCode.TOO_LARGE: (lambda size: b"x" * size, _too_large),
    UnreadableCode.NULL_VALUE: (lambda size: b"x" * size, _no_value),
    UnreadableCode.UNKNOWN_CONTRACT: (lambda size: b"growth.evt." * (size // 11), _unknown),
    UnreadableCode.BAD_HEADER: (lambda size: b"x" * size, _damaged_header),
    UnreadableCode.UNSUPPORTED_VERSION: (lambda size: b"7" * size, _another_version),
}


@pytest.mark.parametrize("code", OTHERS)
def test_refusing_what_is_around_a_value_takes_as_long_as_that_is(code: UnreadableCode) -> None:
    _grows_as_its_input(*OTHERS[code])


def test_every_code_of_refusal_is_tried() -> None:
    assert {code for code, _ in VALUES.values()} | set(OTHERS) == set(UnreadableCode)


TEXT = "a text that never ends"


def test_an_orchestrator_refuses_a_record_in_as_long_as_it_is() -> None:
    app = SagaApp(sagas=[growing])
    names = TopicNames("test", "saga")
    router = Router(app.registry, app.contracts, names)
    topic = names.topic(TAKEN)

    def refused(value: bytes) -> None:
        assert isinstance(router.understand(_inbound(topic, value), Instant(0)), Rejected)

    _grows_as_its_input(VALUES[TEXT][1], refused)


def test_an_effect_service_refuses_a_record_in_as_long_as_it_is() -> None:
    effects = Effects("growing")

    @effects.on(Note)
    async def note(intent: Note, ctx: EffectContext) -> None: ...

    subscription = Subscription(effects, CONTRACTS, TopicNames("test", "saga"))
    (topic,) = subscription.routes

    def refused(value: bytes) -> None:
        assert _reason(subscription.read(_inbound(topic, value))) is UnreadableCode.TOO_DEEP

    _grows_as_its_input(VALUES[TEXT][1], refused)


def _inbound(topic: str, value: bytes) -> Inbound:
    return Inbound(topic, 0, 0, b"k", value, (), Instant(0))


def _code(answer: object) -> UnreadableCode | None:
    return answer.code if isinstance(answer, Unreadable) else None


def _reason(answer: object) -> object:
    return getattr(answer, "reason", None)


def _grows_as_its_input(hostile: Hostile, refuse: Callable[[bytes], object]) -> None:
    enough_s = math.inf
    for size in SIZES:
        value = hostile(size)
        took_s = min(_took_s(refuse, value) for _ in range(RUNS))
        for _ in range(RUNS_MAX - RUNS):
            if took_s < enough_s:
                break
            took_s = min(took_s, _took_s(refuse, value))
        assert took_s < enough_s, f"{size} bytes: {took_s:.4f} s"
        enough_s = took_s * GROWTH_MAX + NOISE_S


def _took_s(refuse: Callable[[bytes], object], value: bytes) -> float:
    began_s = time.process_time()
    refuse(value)
    return time.process_time() - began_s
