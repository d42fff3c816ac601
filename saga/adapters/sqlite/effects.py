"""The effects store in one SQLite file: inbox rows, and what handlers write beside them.

A handler that uses `ctx.db` has the writing connection to itself until it ends, and its inbox rows
are written with its own writes. Statements of `async` handlers run on the event loop: they take
microseconds, a change of threads ten times that.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from functools import partial
from typing import Final

from typing_extensions import override

from saga.adapters.sqlite.connection import is_of_the_disk, is_refusal, unavailable
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.inbox import (
    COMPONENT,
    create_tables,
    insert_all_or_none,
    select_rows,
    write_all_or_none,
    write_rows,
)
from saga.adapters.sqlite.whose import INBOX_FACTS, settle_whose
from saga.adapters.sqlite.writer import Job, Writer
from saga.adapters.whose import Serves
from saga.core.texts import described
from saga.errors import StoreUnavailable, TransactionEnded
from saga.ports.effects_store import (
    BEGINNING,
    RAW_TOO_EARLY,
    Database,
    EffectsStore,
    InboxRow,
    InboxWrite,
    Kept,
    NotKept,
    SqlRow,
    SqlValue,
    ThreadDatabase,
    Unit,
)

_OURS: Final = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"})
_VETTED_MAX: Final = 10_000

_vetted: set[str] = set()


class SqliteEffectsStore(EffectsStore):
    """The effects store in *file*: a path, or a shared database, which its maker closes.

    With *serves*, opening one of another environment or namespace raises StoreForeign.
    """

    def __init__(self, file: str | SqliteDatabase, *, serves: Serves | None = None) -> None:
        self._serves = serves
        self._shared = file if isinstance(file, SqliteDatabase) else None
        self.path: Final = file.path if isinstance(file, SqliteDatabase) else file
        self.has_threads: Final = self._shared is None or self._shared.has_threads
        self._database: SqliteDatabase | None = None
        self._group: _Group | None = None
        self._is_abandoned = False

    @property
    @override
    def commits_max(self) -> int:
        return 2

    @property
    def database(self) -> SqliteDatabase:
        """Raises StoreUnavailable if the store is not open."""
        if self._database is None:
            raise self._not_open()
        return self._database

    @override
    async def open(self) -> None:
        if self._database is not None:
            return
        if self.has_threads:
            self._database = await asyncio.to_thread(self._opened)
        else:
            self._database = self._opened()

    @override
    async def kept(self, service: str, keys: Sequence[str]) -> Kept[str]:
        return self.database.read_now(partial(select_rows, service, keys))

    @override
    def unit(self, *, alone: bool = False) -> SqliteUnit:  # each writes alone anyway
        return SqliteUnit(self)

    @override
    async def close(self) -> None:
        if self._group is not None:
            await asyncio.wait([self._group.kept])
        database, self._database = self._database, None
        if database is not None:
            database.writer.dismiss(self._not_open())
            if self._shared is None:
                await database.close()

    def abandon(self) -> None:
        """Let go as a killed process would: what is not committed is lost, and nobody is told."""
        self._is_abandoned = True
        database, self._database = self._database, None
        if database is not None:
            database.abandon()

    # What units ask of it.

    def keep(self, unit: SqliteUnit, writes: Sequence[InboxWrite]) -> _Kept:
        """For a unit that has written nothing else."""
        if self._database is None:
            return self._refused(self._not_open())
        group = self._next_group()
        group.rows_only.append((unit, writes))
        return group.kept

    def keep_written(self, unit: SqliteUnit, writes: Sequence[InboxWrite]) -> _Kept:
        """Keep what a handler wrote; TransactionEnded if it has ended the transaction itself."""
        if self._database is None:
            return self._refused(self._not_open())
        writer = self._database.writer
        cursor = writer.writing.connection.cursor()
        is_whole = writer.holder is unit and writer.writing.in_transaction
        try:
            is_kept = is_whole and write_rows(cursor, writes)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            if not writer.leave(unit, keep=False):
                self._lose_written()
            if is_refusal(error):
                not_kept: _Kept = asyncio.get_running_loop().create_future()
                not_kept.set_result(NotKept(refused={unit: described(error)}))
                return not_kept
            return self._refused(unavailable(self.path, error))
        if not writer.leave(unit, keep=is_kept):
            self._lose_written()
            raise TransactionEnded(
                "the handler has ended the transaction of its unit of work (through db.raw,"
                " or by a conflict clause ROLLBACK): nothing says how much it has written"
            )
        group = self._next_group()
        (group.written if is_kept else group.lost).append(unit)
        return group.kept

    def leave(self, unit: SqliteUnit) -> None:
        """For a unit that keeps nothing of what it wrote."""
        if self._database is not None and not self._database.writer.leave(unit, keep=False):
            self._lose_written()

    # The units that are committed together.

    def _next_group(self) -> _Group:
        group = self._group
        if group is None or group.kept.done():  # where it has failed, it was never written
            group = self._group = _Group()
            work = partial(self._write_group, group)
            self.database.writer.submit(Job(work, group.kept, is_of_handlers=True))
        return group

    def _write_group(self, group: _Group, cursor: sqlite3.Cursor) -> NotKept:
        """Write the rows; where the file refuses one of them, unit by unit."""
        if self._group is group:
            self._group = None
        cursor.execute("SAVEPOINT rows")
        try:
            not_kept = self._write_together(group, cursor)
        except Exception as error:
            if not is_refusal(error):
                raise
            cursor.execute("ROLLBACK TO rows")
            not_kept = self._write_one_by_one(group, cursor)
        cursor.execute("RELEASE rows")
        return not_kept

    def _write_one_by_one(self, group: _Group, cursor: sqlite3.Cursor) -> NotKept:
        not_kept = NotKept(group.lost)
        for unit, writes in group.rows_only:
            cursor.execute("SAVEPOINT one")
            try:
                if not write_all_or_none(cursor, writes):
                    not_kept.add(unit)
            except Exception as error:
                if not is_refusal(error):
                    raise
                cursor.execute("ROLLBACK TO one")
                not_kept.refused[unit] = described(error)
            cursor.execute("RELEASE one")
        return not_kept

    def _write_together(self, group: _Group, cursor: sqlite3.Cursor) -> NotKept:
        one_by_one = group.rows_only
        if len(one_by_one) > 1:
            new: list[InboxRow] = []
            others: list[tuple[SqliteUnit, Sequence[InboxWrite]]] = []
            for unit, writes in one_by_one:
                if len(writes) == 1 and writes[0].replaces is None:
                    new.append(writes[0].row)
                else:
                    others.append((unit, writes))
            if insert_all_or_none(cursor, new):
                one_by_one = others
        taken = [unit for unit, writes in one_by_one if not write_all_or_none(cursor, writes)]
        return NotKept([*group.lost, *taken])

    def _lose_written(self) -> None:
        if self._group is not None:
            self._group.lost += self._group.written
            self._group.written.clear()

    # Opening.

    def _opened(self) -> SqliteDatabase:
        database = self._shared or SqliteDatabase(self.path, is_theirs=True)
        try:
            database.migrate(COMPONENT, (create_tables,))
            if self._serves is not None:
                settle_whose(database, INBOX_FACTS, self._serves)
        except BaseException:
            if self._shared is None:
                database.abandon()
            raise
        return database

    def _not_open(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self.path}: the effects store is not open")

    def _refused(self, error: StoreUnavailable) -> _Kept:
        future: _Kept = asyncio.get_running_loop().create_future()
        if not self._is_abandoned:
            future.set_exception(error)
        return future


_Kept = asyncio.Future[NotKept]
"""Ends when units are durable, with those of them that are not kept."""


class _Group:
    """Units that have ended and will be committed together."""

    __slots__ = ("kept", "lost", "rows_only", "written")

    def __init__(self) -> None:
        self.kept: _Kept = asyncio.get_running_loop().create_future()
        self.rows_only: list[tuple[SqliteUnit, Sequence[InboxWrite]]] = []
        self.written: list[SqliteUnit] = []
        self.lost: list[SqliteUnit] = []


class SqliteUnit(Unit):
    __slots__ = (
        "_entering",
        "_is_broken",
        "_is_ended",
        "_store",
        "_thread_lock",
        "_writer",
        "is_inside",
    )

    def __init__(self, store: SqliteEffectsStore) -> None:
        self._store = store
        self._entering: asyncio.Future[None] | None = None
        self._thread_lock: threading.Lock | None = None
        self._writer: Writer | None = None
        self._is_ended = False
        self._is_broken = False
        self.is_inside = False

    @property
    @override
    def db(self) -> SqliteUnitDatabase:
        return SqliteUnitDatabase(self)

    @property
    @override
    def thread_db(self) -> SqliteUnitThreadDatabase:
        # Taken on the event loop, used in the handler's thread.
        self._thread_lock = threading.Lock()
        return SqliteUnitThreadDatabase(self, asyncio.get_running_loop())

    @property
    @override
    def is_broken(self) -> bool:
        return self._is_broken

    @override
    def drop(self) -> None:
        if self._end():
            self._store.leave(self)

    @override
    def keep(self, writes: Sequence[InboxWrite]) -> _Kept:
        if not self._end():
            return self._store.keep(self, writes)
        if not self._is_broken:
            return self._store.keep_written(self, writes)
        self._store.leave(self)
        return self._store.keep(self, writes)

    async def enter(self) -> None:
        """Own the connection, from here to the end of the unit."""
        if self._entering is not None:  # two statements of one handler at once
            await asyncio.shield(self._entering)
            return
        if self._try_enter():
            return
        self._entering = asyncio.get_running_loop().create_future()
        try:
            assert self._writer is not None, "it has tried to enter"
            await self._writer.enter(self)
            self.is_inside = True
            if self._is_ended:
                self.drop()
                self._refuse_if_ended()
        except StoreUnavailable:
            self._is_broken = True
            raise
        finally:
            self._entering.set_result(None)
            self._entering = None

    def run(self, sql: str, params: dict[str, SqlValue]) -> sqlite3.Cursor:
        """The unit must be inside."""
        connection = self.raw()
        if sql not in _vetted:
            _vet(sql)
        try:
            return connection.execute(sql, params)
        except sqlite3.Error as error:
            if not is_of_the_disk(error):
                raise
            self._is_broken = True
            raise unavailable(self._store.path, error) from error

    def run_in_thread(
        self, sql: str, params: dict[str, SqlValue], loop: asyncio.AbstractEventLoop
    ) -> tuple[int, list[SqlRow]]:
        """As `run`, from a handler's thread; `drop` waits for the statement in hand."""
        if not self.is_inside:
            self._enter_from_thread(loop)
        assert self._thread_lock is not None
        with self._thread_lock:
            cursor = self.run(sql, params)
            rows = _rows_of(cursor)
            return _touched(cursor), rows

    def raw(self) -> sqlite3.Connection:
        """The writing connection.

        Raises:
            RuntimeError: the unit has run no statement yet, or has ended.
            StoreUnavailable: the unit was lost.
        """
        self._refuse_if_ended()
        if not self.is_inside:
            raise RuntimeError(RAW_TOO_EARLY)
        writer = self._writer
        assert writer is not None, "it has entered through one"
        if self._is_broken or writer.holder is not self:
            self._is_broken = True
            raise StoreUnavailable(f"{self._store.path}: the unit of work was lost; it begins anew")
        return writer.writing.connection

    def _enter_from_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._store.has_threads:
            asyncio.run_coroutine_threadsafe(self.enter(), loop).result()
        elif not self._try_enter():  # a sync handler on the loop itself cannot wait for its turn
            self._is_broken = True
            raise StoreUnavailable(f"{self._store.path}: in use by another handler")

    def _try_enter(self) -> bool:
        self._refuse_if_ended()
        try:
            self._writer = self._store.database.writer
        except StoreUnavailable:
            self._is_broken = True
            raise
        self.is_inside = self._writer.try_enter(self)
        return self.is_inside

    def _end(self) -> bool:
        """Returns whether the unit had the connection."""
        if self._thread_lock is not None:
            with self._thread_lock:
                self._is_ended = True
        self._is_ended = True
        was_inside, self.is_inside = self.is_inside, False
        return was_inside

    def _refuse_if_ended(self) -> None:
        if self._is_ended:
            raise RuntimeError("ctx.db was used after its handler had ended")


