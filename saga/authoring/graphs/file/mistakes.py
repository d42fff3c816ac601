"""What can be wrong with a contract file: each mistake has a place, a sentence and a code."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import Final, NamedTuple

from saga.core.texts import storable
from saga.core.values import value

MISTAKES_SHOWN_MAX: Final = 50
SHOWN_CHARS_MAX: Final = 60


class MistakeCode(StrEnum):
    """The word in brackets behind each mistake; programs may rely on it."""

    UNREADABLE = "unreadable"
    TOO_LARGE = "too-large"
    NOT_UTF8 = "not-utf8"
    CONTROL_CHARACTER = "control-character"
    YAML = "yaml"
    EMPTY = "empty"
    SECOND_DOCUMENT = "second-document"
    TOO_DEEP = "too-deep"
    ALIAS = "alias"
    TAG = "tag"
    MERGE_KEY = "merge-key"
    DUPLICATE_KEY = "duplicate-key"
    KEY_NOT_TEXT = "key-not-text"
    AMBIGUOUS_SCALAR = "ambiguous-scalar"
    UNKNOWN_KEY = "unknown-key"
    MISSING_KEY = "missing-key"
    WRONG_TYPE = "wrong-type"
    WRONG_VALUE = "wrong-value"
    DURATION = "duration"
    NO_RESULT = "orchestrator-has-no-result"
    DUPLICATE_NODE = "duplicate-node"
    UNKNOWN_NODE = "unknown-node"
    CYCLE = "cycle"
    TWO_ACTIONS = "two-actions"
    NO_TRIGGER = "no-trigger"
    WRONG_NODE_TYPE = "wrong-node-type"
    KEY_WITHOUT_EFFECT = "key-without-effect"
    AFTER_PIVOT = "after-pivot"
    UNKNOWN_CONTRACT = "unknown-contract"
    WRONG_CONTRACT = "wrong-contract"
    UNKNOWN_SIGNAL = "unknown-signal"
    UNKNOWN_FIELD = "unknown-field"
    NOT_FILLABLE = "not-fillable"
    UNDO_NOT_FILLABLE = "undo-not-fillable"
    NOT_ROUTED = "not-routed"
    HANDLER = "handler"
    SYNTAX = "syntax"
    UNKNOWN_NAME = "unknown-name"
    NO_SUCH_FIELD = "no-such-field"
    NOT_A_DEPENDENCY = "not-a-dependency"
    TYPE_MISMATCH = "type-mismatch"
    EXPRESSION_LIMIT = "expression-limit"
    NO_TEMPLATE = "no-template-here"


class Place(NamedTuple):
    """Where something stands in its file, from 1 on."""

    line: int
    column: int


START: Final = Place(1, 1)


@value
class Mistake:
    place: Place
    message: str
    code: MistakeCode

    def told(self, file: str) -> str:
        return f"{file}:{self.place.line}:{self.place.column}: {self.message} [{self.code.value}]"


def in_order(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """Each once, from the top of the file on."""
    return sorted(set(mistakes), key=lambda each: (each.place, each.code, each.message))


def told(file: str, mistakes: Iterable[Mistake]) -> list[str]:
    """A line for each mistake, of at most so many as people read."""
    ordered = in_order(mistakes)
    lines = [mistake.told(file) for mistake in ordered[:MISTAKES_SHOWN_MAX]]
    if len(ordered) > MISTAKES_SHOWN_MAX:
        lines.append(f"{file}: and {len(ordered) - MISTAKES_SHOWN_MAX} more")
    return lines


def shown(text: object, chars_max: int = SHOWN_CHARS_MAX) -> str:
    """A text of the file, as long as a sentence has room for."""
    return storable(str(text).replace("\n", " "), chars_max)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` did you mean …?` behind a colon, or nothing."""
    near = get_close_matches(name[:SHOWN_CHARS_MAX], sorted(known), n=1)
    return f": did you mean `{near[0]}`?" if near else ""
