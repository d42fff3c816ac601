"""Groups of statements as one message: all leave together, and are answered together.

psycopg's own pipeline sends each statement by itself. Here nothing leaves before all is there: a
batch costs one call of the system instead of a dozen. A process that freezes has sent all of its
transaction or, but for very large ones, nothing.

Parameters of ours are columns of many rows: arrays in PostgreSQL's binary form, put together here.
The driver's general way writes them as text, element by element, which costs more than everything
else that this side does for a batch.

This is the one file that uses psycopg's generators, which its documentation does not promise.
`check_version` runs before a connection is made.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import count
from struct import Struct
from typing import Any, ClassVar, Final, NamedTuple

from psycopg import AsyncConnection, Connection, generators
from psycopg.adapt import Dumper
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from saga.adapters import versions

AT_LEAST: Final = "3.2"
BELOW: Final = "3.4"
REPEATED_MAX: Final = 256
REPEATED_CHARS_MAX: Final = 4_096
"""How many statements of others a session watches for repetition, and how long they may be."""

_ENDED: Final = frozenset({b"FATAL", b"PANIC"})

Row = tuple[bytes | None, ...]
Answers = list[list[Row]]
Key = tuple[bytes, Sequence[int]]
"""A statement's text and the types of its parameters."""


class Prepare(StrEnum):
    """When the server prepares a statement."""

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
        """What it is prepared by."""
        return self.text, self.types


class Backend(NamedTuple):
    """A session's process on the server: its id alone may be given again."""

    pid: int
    started: str


class Session(AsyncConnection[tuple[Any, ...]]):
    """A connection that knows its backend, and the statements which that has prepared."""

    backend: Backend
    prepared: dict[Key, bytes]
    numbers: count[int]
    may_prepare: dict[Key, bool]
    """Statements that came once, and whether they are prepared when they come again."""
    is_for_handlers: bool = False

    def reset(self, backend: Backend) -> None:
        """Know *backend*, which is new and has prepared nothing."""
        self.backend = backend
        self.prepared, self.may_prepare, self.numbers = {}, {}, count()

    def is_to_prepare(self, call: Call) -> bool:
        """Whether *call* is to be prepared now."""
        if call.prepare is not Prepare.WHEN_REPEATED:
            return call.prepare is Prepare.AT_ONCE
        known = self.may_prepare.get(call.key)
        if known is None and len(self.may_prepare) < REPEATED_MAX:
            self.may_prepare[call.key] = len(call.text) <= REPEATED_CHARS_MAX
        return bool(known)

    def forget(self, call: Call) -> bool:
        """Do not prepare *call* any more; returns whether it was prepared.

        What was prepared before a table changed, or was forgotten by the server, fails for ever.
        """
        self.may_prepare[call.key] = False
        return self.prepared.pop(call.key, None) is not None


def check_version(setting: str) -> None:
    """Refuse a psycopg whose generators are not known; *setting* is what asks for it.

    Raises:
        SettingsError: names the version found, those known, and what to install.
    """
    versions.check_version("psycopg", at_least=AT_LEAST, below=BELOW, setting=setting)


async def exchange(session: Session, calls: Sequence[Call]) -> list[PGresult]:
    """Send *calls* as one message, and return what each answers.

    Raises:
        psycopg.Error: the server refused one of them, or the connection failed. Where the
            connection is still open, nothing from the refused one on was done.
    """
    async with session.lock:
        return await session.wait(_exchange(session, calls))


def call_of(sql: str, *parameters: Array | int) -> Call:
    """The statement *sql* of ours, with `%s` for each parameter; it answers in binary form."""
    values = [each.data if isinstance(each, Array) else _BIGINT.pack(each) for each in parameters]
    formats = [Format.BINARY] * len(values)
    return Call(_numbered(sql), values, (), formats, Format.BINARY, Prepare.AT_ONCE)


