"""One SQLite file in this process: who writes it, who reads it, and which schema it has.

Make one per file and process and share it: an event store and a local bus on the same file then
commit together. Everything that can go wrong with a file becomes `StoreUnavailable` here, with a
message that names the file and says what to do.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from saga.adapters.sqlite.checkpoints import Checkpointer
from saga.adapters.sqlite.connections import SagaDatastore, connect, connect_to_read
from saga.adapters.sqlite.failures import translated
from saga.adapters.sqlite.jobs import Job, Landed, Preview
from saga.adapters.sqlite.writer import Writer
from saga.errors import StoreTooNew, StoreUnavailable

T = TypeVar("T")
Migration = Callable[[sqlite3.Cursor], None]

WRITES_QUEUED_MAX: Final = 1_024
READER_THREADS: Final = 2

_SCHEMA_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS saga_schema ("
    "component TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"
)


class SqliteDatabase:
    """A file, its writer thread, its reader threads.

    Args:
        path: the file; it and its folder are made where they are missing.
        is_to_write: otherwise a file will do that can only be read.

    Raises:
        StoreUnavailable: the file cannot be opened or written, or is no database.
    """

    def __init__(self, path: str | os.PathLike[str], *, is_to_write: bool = True) -> None:
        self.path = str(Path(path).absolute())
        self._can_write = True
        self._is_closed = False
        self._closing: asyncio.Future[None] | None = None
        self._queued = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle_readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._inline_lock = threading.Lock()
        with translated(self.path):
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._inline = _prepare(self.path)
        except StoreUnavailable:
            if is_to_write or not Path(self.path).exists():
                raise
            self._inline = connect_to_read(self.path)
            self._can_write = False
        self.datastore = SagaDatastore(self.path)
        self._checkpointer = Checkpointer(self.path)
        self._writer = Writer(self.path, deliver=self._deliver, checkpointer=self._checkpointer)
        self._readers = ThreadPoolExecutor(READER_THREADS, f"readers of {self.path}")
        if self._can_write:
            with translated(self.path):
                self._writer.start()
            self._checkpointer.start()

    @property
    def epoch(self) -> int:
        """For jobs: what they remembered of the file under another epoch may be out of date."""
        return self._writer.epoch

    @property
    def commits(self) -> tuple[int, int]:
        """How many commits this process made, and how often it found that another one had."""
        return self._writer.commits, self._writer.foreign_commits

    def migrate(self, component: str, migrations: Sequence[Migration]) -> None:
        """Bring the tables of *component* to the version that is the number of *migrations*.

        Blocks for some milliseconds the first time, and for as long as a migration takes that moves
        rows; meant for when a program starts.

        Raises:
            StoreTooNew: a newer version of saga wrote the file.
            StoreUnavailable: it cannot be read or written.
        """
        known = len(migrations)
        if not self._can_write:
            self._expect(component, known)
            return
        with translated(self.path):
            connection = connect(self.path)
            try:
                cursor = connection.cursor()
                if _version_of(cursor, component, known, self.path) == known:
                    return
                cursor.execute("BEGIN IMMEDIATE")
                cursor.execute(_SCHEMA_TABLE)
                stored = _version_of(cursor, component, known, self.path)
                for migration in migrations[stored:]:
                    migration(cursor)
                cursor.execute(
                    "INSERT OR REPLACE INTO saga_schema VALUES (?, ?)", (component, known)
                )
                cursor.execute("COMMIT")
            finally:
                connection.close()

    async def write(
        self,
        job: Callable[[sqlite3.Cursor], T],
        *,
        landed: Landed | None = None,
        committed: Callable[[T], None] | None = None,
        preview: Preview | None = None,
        is_last: bool = False,
    ) -> T:
        """Run *job* in the next commit and return its result once that is durable.

        Args:
            job: runs on the event loop, inside a transaction; may run more than once, so it writes
                through its cursor and does nothing else.
            landed: whether the job is stored; asked where the commit's outcome is not known.
            committed: called with the result on the event loop, in commit order, even if nobody
                waits any more.
            preview: who may see the result before it is durable.
            is_last: the commit waits for nothing more once this is written.

        Raises:
            StoreUnavailable: the file cannot be written now; nothing of the job was recorded.
        """
        loop = asyncio.get_running_loop()
        while self._queued >= WRITES_QUEUED_MAX and not self._is_closed:
            place = loop.create_future()
            self._waiting.append(place)
            await place
        if self._is_closed:
            raise StoreUnavailable(f"{self.path}: it is closed")
        if not self._can_write:
            raise StoreUnavailable(f"{self.path}: it was opened to be read, as it is read-only")
        future: asyncio.Future[T] = loop.create_future()
        self._queued += 1
        self._writer.submit(Job(job, landed, committed, future, preview, is_last))
        return await future

    async def read(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query* on a reader thread, in autocommit mode.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """
        if self._is_closed:
            raise StoreUnavailable(f"{self.path}: it is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read_in_thread, query)

    def read_now(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query* here and now: for what takes microseconds.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """
        with self._inline_lock:
            if self._is_closed:
                raise StoreUnavailable(f"{self.path}: it is closed")
            with translated(self.path):
                return query(self._inline.cursor())

    async def close(self) -> None:
        """Finish what was accepted and close the file; a second call waits for the first."""
        if self._closing is None:
            self._is_closed = True
            for place in self._waiting:
                place.get_loop().call_soon_threadsafe(_wake, place)
            self._waiting.clear()
            self._closing = asyncio.ensure_future(self._drain_and_close())
        await asyncio.shield(self._closing)

    async def _drain_and_close(self) -> None:
        await self._writer.drained()
        await asyncio.to_thread(self._close_all)

    def _read_in_thread(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        with translated(self.path):
            try:
                connection = self._idle_readers.get_nowait()
            except queue.Empty:
                connection = (connect if self._can_write else connect_to_read)(self.path)
                connection.execute("PRAGMA query_only=ON")
            try:
                return query(connection.cursor())
            finally:
                self._idle_readers.put(connection)

    def _deliver(self, jobs: list[Job]) -> None:
        self._queued -= len(jobs)
        for job in jobs:
            error = job.error
            if error is None and job.committed is not None:
                job.committed(job.result)
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(error)
        for _ in range(min(len(jobs), len(self._waiting))):
            place = self._waiting.popleft()
            place.get_loop().call_soon_threadsafe(_wake, place)

    def _expect(self, component: str, known: int) -> None:
        """See that a file which cannot be written has the tables that this code needs."""

        def query(cursor: sqlite3.Cursor) -> int:
            cursor.execute("SELECT count(*) FROM sqlite_master WHERE name = 'saga_schema'")
            return _version_of(cursor, component, known, self.path) if cursor.fetchone()[0] else 0

        stored = self.read_now(query)
        if stored < known:
            raise StoreUnavailable(
                f"{self.path}: its {component} tables have version {stored}, this saga needs "
                f"{known}, and it is read-only: make the file and its folder writable for this user"
            )

    def _close_all(self) -> None:
        if self._can_write:
            self._writer.close()
            self._checkpointer.close()
        self._readers.shutdown(wait=True)
        while True:
            try:
                self._idle_readers.get_nowait().close()
            except queue.Empty:
                break
        self.datastore.close()
        with self._inline_lock:
            self._inline.close()


def _prepare(path: str) -> sqlite3.Connection:
    """A connection for reading, after the file was made a database in WAL mode that can be
    written.
    """
    connection = connect(path)
    try:
        with translated(path):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SCHEMA_TABLE)
            connection.execute("COMMIT")
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _version_of(cursor: sqlite3.Cursor, component: str, known: int, path: str) -> int:
    row: Any = cursor.execute(
        "SELECT version FROM saga_schema WHERE component = ?", (component,)
    ).fetchone()
    stored = int(row[0]) if row else 0
    if stored > known:
        raise StoreTooNew(
            f"{path}: its {component} tables have version {stored}, this saga knows up to {known}: "
            "upgrade saga, or name another file"
        )
    return stored


def _wake(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_result(None)
