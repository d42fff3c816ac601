"""A handler's SQL on its way to PostgreSQL: `:name` becomes `$1`, and nothing else is touched.

Nothing inside a literal, a quoted name, a comment or a dollar quote is a parameter, nor is a cast.
A statement that would end the transaction is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format

from saga.adapters.postgres.pipeline import Call, Prepare

_OF_THE_SERVICE: Final = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"}
)
_TOKEN: Final = re.compile(
    r"""
    (?P<opaque>
        [eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)    # a literal with backslashes
      | '(?:[^']|'')*(?:'|\Z)    # one that is not closed goes to the end: the server will say so
      | "(?:[^"]|"")*(?:"|\Z)
      | ::|:=
    )
  | (?P<note>--[^\n]*)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<comment>/\*)
  | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
  | (?P<position>\$\d+)
  | :(?P<name>[^\W\d]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_TEXT_OID: Final = 0
"""The server infers the type, as it does with a literal."""
_BIGINT_OID: Final = 20
_BIGINT: Final = range(-(2**63), 2**63)


class Statement(NamedTuple):
    """A statement as the server takes it, and the names of its parameters in order."""

    text: bytes
    names: tuple[str, ...]


@lru_cache(maxsize=2_000)
def parsed(sql: str) -> Statement:
    """Raises ValueError for BEGIN, COMMIT, COPY and the like, and for parameters like `$1`."""
    parts: list[str] = []
    numbers: dict[str, int] = {}
    first_word = ""
    at = 0
    while token := _TOKEN.search(sql, at):
        kind, end = token.lastgroup, _end_of(sql, token)
        if kind == "position":
            raise ValueError(f"{token[0]}: parameters are written :name and given by name")
        if kind == "word" and not first_word:
            first_word = token[0]
            _vet(sql, first_word, end)
        if kind == "name":
            number = numbers.setdefault(token["name"], len(numbers) + 1)
            parts += [sql[at : token.start()], f"${number}"]
        else:
            parts.append(sql[at:end])
        at = end
    parts.append(sql[at:])
    return Statement("".join(parts).encode(), tuple(numbers))


def bound(
    statement: Statement, params: Mapping[str, object], connection: psycopg.AsyncConnection[Any]
) -> Call:
    """Whole numbers are bigint; text is what its place asks for, as a date or a uuid.

    Raises:
        ValueError: a parameter is missing, or is text with a NUL character.
    """
    for name in statement.names:
        if name not in params:
            raise ValueError(f"the statement has a parameter :{name}, which was not given")
    dumped = [_dumped(params[name], connection) for name in statement.names]
    values, types, formats = zip(*dumped, strict=True) if dumped else ((), (), ())
    return Call(statement.text, values, types, formats, prepare=Prepare.WHEN_REPEATED)


def _dumped(value: object, connection: psycopg.AsyncConnection[Any]) -> tuple[Any, int, Format]:
    if value is None:
        return None, _TEXT_OID, Format.TEXT
    if type(value) is str:
        if "\x00" in value:
            raise ValueError("text with a NUL character cannot be kept by PostgreSQL")
        return value.encode(), _TEXT_OID, Format.TEXT
    if type(value) is int and value in _BIGINT:
        return b"%d" % value, _BIGINT_OID, Format.TEXT
    dumping = Transformer(connection)
    [dumped] = dumping.dump_sequence([value], [PyFormat.AUTO])
    assert dumping.types is not None
    assert dumping.formats is not None
    return dumped, dumping.types[0], dumping.formats[0]


def _vet(sql: str, first_word: str, end: int) -> None:
    word = first_word.upper()
    following = sql[end:].split(maxsplit=1)
    ends = word == "PREPARE" and following and following[0].upper() == "TRANSACTION"
    if word in _OF_THE_SERVICE or ends:
        raise ValueError(f"{first_word}: a handler's transaction is begun and ended by its service")
    if word == "COPY":
        raise ValueError("COPY: use the driver's connection, ctx.db.raw")


def _end_of(sql: str, token: re.Match[str]) -> int:
    if token.lastgroup == "dollar":
        end = sql.find(token[0], token.end())
        return len(sql) if end < 0 else end + len(token[0])
    if token.lastgroup != "comment":
        return token.end()
    depth, at = 1, token.end()
    while depth and (edge := _COMMENT_EDGE.search(sql, at)):
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at if depth == 0 else len(sql)
