"""One handler's unit of work on the effects store in SQLite.

The unit owns the writing connection from its first statement to its end, inside a savepoint of the
group's transaction. Statements run where they are asked for: on the event loop for `async` handlers
(a statement without a commit takes microseconds, a hop to a thread ten times that), in the
handler's own thread for sync ones.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from saga.adapters.sqlite.failures import unavailable
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
    from saga.adapters.sqlite.effects_store import SqliteEffectsStore

_OURS: Final = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"})
_VETTED_MAX: Final = 10_000
# What says nothing about the statement but about the state of the file or the machine.
_TRANSIENT: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)

_vetted: set[str] = set()


class SqliteUnit:
    """See `saga.ports.effects_store.Unit`."""

    __slots__ = ("_entering", "_is_ended", "_store", "_thread_lock", "is_broken", "is_inside")

    def __init__(self, store: SqliteEffectsStore) -> None:
        self._store = store
        self._entering: asyncio.Future[None] | None = None
        self._thread_lock: threading.Lock | None = None
        self._is_ended = False
        self.is_inside = False
        self.is_broken = False

    @property
    def db(self) -> SqliteDatabase:
        """For handlers on the event loop."""
        return SqliteDatabase(self)

    @property
    def thread_db(self) -> SqliteThreadDatabase:
        """For handlers in a thread; taken on the event loop, used in the thread."""
        self._thread_lock = threading.Lock()
        return SqliteThreadDatabase(self, asyncio.get_running_loop())

    def drop(self) -> None:
        """Undo what was written; rows may still be kept."""
        self._end(keep=False)

    def keep(self, writes: Sequence[InboxWrite]) -> asyncio.Future[Collection[Unit]]:
        """End the unit and have it committed with the group."""
        has_written = self.is_inside and not self.is_broken
        if not self._end(keep=True) and has_written:
            raise TransactionEnded(
                "the handler has ended the transaction of its unit of work (through db.raw,"
                " or by a conflict clause ROLLBACK): nothing says how much it has written"
            )
        return self._store.settle(self, writes, has_written=has_written)

    async def enter(self) -> None:
        """Own the connection, from here to the end of the unit."""
        if self._entering is not None:  # two statements of one handler at once
            await asyncio.shield(self._entering)
            return
        self._refuse_if_ended()
        if self._store.try_enter(self):
            self.is_inside = True
            return
        self._entering = asyncio.get_running_loop().create_future()
        try:
            await self._store.enter(self)
            if self._is_ended:
                self._store.leave(self, keep=False)
                self._refuse_if_ended()
            self.is_inside = True
        except StoreUnavailable:
            self.is_broken = True
            raise
        finally:
            self._entering.set_result(None)
            self._entering = None

    def run(self, sql: str, params: dict[str, SqlValue]) -> sqlite3.Cursor:
        """Run one statement of the handler. The unit is inside."""
        self._refuse_if_ended()
        if self.is_broken:
            raise StoreUnavailable(f"{self._store.path}: the unit of work was lost; it begins anew")
        if sql not in _vetted:
            _vet(sql)
        try:
            return self._store.connection.execute(sql, params)
        except sqlite3.Error as error:
            if not _is_transient(error):
                raise
            self.is_broken = True
            raise unavailable(self._store.path, error) from error

    def run_in_thread(
        self, sql: str, params: dict[str, SqlValue], loop: asyncio.AbstractEventLoop
    ) -> tuple[int, list[SqlRow]]:
        """The same from a handler's thread. The lock makes `drop` wait for the statement in
        hand.
        """
        if not self.is_inside:
            self._enter_from_thread(loop)
        assert self._thread_lock is not None
        with self._thread_lock:
            cursor = self.run(sql, params)
            rows = rows_of(cursor)
            return _touched(cursor), rows

    def raw(self) -> sqlite3.Connection:
        """The writing connection.

        Raises:
            RuntimeError: the unit does not own it: it has run no statement yet, or has ended.
        """
        self._refuse_if_ended()
        if not self.is_inside:
            raise RuntimeError(RAW_TOO_EARLY)
        return self._store.connection

    def _enter_from_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._store.threaded:
            asyncio.run_coroutine_threadsafe(self.enter(), loop).result()
            return
        # Without threads a sync handler runs on the loop itself and cannot wait for its turn.
        self._refuse_if_ended()
        if not self._store.try_enter(self):
            self.is_broken = True
            raise StoreUnavailable(f"{self._store.path}: in use by another handler")
        self.is_inside = True

    def _end(self, *, keep: bool) -> bool:
        if self._thread_lock is not None:
            with self._thread_lock:
                self._is_ended = True
        self._is_ended = True
        if self.is_inside:
            self.is_inside = False
            return self._store.leave(self, keep=keep and not self.is_broken)
        return True

    def _refuse_if_ended(self) -> None:
        if self._is_ended:
            raise RuntimeError("ctx.db was used after its handler had ended")


class SqliteDatabase:
    """See `saga.ports.effects_store.Database`."""

    __slots__ = ("_unit",)

    def __init__(self, unit: SqliteUnit) -> None:
        self._unit = unit

    async def execute(self, sql: str, /, **params: SqlValue) -> int:
        """Run a statement and return how many rows it touched."""
        unit = self._unit
        if not unit.is_inside:
            await unit.enter()
        return _touched(unit.run(sql, params))

    async def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        """Run a query and return all its rows."""
        unit = self._unit
        if not unit.is_inside:
            await unit.enter()
        return rows_of(unit.run(sql, params))

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection that writes; its transaction is the store's to end."""
        return self._unit.raw()


class SqliteThreadDatabase:
    """See `saga.ports.effects_store.ThreadDatabase`."""

    __slots__ = ("_loop", "_unit")

    def __init__(self, unit: SqliteUnit, loop: asyncio.AbstractEventLoop) -> None:
        self._unit = unit
        self._loop = loop

    def execute(self, sql: str, /, **params: SqlValue) -> int:
        """Run a statement and return how many rows it touched."""
        touched, _ = self._unit.run_in_thread(sql, params, self._loop)
        return touched

    def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        """Run a query and return all its rows."""
        _, rows = self._unit.run_in_thread(sql, params, self._loop)
        return rows

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection that writes; its transaction is the store's to end."""
        if not self._unit.is_inside:
            self.fetch(BEGINNING)
        return self._unit.raw()


def rows_of(cursor: sqlite3.Cursor) -> list[SqlRow]:
    """What the cursor has found, by column name."""
    if cursor.description is None:
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _touched(cursor: sqlite3.Cursor) -> int:
    if cursor.description is not None:
        cursor.fetchall()  # with RETURNING, a statement works only as far as its rows are read
    return max(cursor.rowcount, 0)


def _vet(sql: str) -> None:
    """Refuse a statement that would end the group's transaction."""
    first = sql.split(maxsplit=1)[:1]
    if first and first[0].rstrip(";").upper() in _OURS:
        raise ValueError(f"{first[0]}: a handler's transaction is begun and ended by its service")
    if len(_vetted) < _VETTED_MAX:
        _vetted.add(sql)


def _is_transient(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _TRANSIENT
