"""What is wrong with an expression, and where in its text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from saga.core.values import value

_KNOWN_MAX = 8
"""How many known names a message lists."""


class Code(StrEnum):
    """The kind of a problem, as the command line prints it in brackets."""

    SYNTAX = "syntax"
    NO_TEMPLATE_HERE = "no-template-here"
    EXPRESSION_LIMIT = "expression-limit"
    UNKNOWN_NAME = "unknown-name"
    NO_SUCH_FIELD = "no-such-field"
    TYPE_MISMATCH = "type-mismatch"


@value
class Problem:
    """One mistake; *offset* counts characters of the text that was read, from 0.

    *code* is one of `Code`, or what the scope gives as its own.
    """

    offset: int
    message: str
    code: str


@dataclass(eq=False)
class ExpressionError(Exception):
    """Raised when a text is no expression; it stops at the first mistake."""

    problem: Problem

    def __str__(self) -> str:
        return f"{self.problem.message} [{self.problem.code}]"


def suggestion(name: str, known: Iterable[str]) -> str:
    """`did you mean …?` where a known name is near, or else the known names."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    if not known:
        return "none is known"
    more = ", …" if len(known) > _KNOWN_MAX else ""
    return f"known are {', '.join(known[:_KNOWN_MAX])}{more}"
