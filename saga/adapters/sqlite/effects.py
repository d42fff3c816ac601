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

from saga.adapters.sqlite.answers import AnswersInBus, EffectsFile
from saga.adapters.sqlite.bus import LocalBus
from saga.adapters.sqlite.connection import is_of_the_disk, is_refusal, translated, unavailable
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.inbox import (
    COMPONENT,
    MIGRATIONS,
    Elsewhere,
    Ended,
    select_rows,
    select_written,
    take_newer,
    write_rows,
    write_units,
)
from saga.adapters.sqlite.whose import INBOX_FACTS, settle_whose
from saga.adapters.sqlite.writer import Job, Writer, settle
from saga.adapters.whose import Serves
from saga.core.texts import described
from saga.errors import StoreUnavailable, TransactionEnded
from saga.ports.bus import Record
from saga.ports.effects_store import (
    BEGINNING,
    RAW_TOO_EARLY,
    Database,
    EffectsStore,
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


class SqliteEffectsStore(EffectsStore, EffectsFile):
    """The effects store in *file*: a path, or a shared database, which its maker closes.

    Args:
        beside: the event store's file, where it is another one: rows may be kept there too.
        publish_through: the bus in that file, or in this one: units that wrote nothing then have
            their rows beside their answers.
        serves: opening a store of another environment or namespace raises StoreForeign.
    """

    def __init__(
        self,
        file: str | SqliteDatabase,
        *,
        beside: SqliteDatabase | None = None,
        publish_through: LocalBus | None = None,
        serves: Serves | None = None,
    ) -> None:
        self._serves = serves
        self._shared = file if isinstance(file, SqliteDatabase) else None
        self._beside = beside
        through = publish_through
        self._answers = AnswersInBus(through, self) if through is not None else None
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
        query = partial(select_rows, service, keys)
        kept = self.database.read_now(query)
        if self._beside is not None:
            take_newer(kept, self._beside.read_now(query))
        return kept

    @override
    def unit(self, *, alone: bool = False) -> SqliteUnit:  # each writes alone anyway
        return SqliteUnit(self)

    @override
    async def close(self) -> None:
        if self._answers is not None:
            await self._answers.drained()
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

    def keep(self, unit: SqliteUnit, writes: Sequence[InboxWrite], answer: Record | None) -> _Kept:
        """For a unit that has written nothing else."""
        if self._answers is not None and not self._has_handlers:
            return self._answers.keep(unit, writes, answer)
        return self.keep_apart(unit, writes)

    @override
    def keep_apart(self, unit: Unit, writes: Sequence[InboxWrite]) -> _Kept:
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
            is_kept = is_whole and write_rows(cursor, writes, self._elsewhere(writes))
        except (sqlite3.Error, StoreUnavailable, OverflowError, UnicodeError) as error:
            if not writer.leave(unit, keep=False):
                self._lose_written()
            if is_refusal(error):
                not_kept: _Kept = asyncio.get_running_loop().create_future()
                not_kept.set_result(NotKept(refused={unit: described(error)}))
                return not_kept
            if not isinstance(error, StoreUnavailable):
                error = unavailable(self.path, error)
            return self._refused(error)
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

    # Of both inboxes, whoever holds this file writes what he found free in the other one.

    @override
    def hold(self, holder: object, writes: Sequence[InboxWrite]) -> Elsewhere | None:
        if self._beside is None:
            return Elsewhere()
        writer = self.database.writer
        if writer.holder is not holder and not writer.try_hold(holder):
            return None
        with translated(self.path):
            return select_written(writes, writer.writing.connection.cursor())

    @override
    def release(self, holder: object) -> None:
        if self._database is not None:
            self._database.writer.release(holder)

    @property
    def _has_handlers(self) -> bool:
        """Whether this file is written anyway, or is not open."""
        return self._database is None or self._database.writer.has_handlers

    def _elsewhere(self, writes: Sequence[InboxWrite]) -> Elsewhere:
        if self._beside is None or not writes:
            return Elsewhere()
        return self._beside.read_now(partial(select_written, writes))

    # The units that are committed together.

    def _next_group(self) -> _Group:
        group = self._group
        if group is None or group.kept.done():  # where it has failed, it was never written
            group = self._group = _Group()
            work = partial(self._write_group, group)
            end = partial(settle, group.kept)
            self.database.writer.submit(Job(work, end, is_of_handlers=True))
        return group

    def _write_group(self, group: _Group, cursor: sqlite3.Cursor) -> NotKept:
        if self._group is group:
            self._group = None
        elsewhere = self._elsewhere([write for _, writes in group.rows_only for write in writes])
        not_kept = write_units(cursor, group.rows_only, elsewhere)
        not_kept.update(group.lost)
        return not_kept

    def _lose_written(self) -> None:
        if self._group is not None:
            self._group.lost += self._group.written
            self._group.written.clear()

    # Opening.

    def _opened(self) -> SqliteDatabase:
        database = self._shared or SqliteDatabase(self.path, is_theirs=True)
        try:
            database.migrate(COMPONENT, MIGRATIONS)
            if self._beside is not None:
                self._beside.migrate(COMPONENT, MIGRATIONS)
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
        self.rows_only: list[Ended] = []
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
    def keep(self, writes: Sequence[InboxWrite], answer: Record | None = None) -> _Kept:
        if self._end():
            if not self._is_broken:
                return self._store.keep_written(self, writes)
            self._store.leave(self)
        return self._store.keep(self, writes, answer)

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