class SqliteUnitDatabase(Database):
    __slots__ = ("_unit",)

    def __init__(self, unit: SqliteUnit) -> None:
        self._unit = unit

    @override
    async def execute(self, sql: str, /, **params: SqlValue) -> int:
        if not self._unit.is_inside:
            await self._unit.enter()
        return _touched(self._unit.run(sql, params))

    @override
    async def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        if not self._unit.is_inside:
            await self._unit.enter()
        return _rows_of(self._unit.run(sql, params))

    @property
    @override
    def raw(self) -> sqlite3.Connection:
        return self._unit.raw()


class SqliteUnitThreadDatabase(ThreadDatabase):
    __slots__ = ("_loop", "_unit")

    def __init__(self, unit: SqliteUnit, loop: asyncio.AbstractEventLoop) -> None:
        self._unit = unit
        self._loop = loop

    @override
    def execute(self, sql: str, /, **params: SqlValue) -> int:
        touched, _ = self._unit.run_in_thread(sql, params, self._loop)
        return touched

    @override
    def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        _, rows = self._unit.run_in_thread(sql, params, self._loop)
        return rows

    @property
    @override
    def raw(self) -> sqlite3.Connection:
        if not self._unit.is_inside:
            self.fetch(BEGINNING)
        return self._unit.raw()


def _rows_of(cursor: sqlite3.Cursor) -> list[SqlRow]:
    if cursor.description is None:
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _touched(cursor: sqlite3.Cursor) -> int:
    if cursor.description is not None:
        cursor.fetchall()  # with RETURNING, a statement works only as far as its rows are read
    return max(cursor.rowcount, 0)


def _vet(sql: str) -> None:
    """Refuse a statement that would end the transaction."""
    first = sql.split(maxsplit=1)[:1]
    if first and first[0].rstrip(";").upper() in _OURS:
        raise ValueError(f"{first[0]}: a handler's transaction is begun and ended by its service")
    if len(_vetted) < _VETTED_MAX:
        _vetted.add(sql)
