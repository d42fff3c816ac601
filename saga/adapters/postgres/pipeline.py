"""A whole transaction as one message: BEGIN, statements, COMMIT, and then all the answers.

psycopg's own pipeline sends each statement by itself. Here nothing leaves before all is there: a
batch costs one call of the system instead of a dozen, and a process that freezes has either sent
all of its transaction or, but for very large ones, nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

from psycopg import AsyncConnection, generators
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from saga.adapters.postgres.arrays import Array

Row = tuple[bytes | None, ...]
Answers = list[list[Row]]

_BIGINT: Final = Struct(">q")
_ENDED: Final = frozenset({b"FATAL", b"PANIC"})


class Call(NamedTuple):
    """A statement with `%s` for each parameter, and what it is given: arrays and bigints."""

    sql: str
    parameters: tuple[Array | int, ...]


class Backend(NamedTuple):
    """A session's process on the server: its id alone may be given again."""

    pid: int
    started: str


class Session(AsyncConnection[tuple[Any, ...]]):
    """A connection that knows its backend and the statements which that has prepared."""

    backend: Backend
    prepared: dict[str, bytes]
    is_for_handlers: bool = False
    """Whether it has what handlers' statements need; see `effects_exchange.py`."""


async def transact(session: Session, calls: Sequence[Call]) -> Answers:
    """Make all *calls* in one transaction, and return the rows that each answers, in binary form.

    Raises:
        psycopg.Error: the server refused one of them, or the connection failed. Where it is still
            open, nothing was committed, and the transaction is to be rolled back.
    """
    everything = [Call("BEGIN", ()), *calls, Call("COMMIT", ())]
    async with session.lock:
        results = await session.wait(_exchange(session, everything))
    return [_rows(result) for result in results[1:-1]]


async def commit(session: Session, calls: Sequence[Call]) -> None:
    """Make all *calls* and COMMIT in the transaction that was begun before.

    Raises:
        psycopg.Error: as `transact`.
    """
    async with session.lock:
        await session.wait(_exchange(session, [*calls, Call("COMMIT", ())]))


async def roll_back(session: Session) -> None:
    """End the transaction that was refused. psycopg's own way forgets all that is prepared."""
    async with session.lock:
        await session.wait(_exchange(session, [Call("ROLLBACK", ())]))


def refusal(pgconn: PGconn, result: PGresult) -> PGresult | None:
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


def _exchange(session: Session, calls: Sequence[Call]) -> Generator[Any, Any, list[PGresult]]:
    pgconn = session.pgconn
    pgconn.enter_pipeline_mode()
    fresh = [_send(pgconn, session.prepared, call) for call in calls]
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    found: list[PGresult] = []
    failure: PGresult | None = None
    for call, name in zip(calls, fresh, strict=True):
        if name is not None:
            (made,) = yield from generators.fetch_many(pgconn)
            if made.status == ExecStatus.COMMAND_OK:
                session.prepared[call.sql] = name
            failure = failure or refusal(pgconn, made)
        (result,) = yield from generators.fetch_many(pgconn)
        failure = failure or refusal(pgconn, result)
        found.append(result)
    yield from generators.fetch_many(pgconn)  # the answer to the sync
    pgconn.exit_pipeline_mode()
    if failure is not None:
        raise error_from_result(failure)
    return found


def _send(pgconn: PGconn, prepared: dict[str, bytes], call: Call) -> bytes | None:
    """Put *call* into the message; where it is to be prepared first, so as what."""
    known = prepared.get(call.sql)
    name = known or b"saga_%08x" % crc32(call.sql.encode())
    if known is None:
        pgconn.send_prepare(name, _numbered(call.sql))
    values = [
        each.data if isinstance(each, Array) else _BIGINT.pack(each) for each in call.parameters
    ]
    pgconn.send_query_prepared(
        name, values, param_formats=[Format.BINARY] * len(values), result_format=Format.BINARY
    )
    return name if known is None else None


def _rows(result: PGresult) -> list[Row]:
    columns = range(result.nfields)
    return [
        tuple(result.get_value(row, column) for column in columns) for row in range(result.ntuples)
    ]


@lru_cache(maxsize=64)
def _numbered(sql: str) -> bytes:
    first, *rest = sql.split("%s")
    return "".join([first, *(f"${n}{part}" for n, part in enumerate(rest, 1))]).encode()
