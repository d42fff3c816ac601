"""One handler's unit of work on the effects store in PostgreSQL.

The unit has a connection of its own from its first statement to its end, so that a handler which
waits for something else holds up only those who want the same rows. Each statement stands in a
savepoint: one that fails undoes nothing else. A statement and what has to go before it are one
message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from saga.adapters.postgres.effects_exchange import (
    command,
    exchange,
    forget,
    make_fit,
    rows_of,
    touched_by,
)
from saga.adapters.postgres.effects_sql import Bound, Statement, bound, translated
from saga.adapters.postgres.failures import is_of_the_server, unavailable
from saga.adapters.postgres.pipeline import Session
from saga.errors import StoreUnavailable, TransactionEnded
from saga.ports.effects_store import (
    BEGINNING,
    RAW_TOO_EARLY,
    InboxWrite,
    SqlRow,
    SqlValue,
    Unit,
)

if TYPE_CHECKING:
    from saga.adapters.postgres.effects_store import PostgresEffectsStore

UNIT_SAVEPOINT: Final = "saga_unit"
"""Only the service's own transaction has it."""
_BEGIN: Final[tuple[bytes, ...]] = (b"BEGIN", b"SAVEPOINT saga_unit")
_BACK_TO_BEGIN: Final = b"ROLLBACK TO SAVEPOINT saga_unit"
_SAVE: Final = b"SAVEPOINT saga_statement"
_RELEASE: Final = b"RELEASE SAVEPOINT saga_statement"
_BACK: Final = b"ROLLBACK TO SAVEPOINT saga_statement"
# What the server says, but of the statement: the handler's tables are not ours to advise on.
_OF_THE_STATEMENT: Final = frozenset({"42501", "42P01", "3F000"})
_PREPARED_IN_VAIN: Final = frozenset({"0A000", "26000"})


class PostgresUnit:
    """See `saga.ports.effects_store.Unit`."""

    __slots__ = ("_before", "_has_savepoint", "_is_ended", "_store", "is_broken", "lock", "session")

    def __init__(self, store: PostgresEffectsStore, *, alone: bool = False) -> None:
        self._store = store
        self._before = _BEGIN
        if alone:
            key = store.address.lock_key("effects alone")
            self._before = (*_BEGIN, b"SELECT pg_advisory_xact_lock(%d, %d)" % key)
        self._has_savepoint = False
        self._is_ended = False
        self.lock = asyncio.Lock()
        """Held while a statement is under way."""
        self.session: Session | None = None
        self.is_broken = False

    @property
    def db(self) -> PostgresEffectsDatabase:
        """For handlers on the event loop."""
        return PostgresEffectsDatabase(self)

    @property
    def thread_db(self) -> PostgresThreadDatabase:
        """For handlers in a thread; taken on the event loop, used in the thread."""
        return PostgresThreadDatabase(self, asyncio.get_running_loop())

    def drop(self) -> None:
        """Undo what was written; rows may still be kept."""
        self._is_ended = True
        self._store.take_back(self)

    def keep(self, writes: Sequence[InboxWrite]) -> asyncio.Future[Collection[Unit]]:
        """End the unit: what it wrote is committed by itself, rows alone together with others."""
        is_dropped, self._is_ended = self._is_ended, True
        session = self.session
        if session is None or is_dropped or self.is_broken:
            self._store.take_back(self)
            return self._store.settle(self, writes)
        if not (self.lock.locked() or session.closed or _is_inside(session)):
            self._store.take_back(self)
            raise tampered_with()
        return self._store.commit(self, writes)

    async def run(self, sql: str, params: dict[str, SqlValue]) -> tuple[int, list[SqlRow]]:
        """Run one statement of the handler: how many rows it touched, and those it found."""
        statement = translated(sql)
        async with self.lock:
            self._refuse_if_ended()
            if self.is_broken:
                raise StoreUnavailable(
                    f"{self._store.name}: the unit of work was lost; it begins anew"
                )
            try:
                result = await self._run(statement, params)
            except StoreUnavailable:
                self.is_broken = True
                raise
            except asyncio.CancelledError:
                self.is_broken = True  # nobody knows how far the statement came
                raise
            assert self.session is not None
            return touched_by(result), rows_of(self.session, result)

    def raw(self) -> Session:
        """The connection.

        Raises:
            RuntimeError: the unit has none: it has run no statement yet, or has ended.
        """
        self._refuse_if_ended()
        if self.session is None:
            raise RuntimeError(RAW_TOO_EARLY)
        return self.session

    async def _run(self, statement: Statement, params: dict[str, SqlValue]) -> PGresult:
        session = self.session
        if session is None:
            return await self._begin(statement, params)
        if session.pgconn.transaction_status == TransactionStatus.IDLE:
            raise tampered_with()
        before = (_RELEASE, _SAVE) if self._has_savepoint else (_SAVE,)
        self._has_savepoint = True
        return await self._ask(session, before, bound(statement, params, session), back=_BACK)

    async def _begin(self, statement: Statement, params: dict[str, SqlValue]) -> PGresult:
        """Begin the transaction with its first statement. A connection that died while it was idle
        is replaced: nothing has happened on it.
        """
        tries_left = self._store.handlers_max + 1
        while True:
            session = self.session = await self._store.enter(self)
            if self._is_ended:
                self._store.take_back(self)
                self._refuse_if_ended()
            tries_left -= 1
            try:
                await make_fit(session)
                asked = bound(statement, params, session)
                return await self._ask(session, self._before, asked, back=_BACK_TO_BEGIN)
            except psycopg.Error as error:
                if not is_of_the_server(error):
                    raise
                raise unavailable(self._store.name, error) from error
            except StoreUnavailable:
                if not (session.closed and tries_left):
                    raise
                await self._store.leave(self)

    async def _ask(
        self, session: Session, before: Sequence[bytes], asked: Bound, *, back: bytes
    ) -> PGresult:
        try:
            return await exchange(session, before, asked)
        except psycopg.Error as error:
            if session.closed:
                raise unavailable(self._store.name, error) from error
            if not _is_inside(session, failed=True):
                raise
            await self._go(session, back)
            if error.sqlstate in _PREPARED_IN_VAIN and forget(session, asked):
                return await self._ask(session, (), asked, back=back)
            if is_of_the_server(error) and error.sqlstate not in _OF_THE_STATEMENT:
                raise unavailable(self._store.name, error) from error
            raise

    async def _go(self, session: Session, back: bytes) -> None:
        try:
            await command(session, back)
        except psycopg.Error as error:
            raise unavailable(self._store.name, error) from error

    def _refuse_if_ended(self) -> None:
        if self._is_ended:
            raise RuntimeError("ctx.db was used after its handler had ended")