def rows_in(result: PGresult) -> list[Row]:
    """The rows of an answer, as they came."""
    columns = range(result.nfields)
    return [
        tuple(result.get_value(row, column) for column in columns) for row in range(result.ntuples)
    ]


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
    """Put *call* into the message; returns its new name, where it is prepared first."""
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
    """*result*, where it says that the server has refused something.

    Raises:
        psycopg.Error: it has ended the session with that. The connection is closed: there will be
            no other answer.
    """
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
_NULL_LENGTH: Final = b"\xff\xff\xff\xff"
_HEADER: Final = Struct(">5i")
_EMPTY: Final = Struct(">3i")
_LENGTH: Final = Struct(">i")
_BIGINT: Final = Struct(">q")
_BIGINT_LENGTH: Final = _LENGTH.pack(8)
_UUID_LENGTH: Final = _LENGTH.pack(16)


class Array:
    """An array parameter in binary form; the subclasses say of what."""

    __slots__ = ("data",)
    element_oid: ClassVar[int]
    array_oid: ClassVar[int]

    def __init__(self, data: bytes) -> None:
        self.data = data


class Texts(Array):
    """An array of text."""

    element_oid, array_oid = 25, 1009

    def __init__(self, values: Iterable[str | None]) -> None:
        texts = [None if value is None else escaped(value).encode() for value in values]
        super().__init__(_varying(self.element_oid, texts))


class Blobs(Array):
    """An array of bytea."""

    element_oid, array_oid = 17, 1001

    def __init__(self, values: Iterable[bytes | None]) -> None:
        super().__init__(_varying(self.element_oid, list(values)))


class Uuids(Array):
    """An array of uuid, from their 32 hex digits."""

    element_oid, array_oid = 2950, 2951

    def __init__(self, values: Iterable[str | None]) -> None:
        ids = [None if value is None else bytes.fromhex(value) for value in values]
        super().__init__(_fixed(self.element_oid, _UUID_LENGTH, ids))


class Bigints(Array):
    """An array of bigint."""

    element_oid, array_oid = 20, 1016

    def __init__(self, values: Iterable[int | None]) -> None:
        pack = _BIGINT.pack
        numbers = [None if value is None else pack(value) for value in values]
        super().__init__(_fixed(self.element_oid, _BIGINT_LENGTH, numbers))


def escaped(text: str) -> str:
    """*text* as PostgreSQL can keep it.

    It keeps no NUL character, but a message that is no JSON may well have one. It is written as two
    characters, and the first of these, where it occurs by itself, twice.
    """
    if _NUL in text or _ESCAPE in text:
        return text.replace(_ESCAPE, _ESCAPE + _ESCAPE).replace(_NUL, _ESCAPED_NUL)
    return text


def unescaped(text: str) -> str:
    """The text that `escaped` was given."""
    if _ESCAPE not in text:
        return text
    parts = text.split(_ESCAPE + _ESCAPE)
    return _ESCAPE.join(part.replace(_ESCAPED_NUL, _NUL) for part in parts)


def register_arrays(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    """Have *connection* take arrays as parameters of queries, too."""
    for kind, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(kind, dumper)


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:
        return obj.data


_DUMPERS: Final = {
    kind: type(f"{kind.__name__}Dumper", (_ArrayDumper,), {"oid": kind.array_oid})
    for kind in (Texts, Blobs, Uuids, Bigints)
}


def _varying(oid: int, values: list[bytes | None]) -> bytes:
    if not values:
        return _EMPTY.pack(0, 0, oid)
    length = _LENGTH.pack
    parts = [_HEADER.pack(1, 1, oid, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL_LENGTH)
        else:
            parts.append(length(len(value)))
            parts.append(value)
    return b"".join(parts)


def _fixed(oid: int, length: bytes, values: list[bytes | None]) -> bytes:
    if not values:
        return _EMPTY.pack(0, 0, oid)
    items = [_NULL_LENGTH if value is None else length + value for value in values]
    return b"".join([_HEADER.pack(1, 1, oid, len(values), 1), *items])
