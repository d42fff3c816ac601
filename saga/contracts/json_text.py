"""JSON text: its canonical form, and why a message is refused before anybody looks at its meaning.

Standard JSON leaves room that readers fill differently: duplicate keys, NaN, numbers beyond 64
bits, halves of surrogate pairs, any depth. All of that is refused, whatever the parser would do.
A refusal quotes little: what was received may be long, private or hostile.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from enum import StrEnum
from itertools import accumulate
from typing import Any, Final, NoReturn

import orjson
from pydantic import ValidationError

from saga.core.events import Json
from saga.core.values import value
from saga.errors import MalformedMessage, MessageError, UnsupportedVersion

DEPTH_MAX = 100
"""How many arrays and objects may lie within each other."""
LARGE_BYTES = 16_384
"""A value beyond it is looked at twice: what is cheap in a small one might take all memory here."""
NAME_BYTES_MAX = 1_000
"""How long the name of a member may be in a large value: every problem below repeats it."""
VALUE_BYTES_MAX = 1_000_000
"""What Kafka brokers accept as they come, less some room for key and headers."""
HEADERS_BYTES_MAX = 48_576
"""That room: what a bus has to take beside a value. Our keys and headers are far smaller."""
INTEGER_MIN = -(2**63)
INTEGER_MAX = 2**64 - 1
INPUT_CHARS_MAX = 60
MESSAGE_CHARS_MAX = 500
PROBLEMS_MAX = 3
"""How many fields one message names."""
PROBLEMS_LISTED_MAX = 10_000
"""Beyond it none is named: pydantic can only list them all, at 2.5 µs each."""
_DEEP_BYTES_MIN = 2 * DEPTH_MAX
"""Anything shorter has no room for that many brackets."""
_INTEGER_DIGITS_MAX = 20
_NUMBER_SHOWN = 40
# Possessive, and a text that never ends is taken whole: no byte is looked at again and again.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+'
_STRINGS = re.compile(_STRING, re.DOTALL)
_BLANKS = rb"[ \t\r\n]*+"
_SHORT = rb'"[^"\\]{0,%d}+"' % NAME_BYTES_MAX
_SHORT_NAME = rb'"(?:[^"\\]|\\.){0,%d}+"%b:' % (NAME_BYTES_MAX, _BLANKS)
_UP_TO_LONG_NAME = re.compile(
    rb'(?:[^"]*+(?:%b|%b(?!%b:)|%b))*+[^"]*+' % (_SHORT, _STRING, _BLANKS, _SHORT_NAME), re.DOTALL
)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_STEPS = [1 if byte in b"[{" else -1 for byte in range(256)]
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class UnreadableCode(StrEnum):
    """What is wrong with a message, as stored and counted."""

    BAD_HEADER = "bad_header"
    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    NAME_TOO_LONG = "name_too_long"
    DUPLICATE_KEY = "duplicate_key"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    LONE_SURROGATE = "lone_surrogate"
    NOT_AN_OBJECT = "not_an_object"
    SCHEMA = "schema"
    UNKNOWN_CONTRACT = "unknown_contract"
    UNSUPPORTED_VERSION = "unsupported_version"
    UPCAST_FAILED = "upcast_failed"


@value
class Unreadable:
    code: UnreadableCode
    message: str

    def error(self) -> MessageError:
        if self.code is UnreadableCode.UNSUPPORTED_VERSION:
            return UnsupportedVersion(self.code.value, self.message)
        return MalformedMessage(self.code.value, self.message)


_TOO_DEEP: Final = Unreadable(
    UnreadableCode.TOO_DEEP, f"more than {DEPTH_MAX} arrays and objects within each other"
)
_NAME_TOO_LONG: Final = Unreadable(
    UnreadableCode.NAME_TOO_LONG,
    f"the name of a member has more than {NAME_BYTES_MAX} bytes, in more than {LARGE_BYTES} bytes",
)
_LONE_SURROGATE: Final = Unreadable(
    UnreadableCode.LONE_SURROGATE, "a text holds one half of a surrogate pair"
)


def canonical(value: object) -> Json:
    """The one JSON text of a plain Python value; MalformedMessage if JSON cannot say it."""
    try:
        # NaN is no error for orjson, it becomes null; the standard library tells.
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        if b"null" in text:
            json.dumps(value, allow_nan=False, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise _reason(error) from error
    if (flaw := flaw_in_form(text)) is not None:
        raise flaw.error()
    return Json(text.decode())


def canonical_text(text: bytes) -> Json | Unreadable:
    """The canonical form of JSON that somebody wrote, or why it is none."""
    flaw = flaw_of(text)
    return flaw or Json(orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode())


def canonical_dump(text: bytes) -> bytes:
    """The canonical form, made fast, of what pydantic wrote as JSON; MalformedMessage if flawed."""
    try:
        plain = orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONDecodeError as error:
        flaw = flaw_of(text)
        raise (flaw.error() if flaw else _reason(error)) from error
    # The same tokens in another order have the same length. An integer too large becomes a float,
    # which shows in its length or its point; keys that fell together show in the length.
    if len(plain) != len(text) or plain.count(b".") != text.count(b"."):
        flaw = flaw_of(text)
        if flaw is not None:
            raise flaw.error()
    if len(plain) >= _DEEP_BYTES_MIN and (flaw := flaw_in_form(plain)) is not None:
        raise flaw.error()
    return plain


def flaw_of(value: bytes) -> Unreadable | None:
    """Why *value* is no acceptable JSON text, whatever it should mean; None where it is."""
    try:
        if (flaw := flaw_in_form(value)) is not None:
            return flaw
        text = value.decode("utf-8")
        if _is_plain(value):
            return None
        parsed = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_constant,
        )
        if _SURROGATE_ESCAPE.search(value):
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except MalformedMessage as error:
        return Unreadable(UnreadableCode(error.code), error.message)
    except UnicodeEncodeError:
        return _LONE_SURROGATE
    except UnicodeDecodeError as error:
        return Unreadable(UnreadableCode.NOT_UTF8, f"byte {error.start} is not UTF-8")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        return Unreadable(UnreadableCode.NOT_JSON, shortened(f"no JSON at {place}: {error.msg}"))
    except RecursionError:
        return _TOO_DEEP
    return None


def flaw_in_form(value: bytes) -> Unreadable | None:
    """What makes *value* too much for a parser, whether it is JSON or not; linear in its length."""
    if is_deep(value):
        return _TOO_DEEP
    if len(value) > LARGE_BYTES and _has_long_name(value):
        return _NAME_TOO_LONG
    return None


def _has_long_name(value: bytes) -> bool:
    """Whether a text longer than NAME_BYTES_MAX stands before a colon."""
    place = _UP_TO_LONG_NAME.match(value).end()  # type: ignore[union-attr]  # it takes nothing, too
    return place < len(value)


def is_deep(value: bytes) -> bool:
    """Whether brackets outside of strings lie deeper than DEPTH_MAX."""
    if value.count(b"[") + value.count(b"{") <= DEPTH_MAX:
        return False
    brackets = _STRINGS.sub(b"", value).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > DEPTH_MAX


def schema_problem(error: ValidationError) -> Unreadable:
    """What pydantic found, in words: `lines[0].quantity: expected a valid integer, got "two"`."""
    if error.error_count() > PROBLEMS_LISTED_MAX:
        many = f"{error.error_count()} values are not what the contract says"
        return Unreadable(UnreadableCode.SCHEMA, many)
    problems = error.errors(include_url=False, include_context=False)
    named = [
        _problem(each["loc"], each["type"], each["msg"], each["input"])
        for each in problems[:PROBLEMS_MAX]
    ]
    if len(problems) > PROBLEMS_MAX:
        named.append(f"and {len(problems) - PROBLEMS_MAX} more")
    return Unreadable(UnreadableCode.SCHEMA, shortened("; ".join(named)))


def shortened(text: str, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """*text*, cut to *chars_max*, and free of what cannot be stored as UTF-8."""
    if len(text) > chars_max:
        text = text[: chars_max - 3] + "..."
    return text.encode("utf-8", "replace").decode()


def _is_plain(value: bytes) -> bool:
    """Whether *value* is what it would be if written again: then it hides nothing."""
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return orjson.dumps(parsed) == value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = shortened(next(name for name in counts if counts[name] > 1), 100)
        raise Unreadable(UnreadableCode.DUPLICATE_KEY, f'the key "{twice}" occurs twice').error()
    return members


def _integer(digits: str) -> int:
    number = int(digits) if len(digits) <= _INTEGER_DIGITS_MAX else INTEGER_MAX + 1
    if not INTEGER_MIN <= number <= INTEGER_MAX:
        raise _out_of_range(f"{shortened(digits, _NUMBER_SHOWN)} does not fit into 64 bits").error()
    return number


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _out_of_range(f"{shortened(digits, _NUMBER_SHOWN)} does not fit into 64 bits").error()
    return number


def _constant(name: str) -> NoReturn:
    raise _out_of_range(f"{name} is no number that JSON knows").error()


def _out_of_range(message: str) -> Unreadable:
    return Unreadable(UnreadableCode.NUMBER_OUT_OF_RANGE, message)


def _reason(error: Exception) -> MessageError:
    """What orjson or the standard library refused to write."""
    text = str(error)
    if isinstance(error, RecursionError) or "ecursion" in text or "depth" in text:
        return _TOO_DEEP.error()
    if "64-bit" in text or "Out of range" in text:
        return _out_of_range("a number is infinite, NaN or does not fit into 64 bits").error()
    if "surrogate" in text:
        return _LONE_SURROGATE.error()
    return Unreadable(UnreadableCode.NOT_JSON, shortened(f"cannot be JSON: {text}")).error()


def _problem(path: tuple[int | str, ...], kind: str, message: str, received: Any) -> str:
    place = shortened(_path(path), 100)
    if kind == "missing":
        return f"{place}: is missing"
    expected = message.removeprefix("Input should be ").removeprefix("Value error, ")
    if message.startswith("Input should be "):
        expected = f"expected {expected}"
    return f"{place}: {shortened(expected, 200)}, got {_quoted(received)}"


def _path(path: tuple[int | str, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the message"


def _quoted(received: Any) -> str:
    """A little of *received*: enough to find it."""
    match received:
        case None:
            return "null"
        case bool():
            return "true" if received else "false"
        case str():
            rest = "..." if len(received) > INPUT_CHARS_MAX else ""
            return f'"{received[:INPUT_CHARS_MAX]}{rest}"'
        case int() | float():
            return shortened(repr(received), INPUT_CHARS_MAX)
        case dict():
            return "an object"
        case list() | tuple():
            return f"an array of {len(received)}"
        case _:
            return f"a {type(received).__name__}"
