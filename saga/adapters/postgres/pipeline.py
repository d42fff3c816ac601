"""Groups of statements as one message: all leave together, and are answered together.

psycopg's own pipeline sends each statement by itself. Here a process that freezes has sent all of
its transaction or, but for very large ones, nothing. Parameters are arrays in binary form, as text
would cost more than all else. psycopg's documentation does not promise the generators used here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import count
from struct import Struct, pack
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection, generators
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

REPEATED_MAX: Final = 256
REPEATED_CHARS_MAX: Final = 4_096
"""How many statements of others a session watches for repetition, and how long they may be."""

_ENDED: Final = frozenset({b"FATAL", b"PANIC"})

Key = tuple[bytes, Sequence[int]]
"""A statement's text and the types of its parameters."""


class Prepare(StrEnum):
    AT_ONCE = "at once"
    WHEN_REPEATED = "when repeated"
    NEVER = "never"


class Call(NamedTuple):
    """A statement and the values of its parameters, as the server takes them."""

    text: bytes
    values: Sequence[Any] = ()
    types: tuple[int, ...] = ()
    formats: Sequence[Format] = ()
    results: Format = Format.TEXT
    prepare: Prepare = Prepare.NEVER

    @property
    def key(self) -> Key:
        return self.text, self.types


class Backend(NamedTuple):
    """A session's process on the server; *pid* alone may be given again."""

    pid: int
    started: str


class Session(AsyncConnection[tuple[Any, ...]]):
    """A connection that knows its backend and what that has prepared."""

    backend: Backend
    prepared: dict[Key, bytes]
    numbers: count[int]
    may_prepare: dict[Key, bool]
    """Statements that came once, and whether they are prepared when they come again."""

    def reset(self, backend: Backend) -> None:
        """*backend* is new and has prepared nothing."""
        self.backend = backend
        self.prepared, self.may_prepare, self.numbers = {}, {}, count()

    def is_to_prepare(self, call: Call) -> bool:
        if call.prepare is not Prepare.WHEN_REPEATED:
            return call.prepare is Prepare.AT_ONCE
        known = self.may_prepare.get(call.key)
        if known is None and len(self.may_prepare) < REPEATED_MAX:
            self.may_prepare[call.key] = len(call.text) <= REPEATED_CHARS_MAX
        return bool(known)

    def forget(self, call: Call) -> bool:
        """Stop preparing *call*, which fails once a table has changed; whether it was prepared."""
        self.may_prepare[call.key] = False
        return self.prepared.pop(call.key, None) is not None


async def exchange(session: Session, calls: Sequence[Call]) -> list[PGresult]:
    """Send *calls* as one message, and return what each answers.

    Raises:
        psycopg.Error: one was refused, and nothing from it on was done; or the connection failed.
    """
    async with session.lock:
        return await session.wait(_exchange(session, calls))


def call_of(sql: str, *parameters: bytes | int) -> Call:
    """*sql* has `%s` for each parameter: a bigint, or bytes in PostgreSQL's binary form."""
    values = [_BIGINT.pack(each) if isinstance(each, int) else each for each in parameters]
    formats = [Format.BINARY] * len(values)
    return Call(_numbered(sql), values, (), formats, Format.BINARY, Prepare.AT_ONCE)


class ManyRows:
    """A statement over `{rows}` with columns of these *types*; other parameters stand behind."""

    def __init__(self, sql: str, types: str) -> None:
        self._types = types.split()
        arrays = ", ".join(f"%s::{name}[]" for name in self._types)
        self._sql = sql.replace("{rows}", f"unnest({arrays})")

    def call(self, rows: Sequence[Sequence[Any]], *others: bytes | int) -> Call:
        columns = list(zip(*rows, strict=True)) or [()] * len(self._types)
        return call_of(self._sql, *map(_array, self._types, columns), *others)

    def calls(self, rows: Sequence[Sequence[Any]]) -> list[Call]:
        """No statement where there are no *rows*."""
        return [self.call(rows)] if rows else []


def rows_of(session: Session, result: PGresult) -> list[tuple[Any, ...]]:
    loading = Transformer(session)
    loading.set_pgresult(result)
    return loading.load_rows(0, result.ntuples, tuple)


def _exchange(session: Session, calls: Sequence[Call]) -> Generator[Any, Any, list[PGresult]]:
    pgconn = session.pgconn
    pgconn.enter_pipeline_mode()
    new_names = [_send(session, each) for each in calls]
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    results: list[PGresult] = []
    failure: PGresult | None = None
    for each, name in zip(calls, new_names, strict=True):
        if name is not None:
            answers = yield from generators.fetch_many(pgconn)
            if answers[-1].status == ExecStatus.COMMAND_OK:
                session.prepared[each.key] = name
            failure = failure or _refusal(pgconn, answers[-1])
        answers = yield from generators.fetch_many(pgconn)
        failure = failure or _refusal(pgconn, answers[-1])
        results.append(answers[-1])
    yield from generators.fetch_many(pgconn)  # the answer to the sync
    pgconn.exit_pipeline_mode()
    if failure is not None:
        raise error_from_result(failure)
    return results


