"""Texts that users' code gives, made fit to be stored, sent and shown: any character, any length.

Half a surrogate pair is no UTF-8, PostgreSQL takes no NUL, and a megabyte of text in a reason makes
a record that no topic takes. Where a text is only told, it is mended here; a name that something is
found by is refused instead.
"""

from __future__ import annotations

import re

TEXT_CHARS_MAX = 4_000
"""Characters kept of a text: enough for a sentence and its cause, far below a record's limit."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """*text* with what no store takes written as escapes, and cut where it is too long."""
    cut = len(text) - chars_max
    if cut > 0:
        text = f"{text[:chars_max]}… ({cut} characters more)"
    return _UNSTORABLE.sub(_escape, text)


def is_storable(text: str) -> bool:
    """Whether every character of *text* can be stored; of any length."""
    return _UNSTORABLE.search(text) is None


def described(error: BaseException) -> str:
    """`ValueError: what it says`, storable; the type alone where its own `__str__` raises."""
    name = type(error).__name__
    try:
        return storable(f"{name}: {error}")
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as failure:  # noqa: BLE001  # __str__ is users' code
        return storable(f"{name} (its text cannot be read: {type(failure).__name__})")


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
