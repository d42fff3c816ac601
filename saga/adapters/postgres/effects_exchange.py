"""One statement of a handler as one message, together with what has to go before it.

A statement that comes again is prepared. Rows come back as the driver reads them, but for whole
numbers: a sum of integers is `numeric` here and an `int` all the same.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from decimal import Decimal
from typing import Any, Final

from psycopg import generators
from psycopg.adapt import Buffer, Loader, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from saga.adapters.postgres.effects_sql import Bound
from saga.adapters.postgres.pipeline import Session, refusal
from saga.ports.effects_store import SqlRow

IDLE_IN_UNIT_TIMEOUT_S: Final = 20
"""How long a handler may keep others waiting by doing something else inside its transaction."""
PREPARED_MAX: Final = 256
PREPARED_CHARS_MAX: Final = 4_096

_SESSION: Final = (
    "SELECT set_config('application_name', 'saga effects', false), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_IN_UNIT_TIMEOUT_S}s', false)"
)
_SEEN: Final = b"seen:"
"""Before the name of a statement that came once: it is prepared when it comes again."""
_NEVER: Final = b""
_TOUCHING: Final = (b"INSERT", b"UPDATE", b"DELETE", b"MERGE")


async def make_fit(session: Session) -> None:
    """Give a new session what handlers need. Does nothing the second time."""
    if not session.is_for_handlers:
        await session.execute(_SESSION, prepare=False)
        session.adapters.register_loader("numeric", _Numeric)
        session.is_for_handlers = True


async def exchange(session: Session, before: Sequence[bytes], bound: Bound) -> PGresult:
    """Run the commands *before* and then the statement, in one message.

    Raises:
        psycopg.Error: the server refused one of them, or the connection failed.
    """
    async with session.lock:
        return await session.wait(_exchange(session, before, bound))


async def command(session: Session, text: bytes) -> None:
    """Run one command.

    Raises:
        psycopg.Error: the server refused it, or the connection failed.
    """
    await exchange(session, (), Bound(text, [], (), []))


def forget(session: Session, bound: Bound) -> bool:
    """Do not prepare this statement any more; whether it was prepared.

    What was prepared before a table changed, or was forgotten by the server, fails for ever.
    """
    name = session.prepared.get(_known_as(bound), _NEVER)
    session.prepared[_known_as(bound)] = _NEVER
    return name != _NEVER and not name.startswith(_SEEN)


def rows_of(session: Session, result: PGresult) -> list[SqlRow]:
    """What the statement has found, by column name."""
    if not result.nfields:
        return []
    names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
    loading = Transformer(session)
    loading.set_pgresult(result)
    rows: list[tuple[Any, ...]] = loading.load_rows(0, result.ntuples, tuple)
    return [dict(zip(names, row, strict=True)) for row in rows]


def touched_by(result: PGresult) -> int:
    """How many rows the statement has written."""
    status = result.command_status or b""
    return (result.command_tuples or 0) if status.startswith(_TOUCHING) else 0


def _exchange(
    session: Session, before: Sequence[bytes], bound: Bound
) -> Generator[Any, Any, PGresult]:
    pgconn, prepared = session.pgconn, session.prepared
    known_as = _known_as(bound)
    state = prepared.get(known_as)
    name = state or b""
    pgconn.enter_pipeline_mode()
    for each in before:
        pgconn.send_query_params(each, None)
    is_fresh = name.startswith(_SEEN)
    if not name:
        pgconn.send_query_params(bound.text, bound.values, bound.types, bound.formats)
        if state is None and _is_worth_preparing(bound) and len(prepared) < PREPARED_MAX:
            prepared[known_as] = b"%sunit_%d" % (_SEEN, len(prepared))
    else:
        name = name.removeprefix(_SEEN)
        if is_fresh:
            pgconn.send_prepare(name, bound.text, bound.types)
        pgconn.send_query_prepared(name, bound.values, bound.formats)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    answer: list[PGresult]
    failure: PGresult | None = None
    for _ in before:
        answer = yield from generators.fetch_many(pgconn)
        failure = failure or refusal(pgconn, answer[-1])
    if is_fresh:
        answer = yield from generators.fetch_many(pgconn)
        failure = failure or refusal(pgconn, answer[-1])
        if answer[-1].status == ExecStatus.COMMAND_OK:
            prepared[known_as] = name
    answer = yield from generators.fetch_many(pgconn)
    failure = failure or refusal(pgconn, answer[-1])
    yield from generators.fetch_many(pgconn)  # the answer to the sync
    pgconn.exit_pipeline_mode()
    if failure is not None:
        raise error_from_result(failure)
    return answer[-1]


def _known_as(bound: Bound) -> str:
    return f"{bound.types} {bound.text.decode()}"


def _is_worth_preparing(bound: Bound) -> bool:
    return len(bound.text) <= PREPARED_CHARS_MAX


class _Numeric(Loader):
    """A numeric without decimals is an `int`, any other a `Decimal`."""

    def load(self, data: Buffer) -> int | Decimal:
        """The number that *data* is."""
        text = bytes(data).decode()
        return int(text) if text.removeprefix("-").isdecimal() else Decimal(text)