def _send(session: Session, call: Call) -> bytes | None:
    """Returns the name of *call*, if it is prepared here."""
    pgconn = session.pgconn
    text, values, types, formats, results, _ = call
    name = session.prepared.get(call.key)
    if name is not None:
        pgconn.send_query_prepared(name, values, formats, results)
        return None
    if not session.is_to_prepare(call):
        pgconn.send_query_params(text, values, types, formats, results)
        return None
    name = b"saga_%d" % next(session.numbers)
    pgconn.send_prepare(name, text, types)
    pgconn.send_query_prepared(name, values, formats, results)
    return name


def _refusal(pgconn: PGconn, result: PGresult) -> PGresult | None:
    """*result*, if it is a refusal; raises it where the server has ended the session with it."""
    if result.status != ExecStatus.FATAL_ERROR:
        return None
    if result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) in _ENDED:
        pgconn.finish()
        raise error_from_result(result)
    return result


@lru_cache(maxsize=128)
def _numbered(sql: str) -> bytes:
    first, *rest = sql.split("%s")
    return "".join([first, *(f"${n}{part}" for n, part in enumerate(rest, 1))]).encode()


# Parameters.

_NUL: Final = "\x00"
_ESCAPE: Final = "\x10"
_ESCAPED_NUL: Final = _ESCAPE + "0"
_NULL: Final = b"\xff\xff\xff\xff"
_ARRAY: Final = Struct(">5i")
_EMPTY_ARRAY: Final = Struct(">3i")
_LENGTH: Final = Struct(">i")
_BIGINT: Final = Struct(">q")
_BIGINT_ITEM: Final = Struct(">iq")
_UUID_DIGITS: Final = 32
_UUID_LENGTH: Final = _LENGTH.pack(16).hex()


def text(value: str) -> bytes:
    """A text without NUL characters, which PostgreSQL cannot keep; `unescaped` gives it back."""
    if _NUL in value or _ESCAPE in value:
        value = value.replace(_ESCAPE, _ESCAPE + _ESCAPE).replace(_NUL, _ESCAPED_NUL)
    return value.encode()


def unescaped(text: str) -> str:
    if _ESCAPE not in text:
        return text
    parts = text.split(_ESCAPE + _ESCAPE)
    return _ESCAPE.join(part.replace(_ESCAPED_NUL, _NUL) for part in parts)


def uuid(value: str) -> bytes:
    return bytes.fromhex(value.replace("-", ""))


def texts(values: Iterable[str | None]) -> bytes:
    return _array("text", values)


def uuids(values: Iterable[str | None]) -> bytes:
    return _array("uuid", values)


def ints(values: Iterable[int | None]) -> bytes:
    return _array("bigint", values)


def _array(type_name: str, given: Iterable[Any]) -> bytes:
    oid, items_of = _TYPES[type_name]
    values = list(given)
    if not values:
        return _EMPTY_ARRAY.pack(0, 0, oid)
    return _ARRAY.pack(1, 1, oid, len(values), 1) + items_of(values)


# The items of an array, each behind its length. No step of Python's is made for each value where
# none of them is None: a batch has a thousand.


def _texts(values: list[Any]) -> bytes:
    if None in values:
        return _sized([None if value is None else text(value) for value in values])
    together = "".join(values)
    encode = text if _NUL in together or _ESCAPE in together else str.encode
    return _sized([*map(encode, values)])


def _sized(values: list[Any]) -> bytes:
    parts = [_NULL, b""] * len(values)
    if None in values:
        parts[::2] = [_NULL if value is None else _LENGTH.pack(len(value)) for value in values]
        parts[1::2] = [value or b"" for value in values]
    else:
        parts[::2] = map(_LENGTH.pack, map(len, values))
        parts[1::2] = values
    return b"".join(parts)


def _uuids(values: list[Any]) -> bytes:
    if None not in values:
        digits = "\n".join(values).replace("-", "").split("\n")
        if {*map(len, digits)} == {_UUID_DIGITS}:
            return bytes.fromhex("".join([_UUID_LENGTH, _UUID_LENGTH.join(digits)]))
    return _sized([None if value is None else uuid(value) for value in values])


def _ints(values: list[Any]) -> bytes:
    if None in values:
        item = _BIGINT_ITEM.pack
        return b"".join([_NULL if value is None else item(8, value) for value in values])
    numbers = [8] * (2 * len(values))
    numbers[1::2] = values
    return pack(">" + "iq" * len(values), *numbers)


_TYPES: Final[dict[str, tuple[int, Callable[[list[Any]], bytes]]]] = {
    "text": (25, _texts),
    "bytea": (17, _sized),
    "uuid": (2950, _uuids),
    "bigint": (20, _ints),
}
