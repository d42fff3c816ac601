"""Why a message cannot be read: a stable code for machines, a sentence for whoever must fix it.

Sentences name the field and what was expected there. They quote little of what was received: it may
be long, private, or hostile.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from saga.errors import MalformedMessage, MessageError, UnsupportedVersion

INPUT_CHARS_MAX = 60
MESSAGE_CHARS_MAX = 500
PROBLEMS_MAX = 3
"""How many fields one message names."""

PROBLEMS_LISTED_MAX = 10_000
"""Beyond it none is named: pydantic can only list them all, at 2.5 µs each."""


class UnreadableCode(StrEnum):
    """What is wrong with a message, as stored and counted."""

    BAD_HEADER = "bad_header"
    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    DUPLICATE_KEY = "duplicate_key"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    LONE_SURROGATE = "lone_surrogate"
    NOT_AN_OBJECT = "not_an_object"
    SCHEMA = "schema"
    UNKNOWN_CONTRACT = "unknown_contract"
    UNSUPPORTED_VERSION = "unsupported_version"
    UPCAST_FAILED = "upcast_failed"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that cannot be read, and why."""

    code: UnreadableCode
    message: str

    def error(self) -> MessageError:
        """The same as an error, for places where somebody waits for the answer."""
        if self.code is UnreadableCode.UNSUPPORTED_VERSION:
            return UnsupportedVersion(self.code.value, self.message)
        return MalformedMessage(self.code.value, self.message)


def schema_problem(error: ValidationError) -> Unreadable:
    """What pydantic found, in words: `lines[0].quantity: expected a valid integer, got "two"`."""
    if error.error_count() > PROBLEMS_LISTED_MAX:
        said = f"{error.error_count()} values are not what the contract says"
        return Unreadable(UnreadableCode.SCHEMA, said)
    found = error.errors(include_url=False, include_context=False)
    named = [
        _problem(one["loc"], one["type"], one["msg"], one["input"]) for one in found[:PROBLEMS_MAX]
    ]
    if len(found) > PROBLEMS_MAX:
        named.append(f"and {len(found) - PROBLEMS_MAX} more")
    return Unreadable(UnreadableCode.SCHEMA, shortened("; ".join(named)))


def shortened(text: str, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """*text*, cut to *chars_max*, and free of what cannot be stored as UTF-8."""
    if len(text) > chars_max:
        text = text[: chars_max - 3] + "..."
    return text.encode("utf-8", "replace").decode()


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
            text = (
                received if len(received) <= INPUT_CHARS_MAX else received[:INPUT_CHARS_MAX] + "..."
            )
            return f'"{text}"'
        case int() | float():
            return shortened(repr(received), INPUT_CHARS_MAX)
        case dict():
            return "an object"
        case list() | tuple():
            return f"an array of {len(received)}"
        case _:
            return f"a {type(received).__name__}"
