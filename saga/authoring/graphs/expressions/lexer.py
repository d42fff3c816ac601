"""Tokens of an expression, each with its place."""

from __future__ import annotations

import re
from enum import StrEnum

from saga.authoring.graphs.expressions.problems import Code, ExpressionError, Problem
from saga.authoring.graphs.expressions.tree import is_hidden
from saga.contracts.json_text import INTEGER_MAX
from saga.core.values import value

EXCERPT_CHARS = 30
"""How much of the text a message shows on each side of a mistake."""
_BLANK = " \t\r\n"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGITS = re.compile(r"[0-9]+")
_SYMBOL = re.compile(r"&&|\|\||[=!<>]=|[-+*!<>?:.,()\[\]]")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_DIGITS_MAX = len(str(INTEGER_MAX))
_HALVES = frozenset(map(chr, range(0xD800, 0xE000)))
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\"}
_HINTS = {
    "=": "compare with `==`",
    "&": "write `&&`",
    "|": "write `||`",
    "/": "there is no division",
    "%": "there is no division",
    "{": "maps cannot be written",
    "`": "quote a text with \" or '",
}


class Kind(StrEnum):
    NAME = "name"
    WHOLE = "whole"
    TEXT = "text"
    SYMBOL = "symbol"
    END = "end"


@value
class Token:
    """*text* is as it stands; *content* is what a quoted text says."""

    kind: Kind
    text: str
    at: int
    content: str = ""

    @property
    def shown(self) -> str:
        return "the end" if self.kind is Kind.END else f"`{self.text}`"


def tokens(text: str, begin: int, end: int) -> list[Token]:
    """The tokens of that part of *text*, the last of which is its end.

    Raises:
        ExpressionError: something there is no token.
    """
    found: list[Token] = []
    at = begin
    while True:
        while at < end and text[at] in _BLANK:
            at += 1
        if at == end:
            found.append(Token(Kind.END, "", at))
            return found
        token = _token(text, at, end)
        found.append(token)
        at += len(token.text)


def refused(text: str, at: int, message: str, code: Code = Code.SYNTAX) -> ExpressionError:
    """What is wrong, with the part of *text* around it."""
    around = f": {_excerpt(text, at)}" if text.strip() else ""
    return ExpressionError(Problem(at, message + around, code))


def _token(text: str, at: int, end: int) -> Token:
    if (name := _NAME.match(text, at, end)) is not None:
        return Token(Kind.NAME, name[0], at)
    if (digits := _DIGITS.match(text, at, end)) is not None:
        return _whole(text, digits[0], at)
    if (symbol := _SYMBOL.match(text, at, end)) is not None:
        return Token(Kind.SYMBOL, symbol[0], at)
    if text[at] in "\"'":
        return _quoted(text, at, end)
    hint = _HINTS.get(text[at])
    raise refused(
        text, at, f"{_visible(text[at])} is of no use here" + (f", {hint}" if hint else "")
    )


def _whole(text: str, digits: str, at: int) -> Token:
    end = at + len(digits)
    if len(digits) > 1 and digits[0] == "0":
        raise refused(text, at, "a number has no leading zero")
    if len(digits) > _DIGITS_MAX or int(digits) > INTEGER_MAX:
        raise refused(text, at, f"the number is above {INTEGER_MAX}")
    if text[end : end + 1] == "." and _DIGITS.match(text, end + 1):
        raise refused(text, at, "numbers are whole here")
    if _NAME.match(text, end):
        raise refused(text, at, "a number is followed by letters, and a name begins with none")
    return Token(Kind.WHOLE, digits, at)


def _quoted(text: str, start: int, end: int) -> Token:
    content: list[str] = []
    at = start + 1
    while at < end:
        character = text[at]
        if character == text[start]:
            return Token(Kind.TEXT, text[start : at + 1], start, "".join(content))
        if character == "\\":
            said, at = _escape(text, at)
            content.append(said)
            continue
        if is_hidden(character):
            raise refused(text, at, f"a text holds {_visible(character)}, write it as an escape")
        content.append(character)
        at += 1
    raise refused(text, start, f"a text is not closed, expected {text[start]}")


def _escape(text: str, at: int) -> tuple[str, int]:
    """What the escape at *at* says, and where it ends."""
    letter = text[at + 1 : at + 2]
    if letter in _ESCAPES and letter:
        return _ESCAPES[letter], at + 2
    if letter != "u":
        raise refused(text, at, "unknown escape, known are \\n \\r \\t \\\" \\' \\\\ \\uXXXX")
    character, end = _unit(text, at), at + 6
    if character in _HALVES and text.startswith("\\u", end):
        character, end = character + _unit(text, end), end + 6
    try:
        return character.encode("utf-16-le", "surrogatepass").decode("utf-16-le"), end
    except UnicodeDecodeError:
        raise refused(text, at, "one half of a surrogate pair") from None


def _unit(text: str, at: int) -> str:
    digits = _HEX.match(text, at + 2)
    if digits is None:
        raise refused(text, at, "\\u wants four hexadecimal digits")
    return chr(int(digits[0], 16))


def _excerpt(text: str, at: int) -> str:
    begin, end = max(0, at - EXCERPT_CHARS), at + EXCERPT_CHARS
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if is_hidden(c) else c for c in text[begin:end])
    return f"`{before}{shown}{after}`"


def _visible(character: str) -> str:
    return f"U+{ord(character):04X}" if is_hidden(character) else f"`{character}`"
