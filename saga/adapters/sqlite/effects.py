"""The effects store in one SQLite file: inbox rows, and what handlers write beside them.

One connection writes. A handler owns it from its first statement to its end, inside a savepoint;
those that come meanwhile wait in line. Units that have ended form a group, which is committed as
soon as nobody is in line, or when it is large or old. While a slow commit is waited for, handlers
go on that do not need the connection. The inbox is read on another one meanwhile.

Statements run where they are asked for: on the event loop for `async` handlers (a statement takes
microseconds, a hop to a thread ten times that), in the handler's own thread for sync ones. Several
services of one process share one such store, and with it the cost of a commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from typing_extensions import override

from saga.adapters.sqlite.commits import WritingConnection, settle
from saga.adapters.sqlite.connection import BUSY_TIMEOUT_S, translated, unavailable
from saga.adapters.sqlite.database import SqliteDatabase, migrate_tables
from saga.adapters.sqlite.inbox import COMPONENT, Inbox, create_tables
from saga.errors import StoreUnavailable, TransactionEnded
from saga.ports.clock import Clock
from saga.ports.effects_store import (
    BEGINNING,
    RAW_TOO_EARLY,
    Database,
    EffectsStore,
    InboxRow,
    InboxWrite,
    SqlRow,
    SqlValue,
    ThreadDatabase,
    Unit,
)

GROUP_UNITS_MAX: Final = 256
GROUP_AGE_S_MAX: Final = 0.010

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


class SqliteEffectsStore(EffectsStore):
    """The effects store in the file at *path*, which is made where there is none.

    Args:
        clock: says how old a group is.
        threaded: wait for commits and for other processes in a thread. Otherwise, as in simulated
            worlds, everything happens on the loop.
        connection: use this one for everything and leave it open at the end. Several stores may
            follow one another on it, as processes follow one another on a file.
    """

    def __init__(
        self,
        path: str,
        *,
        clock: Clock,
        threaded: bool = True,
        connection: sqlite3.Connection | None = None,
    ) -> None:
        self.path: Final = path
        self.threaded: Final = threaded
        self._clock = clock
        self._given = connection
        self._database: SqliteDatabase | None = None
        self._writing: WritingConnection | None = None
        self._inbox = Inbox()
        self._holder: SqliteUnit | None = None
        self._line: deque[tuple[SqliteUnit, asyncio.Future[None]]] = deque()
        self._group = Group(clock.monotonic_s())
        self._closing: asyncio.Future[None] | None = None
        self._is_busy = False
        self._is_commit_due = False
        self._is_abandoned = False

    @property
    @override
    def commits_max(self) -> int:
        return 2

    @property
    def writing(self) -> WritingConnection:
        """The connection that writes.

        Raises:
            StoreUnavailable: the store is not open.
        """
        if self._writing is None:
            raise self._not_open()
        return self._writing

    @override
    async def open(self) -> None:
        if self._writing is not None:
            return
        if self._given is not None:
            with translated(self.path):
                migrate_tables(self._given, self.path, COMPONENT, (create_tables,))
            self._writing = WritingConnection(self.path, connection=self._given, threaded=False)
        elif self.threaded:
            self._database = await asyncio.to_thread(self._open_file)
            self._writing = self._database.writing
        else:
            self._database = self._open_file()
            self._writing = self._database.writing

    @override
    async def kept(self, service: str, keys: Sequence[str]) -> Mapping[str, InboxRow]:
        def query(cursor: sqlite3.Cursor) -> dict[str, InboxRow]:
            return self._inbox.select(cursor, service, keys)

        if self._database is not None:
            return self._database.read_now(query)
        connection = self.writing.connection
        with translated(self.path):
            return query(connection.cursor())

    @override
    def unit(self, *, alone: bool = False) -> SqliteUnit:  # each writes alone anyway
        return SqliteUnit(self)

    @override
    async def close(self) -> None:
        while self._group.kept is not None or self._is_busy:
            self._closing = asyncio.get_running_loop().create_future()
            await self._closing
        self._let_go()

    def abandon(self) -> None:
        """Let go as a killed process would: what is not committed is lost, and nobody is told."""
        self._is_abandoned = True
        if not self._is_busy:
            self._let_go()

    # What units ask of it.

    def try_enter(self, unit: SqliteUnit) -> bool:
        """Give *unit* the connection if that is possible at once."""
        writing = self._writing
        if self._holder is not None or self._is_busy or self._line or writing is None:
            return False
        try:
            if not writing.in_transaction and not writing.begin():
                return False
            self._occupy(unit)
        except (sqlite3.Error, StoreUnavailable):
            return False  # `enter` asks again, and says what is the matter
        return True

    async def enter(self, unit: SqliteUnit) -> None:
        """Wait in line for the connection.

        Raises:
            StoreUnavailable: no transaction could be begun.
        """
        if self._holder is not None or self._is_busy or self._line:
            await self._wait_in_line(unit)
        self._holder = unit
        try:
            if not self.writing.in_transaction:
                await self._begin()
            self._occupy(unit)
        except BaseException as error:
            self._holder = None
            self._go_on()
            if isinstance(error, sqlite3.Error):
                raise unavailable(self.path, error) from error
            raise

    def leave(self, unit: SqliteUnit, *, keep: bool) -> bool:
        """Take the connection back; False where the transaction is gone."""
        assert self._holder is unit, "only the unit that owns the connection can leave it"
        self._holder = None
        is_whole = self.writing.in_transaction
        if is_whole:
            connection = self.writing.connection
            if not keep:
                connection.execute("ROLLBACK TO unit")
            connection.execute("RELEASE unit")
        else:
            self._group.lose_written()
        self._go_on()
        return is_whole

    def settle(
        self, unit: SqliteUnit, writes: Sequence[InboxWrite], *, has_written: bool
    ) -> asyncio.Future[Collection[Unit]]:
        """Take a unit that has ended into the group."""
        if self._writing is None:
            refused = asyncio.get_running_loop().create_future()
            if not self._is_abandoned:
                refused.set_exception(self._not_open())
            return refused
        group = self._group
        if group.kept is None:
            group.kept = asyncio.get_running_loop().create_future()
            group.began_at_s = self._clock.monotonic_s()
        (group.written if has_written else group.rows_only).append(Settled(unit, writes))
        self._call_commit()
        return group.kept

    # Who goes on: the next in line, or the commit.

    def _occupy(self, unit: SqliteUnit) -> None:
        self.writing.connection.execute("SAVEPOINT unit")
        self._holder = unit

    async def _wait_in_line(self, unit: SqliteUnit) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((unit, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if self._holder is unit:
                self._holder = None
                self._go_on()
            raise

    async def _begin(self) -> None:
        if self.writing.begin():
            return
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writing.begin_when_free(partial(settle, begun, None))
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError:
            # The thread goes on; nobody may use the connection before it has ended.
            self._is_busy = True
            begun.add_done_callback(self._begun_for_nobody)
            raise

    def _begun_for_nobody(self, begun: asyncio.Future[None]) -> None:
        begun.exception()
        self._is_busy = False
        self._go_on()

    def _go_on(self) -> None:
        if self._holder is not None or self._is_busy:
            return
        if self._is_abandoned:
            self._let_go()
            return
        while self._line and not self._is_group_full():
            unit, turn = self._line.popleft()
            if not turn.done():
                self._holder = unit
                turn.set_result(None)
                return
        self._call_commit()

    def _is_group_full(self) -> bool:
        group = self._group
        age_s = self._clock.monotonic_s() - group.began_at_s
        is_large = group.units >= GROUP_UNITS_MAX
        return group.kept is not None and (is_large or age_s > GROUP_AGE_S_MAX)

    def _call_commit(self) -> None:
        # The call comes when the loop has run what is ready now, so that units which end one
        # after another share a commit.
        if not self._is_commit_due:
            self._is_commit_due = True
            asyncio.get_running_loop().call_soon(self._commit_if_free)

    def _commit_if_free(self) -> None:
        self._is_commit_due = False
        if self._holder is not None or self._is_busy or self._is_abandoned:
            return
        if self._line and not self._is_group_full():
            self._go_on()
            return
        writing = self._writing
        if writing is None or (self._group.kept is None and not writing.in_transaction):
            return
        group, self._group = self._group, Group(self._clock.monotonic_s())
        self._is_busy = True
        if writing.in_transaction:
            self._write(group, None)
            return
        group.lose_written()
        try:
            is_begun = writing.begin()
        except (sqlite3.Error, StoreUnavailable) as error:
            self._committed(group, (), error)
            return
        if is_begun:
            self._write(group, None)
        else:  # most likely another process is writing
            writing.begin_when_free(partial(self._write, group))

    def _write(self, group: Group, error: BaseException | None) -> None:
        """The transaction is begun, if there is no *error*: write, then commit."""
        try:
            if error is not None:
                raise error
            self.writing.check()
            not_kept = self._write_group(group)
        except (sqlite3.Error, StoreUnavailable) as raised:
            self._committed(group, (), raised)
            return
        self.writing.commit(partial(self._committed, group, not_kept))

    def _write_group(self, group: Group) -> Collection[Unit]:
        """Write the group's rows inside the transaction and return its units that are not kept.

        Units that wrote tables of their own can only be undone together, with the transaction.

        Raises:
            sqlite3.Error: nothing can be kept; roll back.
        """
        cursor = self.writing.connection.cursor()
        taken = self._write_rows(cursor, (*group.written, *group.rows_only))
        if any(settled.unit in taken for settled in group.written):
            self._roll_back()
            group.lose_written()
            self.writing.begin(wait_s=BUSY_TIMEOUT_S)
            taken = self._write_rows(cursor, group.rows_only)
        return taken.union(group.lost)

    def _write_rows(self, cursor: sqlite3.Cursor, units: Iterable[Settled]) -> set[SqliteUnit]:
        """Write new rows all at once, replacements and units of several rows one by one."""
        new: list[Settled] = []
        careful: list[Settled] = []
        for settled in units:
            is_new = len(settled.writes) == 1 and settled.writes[0].replaces is None
            (new if is_new else careful).append(settled)
        if new:
            cursor.execute("SAVEPOINT inbox")
            if self._inbox.insert(cursor, [each.writes[0].row for each in new]) != len(new):
                cursor.execute("ROLLBACK TO inbox")
                self._inbox.rolled_back()
                careful = new + careful
            cursor.execute("RELEASE inbox")
        return {each.unit for each in careful if not self._write_unit(cursor, each.writes)}

    def _write_unit(self, cursor: sqlite3.Cursor, writes: Sequence[InboxWrite]) -> bool:
        cursor.execute("SAVEPOINT inbox")
        is_kept = all(self._inbox.write(cursor, write) for write in writes)
        if not is_kept:
            cursor.execute("ROLLBACK TO inbox")
            self._inbox.rolled_back()
        cursor.execute("RELEASE inbox")
        return is_kept

    def _roll_back(self) -> None:
        self._inbox.rolled_back()
        self.writing.roll_back()

    def _committed(
        self, group: Group, not_kept: Collection[Unit], error: BaseException | None
    ) -> None:
        self._is_busy = False
        if error is None:
            self._inbox.committed()
        elif self._writing is not None:
            with suppress(sqlite3.Error):  # whoever waits is told all the same
                self._roll_back()
        if group.kept is not None and not self._is_abandoned:
            if isinstance(error, sqlite3.Error):
                error = unavailable(self.path, error)
            settle(group.kept, not_kept, error)
        if self._closing is not None:
            settle(self._closing, None, None)
        self._go_on()

    # Opening and letting go.

    def _not_open(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self.path}: the effects store is not open")

    def _open_file(self) -> SqliteDatabase:
        database = SqliteDatabase(self.path, threaded=self.threaded)
        try:
            database.migrate(COMPONENT, (create_tables,))
        except BaseException:
            database.abandon()
            raise
        return database

    def _let_go(self) -> None:
        line, self._line = self._line, deque()
        for _, turn in line:
            if not self._is_abandoned:
                settle(turn, None, self._not_open())
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.roll_back()
        if self._database is not None:
            self._database.abandon()
            self._database = None


class Settled(NamedTuple):
    """A unit that has ended, and the inbox rows it wants kept."""

    unit: SqliteUnit
    writes: Sequence[InboxWrite]


class Group:
    """The units that will be committed together, in the order in which they ended.

    Those that wrote tables of their own and those that only keep an inbox row are told apart: where
    another process has taken an inbox row, the former are undone together, the latter one by one.
    """

    __slots__ = ("began_at_s", "kept", "lost", "rows_only", "written")

    def __init__(self, began_at_s: float) -> None:
        self.began_at_s = began_at_s
        self.written: list[Settled] = []
        self.rows_only: list[Settled] = []
        self.lost: list[SqliteUnit] = []
        self.kept: asyncio.Future[Collection[Unit]] | None = None

    @property
    def units(self) -> int:
        """How many units the group has."""
        return len(self.written) + len(self.rows_only)

    def lose_written(self) -> None:
        """The transaction is gone, and with it what the units of this group had written."""
        self.lost += [settled.unit for settled in self.written]
        self.written.clear()


class SqliteUnit(Unit):
    """One handler's unit of work on the effects store in SQLite."""

    __slots__ = ("_entering", "_is_broken", "_is_ended", "_store", "_thread_lock", "is_inside")

    def __init__(self, store: SqliteEffectsStore) -> None:
        self._store = store
        self._entering: asyncio.Future[None] | None = None
        self._thread_lock: threading.Lock | None = None
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
        self._end(keep=False)

    @override
    def keep(self, writes: Sequence[InboxWrite]) -> asyncio.Future[Collection[Unit]]:
        has_written = self.is_inside and not self._is_broken
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
            self._is_broken = True
            raise
        finally:
            self._entering.set_result(None)
            self._entering = None

    def run(self, sql: str, params: dict[str, SqlValue]) -> sqlite3.Cursor:
        """Run one statement of the handler. The unit is inside."""
        self._refuse_if_ended()
        if self._is_broken:
            raise StoreUnavailable(f"{self._store.path}: the unit of work was lost; it begins anew")
        if sql not in _vetted:
            _vet(sql)
        try:
            return self._store.writing.connection.execute(sql, params)
        except sqlite3.Error as error:
            if not _is_transient(error):
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
            RuntimeError: the unit does not own it: it has run no statement yet, or has ended.
        """
        self._refuse_if_ended()
        if not self.is_inside:
            raise RuntimeError(RAW_TOO_EARLY)
        return self._store.writing.connection

    def _enter_from_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._store.threaded:
            asyncio.run_coroutine_threadsafe(self.enter(), loop).result()
            return
        # Without threads a sync handler runs on the loop itself and cannot wait for its turn.
        self._refuse_if_ended()
        if not self._store.try_enter(self):
            self._is_broken = True
            raise StoreUnavailable(f"{self._store.path}: in use by another handler")
        self.is_inside = True

    def _end(self, *, keep: bool) -> bool:
        if self._thread_lock is not None:
            with self._thread_lock:
                self._is_ended = True
        self._is_ended = True
        if self.is_inside:
            self.is_inside = False
            return self._store.leave(self, keep=keep and not self._is_broken)
        return True

    def _refuse_if_ended(self) -> None:
        if self._is_ended:
            raise RuntimeError("ctx.db was used after its handler had ended")


class SqliteUnitDatabase(Database):
    """What an `async` handler sees of the file."""

    __slots__ = ("_unit",)

    def __init__(self, unit: SqliteUnit) -> None:
        self._unit = unit

    @override
    async def execute(self, sql: str, /, **params: SqlValue) -> int:
        unit = self._unit
        if not unit.is_inside:
            await unit.enter()
        return _touched(unit.run(sql, params))

    @override
    async def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        unit = self._unit
        if not unit.is_inside:
            await unit.enter()
        return _rows_of(unit.run(sql, params))

    @property
    @override
    def raw(self) -> sqlite3.Connection:
        return self._unit.raw()


class SqliteUnitThreadDatabase(ThreadDatabase):
    """What a sync handler sees of the file."""

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
    """Refuse a statement that would end the group's transaction."""
    first = sql.split(maxsplit=1)[:1]
    if first and first[0].rstrip(";").upper() in _OURS:
        raise ValueError(f"{first[0]}: a handler's transaction is begun and ended by its service")
    if len(_vetted) < _VETTED_MAX:
        _vetted.add(sql)


def _is_transient(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _TRANSIENT