class PostgresEffectsDatabase:
    """See `saga.ports.effects_store.Database`."""

    __slots__ = ("_unit",)

    def __init__(self, unit: PostgresUnit) -> None:
        self._unit = unit

    async def execute(self, sql: str, /, **params: SqlValue) -> int:
        """Run a statement and return how many rows it touched."""
        touched, _ = await self._unit.run(sql, params)
        return touched

    async def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        """Run a query and return all its rows."""
        _, rows = await self._unit.run(sql, params)
        return rows

    @property
    def raw(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """The connection of this unit; its transaction is the service's to end."""
        return self._unit.raw()


class PostgresThreadDatabase:
    """See `saga.ports.effects_store.ThreadDatabase`."""

    __slots__ = ("_loop", "_unit")

    def __init__(self, unit: PostgresUnit, loop: asyncio.AbstractEventLoop) -> None:
        self._unit = unit
        self._loop = loop

    def execute(self, sql: str, /, **params: SqlValue) -> int:
        """Run a statement and return how many rows it touched."""
        touched, _ = self._run(sql, params)
        return touched

    def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        """Run a query and return all its rows."""
        _, rows = self._run(sql, params)
        return rows

    @property
    def raw(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The same connection, for a thread; its transaction is the service's to end."""
        if self._unit.session is None:
            self.fetch(BEGINNING)
        return _ThreadConnection(self._unit.raw().pgconn)

    def _run(self, sql: str, params: dict[str, SqlValue]) -> tuple[int, list[SqlRow]]:
        return asyncio.run_coroutine_threadsafe(self._unit.run(sql, params), self._loop).result()


class _ThreadConnection(psycopg.Connection[tuple[Any, ...]]):
    """Another view of a connection, which is closed elsewhere."""

    def __del__(self, *_: Any) -> None:
        """Leave it open, without a word."""


def tampered_with() -> TransactionEnded:
    """The error that says so."""
    return TransactionEnded(
        "the handler has ended the transaction of its unit of work (through db.raw): nothing says"
        " how much it has written"
    )


def _is_inside(session: Session, *, failed: bool = False) -> bool:
    inside = {TransactionStatus.INTRANS} | ({TransactionStatus.INERROR} if failed else set())
    return session.pgconn.transaction_status in inside
