"""One SQLite file in this process, and the only owner of its connections.

An event store, a local bus and an effects store that share one database commit together.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Final, TypeVar

from saga.adapters.schemas import difference
from saga.adapters.sqlite.commits import WritingConnection
from saga.adapters.sqlite.connection import (
    connect,
    connect_to_read,
    is_of_the_disk,
    make_private,
    translated,
    unavailable,
)
from saga.adapters.sqlite.writer import EarlyReaders, Job, Writer, settle
from saga.errors import SchemaDiffers, StoreTooNew, StoreUnavailable

T = TypeVar("T")
Migration = Callable[[sqlite3.Cursor], None]

READER_THREADS: Final = 2
NAMES_SHOWN: Final = 5
_SCHEMA_COLUMNS: Final = [("component", "TEXT"), ("version", "INTEGER")]

_SCHEMA_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS saga_schema ("
    "component TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"
)


class SqliteDatabase:
    """A file, its writer and its reader threads; make one per file and process.

    Args:
        path: the file; it and its folder are made where they are missing.
        is_to_write: otherwise a file will do that can only be read.
        is_theirs: whether it may be a service's own, with tables of its.
        connection: used for everything, without threads, and left open, as in simulated worlds.

    Raises:
        StoreUnavailable: the file cannot be opened or written, or is no database.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        is_to_write: bool = True,
        is_theirs: bool = False,
        connection: sqlite3.Connection | None = None,
    ) -> None:
        self.path = str(path if connection is not None else Path(path).absolute())
        self.has_threads = connection is None
        self._writer: Writer | None = None
        self._closing: asyncio.Future[None] | None = None
        if connection is not None:
            self._readers = _Readers(self.path, connect, connection)
            self._writer = Writer(WritingConnection(self.path, given=connection))
            return
        if not is_theirs:
            _refuse_others(self.path)
        try:
            _prepare(self.path)
        except StoreUnavailable:
            if is_to_write or not Path(self.path).exists():
                raise
            self._readers = _Readers(self.path, connect_to_read)
            return
        self._readers = _Readers(self.path, connect)
        with translated(self.path):
            self._writer = Writer(WritingConnection(self.path))

    @property
    def can_write(self) -> bool:
        return self._writer is not None

    @property
    def writer(self) -> Writer:
        """Raises StoreUnavailable if the file is closed, or was opened to be read."""
        if self._closing is not None:
            raise StoreUnavailable(f"{self.path}: it is closed")
        if self._writer is None:
            raise StoreUnavailable(f"{self.path}: it was opened to be read, as it is read-only")
        return self._writer

    @property
    def epoch(self) -> int:
        """For jobs: what they remembered of the file under another epoch may be out of date."""
        assert self._writer is not None
        return self._writer.writing.epoch

    @property
    def commits(self) -> tuple[int, int]:
        """How many commits this process made, and how often it found that another one had."""
        assert self._writer is not None
        return self._writer.writing.commits

    def is_at(self, path: str) -> bool:
        """Whether *path* names this file, by whatever way."""
        return Path(path).resolve() == Path(self.path).resolve()

    def migrate(
        self, component: str, migrations: Sequence[Migration], *, may_change: bool = True
    ) -> None:
        """Run the *migrations* that are missing; without *may_change* only if there are no tables.

        Blocks for some milliseconds, or for as long as it takes to move the rows.

        Raises:
            StoreTooNew: a newer version of saga wrote the file.
            SchemaDiffers: its tables are not those that saga makes.
            StoreUnavailable: it cannot be read or written, or has older tables.
        """
        needed = len(migrations)
        stored = self.read_now(partial(stored_version, self.path, component, needed))
        if stored == needed:
            self.read_now(partial(check_tables, self.path, component, migrations))
            return
        reason = None
        if self._writer is None:
            reason = ", and it is read-only: make the file and its folder writable for this user"
        elif stored and not may_change:
            reason = ": stop all that use it, then run `saga store migrate`"
        if reason is not None:
            raise StoreUnavailable(
                f"{self.path}: its {component} tables have version {stored}, this saga needs "
                f"{needed}{reason}"
            )
        self.change(partial(_migrate, self.path, component, migrations))

    def change(self, work: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *work* in a transaction of its own, and wait for others that write; blocks.

        Raises:
            StoreUnavailable: the file cannot be written.
        """
        with translated(self.path):
            connection = self._readers.given or connect(self.path)
            try:
                return _in_transaction(connection, work)
            finally:
                if self._readers.given is None:
                    connection.close()

    def write(
        self,
        work: Callable[[sqlite3.Cursor], T],
        *,
        is_stored: Callable[[sqlite3.Cursor], bool] | None = None,
        on_commit: Callable[[T], None] | None = None,
        early_readers: EarlyReaders | None = None,
        is_last: bool = False,
    ) -> asyncio.Future[T]:
        """Run *work* in the next commit; the result comes once that is durable.

        *work* may run more than once, so it may only use its cursor. Options: see `Job`.

        Raises:
            StoreUnavailable: the file cannot be written now; nothing of the job was recorded.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        end = partial(settle, future)
        self.writer.submit(Job(work, end, is_stored, on_commit, early_readers, is_last))
        return future

    async def read(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query* on a reader thread, in autocommit mode; may raise StoreUnavailable."""
        if not self.has_threads:
            return self.read_now(query)
        return await self._readers.read(query)

    def read_now(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query*, which takes microseconds, on this thread; may raise StoreUnavailable."""
        try:
            return query(self._readers.inline().cursor())
        except sqlite3.DatabaseError as error:
            if is_of_the_disk(error):
                raise unavailable(self.path, error) from error
            raise

    async def close(self) -> None:
        """Finish what was accepted and close the file; a second call waits for the first."""
        if self._closing is None:
            self._readers.refuse()
            self._closing = asyncio.ensure_future(self._drain_and_close())
        await asyncio.shield(self._closing)

    def abandon(self) -> None:
        """Let go of the file as a killed process would: nobody is told anything."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer.writing.close(wait=False)
        self._readers.refuse()
        self._readers.close()

    async def _drain_and_close(self) -> None:
        if self._writer is not None:
            await self._writer.drained()
            await asyncio.to_thread(self._writer.writing.close)
        await asyncio.to_thread(self._readers.close)


class _Readers:
    def __init__(
        self,
        path: str,
        connect_: Callable[[str], sqlite3.Connection],
        given: sqlite3.Connection | None = None,
    ) -> None:
        self.given = given
        self._path = path
        self._connect = connect_
        self._inline = given or self._connected()
        self._is_closed = False
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(READER_THREADS, f"readers of {path}")

    def inline(self) -> sqlite3.Connection:
        """The connection of the loop's own thread."""
        if self._is_closed:
            raise StoreUnavailable(f"{self._path}: it is closed")
        return self._inline

    async def read(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        self.inline()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._read_in_thread, query)

    def refuse(self) -> None:
        self._is_closed = True

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        while not self._idle.empty():
            self._idle.get_nowait().close()
        if self.given is None:
            self._inline.close()

    def _read_in_thread(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        with translated(self._path):
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = self._connected()
            try:
                return query(connection.cursor())
            finally:
                self._idle.put(connection)

    def _connected(self) -> sqlite3.Connection:
        connection = self._connect(self._path)
        connection.execute("PRAGMA query_only=ON")
        return connection


def stored_version(path: str, component: str, known: int, cursor: sqlite3.Cursor) -> int:
    """0 where there are no tables of *component*; raises StoreTooNew beyond the version *known*."""
    cursor.execute("SELECT count(*) FROM sqlite_master WHERE name = 'saga_schema'")
    if not cursor.fetchone()[0]:
        return 0
    if _columns("saga_schema", cursor) != _SCHEMA_COLUMNS:
        raise SchemaDiffers(f"{path}: its table saga_schema is not saga's: name another file")
    cursor.execute("SELECT version FROM saga_schema WHERE component = ?", (component,))
    row = cursor.fetchone()
    stored = row[0] if row else 0
    if type(stored) is not int or stored < 0:
        raise SchemaDiffers(
            f"{path}: saga_schema says that its {component} tables have version {stored!r:.60}, "
            "which is none: restore the file from a backup"
        )
    if stored > known:
        raise StoreTooNew(
            f"{path}: its {component} tables have version {stored}, this saga knows up to {known}: "
            "upgrade saga, or name another file"
        )
    return stored


def _columns(table: str, cursor: sqlite3.Cursor) -> list[tuple[str, str]]:
    """Names and types."""
    found = cursor.execute("SELECT name, type FROM pragma_table_info(?)", (table,))
    return [(name, kind.upper()) for name, kind in found.fetchall()]


@cache
def _tables_made_by(migrations: tuple[Migration, ...]) -> Mapping[str, list[tuple[str, str]]]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        cursor = connection.cursor()
        for migration in migrations:
            migration(cursor)
        names = cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        tables = [name for (name,) in names if not name.startswith("sqlite_")]
        return {table: _columns(table, cursor) for table in tables}
    finally:
        connection.close()


def check_tables(
    path: str, component: str, migrations: Sequence[Migration], cursor: sqlite3.Cursor
) -> None:
    for table, expected in _tables_made_by(tuple(migrations)).items():
        found = _columns(table, cursor)
        if found == expected:
            continue
        problem = difference(table, expected, found)
        raise SchemaDiffers(
            f"{path}: its {component} tables are not those of this saga: {problem}: name another "
            "file, or restore this one from a backup"
        )


def _refuse_others(path: str) -> None:
    """Raise SchemaDiffers where the file has tables, and none is saga's."""
    if not Path(path).exists() or not Path(path).stat().st_size:
        return
    connection = _connected_somehow(path)
    if connection is None:
        return  # whoever is to use the file finds out what is the matter
    try:
        with translated(path):
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            names = [name for (name,) in rows.fetchall() if not name.startswith("sqlite_")]
    finally:
        connection.close()
    if names and "saga_schema" not in names and "saga_effects_schema" not in names:
        shown = ", ".join(sorted(names)[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
        raise SchemaDiffers(
            f"{path}: it is another program's file, with the tables {shown}: name another file"
        )


def _connected_somehow(path: str) -> sqlite3.Connection | None:
    for way in (connect, connect_to_read):
        with suppress(StoreUnavailable):
            return way(path)
    return None


def _migrate(
    path: str, component: str, migrations: Sequence[Migration], cursor: sqlite3.Cursor
) -> None:
    """Run what is missing, and look at the tables: a reader may still see the file as it was."""
    known = len(migrations)
    cursor.execute(_SCHEMA_TABLE)
    for migration in migrations[stored_version(path, component, known, cursor) :]:
        migration(cursor)
    cursor.execute("INSERT OR REPLACE INTO saga_schema VALUES (?, ?)", (component, known))
    check_tables(path, component, migrations, cursor)


def _in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Cursor], T]) -> T:
    cursor = connection.cursor()
    cursor.execute("BEGIN IMMEDIATE")
    try:
        result = work(cursor)
        cursor.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return result


def _prepare(path: str) -> None:
    """Make the file a database in WAL mode; fails where it cannot be written."""
    make_private(path)
    connection = connect(path)
    try:
        with translated(path):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SCHEMA_TABLE)
            connection.execute("COMMIT")
    finally:
        connection.close()
