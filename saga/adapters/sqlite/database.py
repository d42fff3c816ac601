"""One SQLite file in this process: who writes it, who reads it, and which schema it has.

Make one per file and process and share it: an event store and a local bus on the same file then
commit together. What waits to be written shares the next commit. A failing job takes nobody with
it: the group is rolled back and repeated with a savepoint around each job.

A job's result may be delivered early, before it is durable, to somebody whose next job belongs into
the same transaction: the commit then lingers for a moment. If it fails, the delivery is retracted,
and whoever relied on it fails with it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from saga.adapters.sqlite.commits import WritingConnection, settle
from saga.adapters.sqlite.connection import (
    BUSY_TIMEOUT_S,
    connect,
    connect_to_read,
    is_of_the_disk,
    translated,
    unavailable,
)
from saga.errors import StoreTooNew, StoreUnavailable

T = TypeVar("T")
Migration = Callable[[sqlite3.Cursor], None]

WRITES_QUEUED_MAX: Final = 1_024
READER_THREADS: Final = 2
JOBS_PER_COMMIT_MAX: Final = 256
LINGER_S: Final = 0.002
"""How long a commit waits for the job that an early delivery leads to."""
SETTLE_TRIES_MAX: Final = 10
SETTLE_PAUSE_S: Final = 0.2

_SCHEMA_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS saga_schema ("
    "component TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"
)


class EarlyReaders(NamedTuple):
    """Who may have the result of a job before it is durable.

    *deliver* gets the result, and says whether a job that relies on it will follow at once;
    *retract* gets it if it does not become durable, or not as it was delivered.
    """

    deliver: Callable[[Any], bool]
    retract: Callable[[Any], None]


@dataclass(slots=True, eq=False)
class Job:
    """What is to be written, and who waits for it.

    Args:
        work: writes through the cursor and returns the result; may run more than once.
        future: ends once the job is durable or has failed.
        is_stored: whether it is stored after all; asked when the answer to COMMIT was an error.
        on_commit: called with the result on the event loop, in commit order, before *future* ends.
        early_readers: who may have the result before that.
        is_last: the commit waits for nothing more, and nothing of it is delivered early.
    """

    work: Callable[[sqlite3.Cursor], Any]
    future: asyncio.Future[Any]
    is_stored: Callable[[sqlite3.Cursor], bool] | None = None
    on_commit: Callable[[Any], None] | None = None
    early_readers: EarlyReaders | None = None
    is_last: bool = False
    is_delivered_early: bool = False
    result: Any = None
    error: BaseException | None = None


class SqliteDatabase:
    """A file, its writer and its reader threads.

    Args:
        path: the file; it and its folder are made where they are missing.
        is_to_write: otherwise a file will do that can only be read.
        threaded: wait for commits and for other processes in a thread.

    Raises:
        StoreUnavailable: the file cannot be opened or written, or is no database.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, is_to_write: bool = True, threaded: bool = True
    ) -> None:
        self.path = str(Path(path).absolute())
        self._readers = _Readers(self.path)
        self._closing: asyncio.Future[None] | None = None
        self._queued = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._writer: Writer | None = None
        with translated(self.path):
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        try:
            _prepare(self.path)
        except StoreUnavailable:
            if is_to_write or not Path(self.path).exists():
                raise
            self._readers.connect = connect_to_read
        self._readers.open()
        if self._readers.connect is connect:
            with translated(self.path):
                self.writing = WritingConnection(self.path, threaded=threaded)
            self._writer = Writer(self.writing, deliver=self._deliver)

    @property
    def epoch(self) -> int:
        """For jobs: what they remembered of the file under another epoch may be out of date."""
        return self.writing.epoch

    @property
    def commits(self) -> tuple[int, int]:
        """How many commits this process made, and how often it found that another one had."""
        return self.writing.commits, self.writing.foreign_commits

    def migrate(
        self, component: str, migrations: Sequence[Migration], *, may_change: bool = True
    ) -> None:
        """Bring the tables of *component* to the version that is the number of *migrations*.

        Blocks for some milliseconds the first time, and for as long as a migration takes that moves
        rows; meant for when a program starts. Without *may_change* tables are only made.

        Raises:
            StoreTooNew: a newer version of saga wrote the file.
            StoreUnavailable: it cannot be read or written, or has older tables.
        """
        if self._writer is None:
            self.read_now(partial(self._expect, component, len(migrations)))
            return
        with translated(self.path):
            connection = connect(self.path)
            try:
                stored = stored_version(connection.cursor(), self.path, component, len(migrations))
                if 0 < stored < len(migrations) and not may_change:
                    raise StoreUnavailable(
                        f"{self.path}: its {component} tables have version {stored}, this saga "
                        f"needs {len(migrations)}: stop all that use it, then run "
                        "`saga store migrate`"
                    )
                migrate_tables(connection, self.path, component, migrations)
            finally:
                connection.close()

    async def write(
        self,
        work: Callable[[sqlite3.Cursor], T],
        *,
        is_stored: Callable[[sqlite3.Cursor], bool] | None = None,
        on_commit: Callable[[T], None] | None = None,
        early_readers: EarlyReaders | None = None,
        is_last: bool = False,
    ) -> T:
        """Run *work* in the next commit and return its result once that is durable.

        It runs on the event loop, inside a transaction, and may run more than once: it writes
        through its cursor and does nothing else. The options are those of `Job`.

        Raises:
            StoreUnavailable: the file cannot be written now; nothing of the job was recorded.
        """
        loop = asyncio.get_running_loop()
        while self._queued >= WRITES_QUEUED_MAX and self._closing is None:
            place = loop.create_future()
            self._waiting.append(place)
            await place
        self._readers.check_open()
        if self._writer is None:
            raise StoreUnavailable(f"{self.path}: it was opened to be read, as it is read-only")
        future: asyncio.Future[T] = loop.create_future()
        self._queued += 1
        self._writer.submit(Job(work, future, is_stored, on_commit, early_readers, is_last))
        return await future

    async def read(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query* on a reader thread, in autocommit mode.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """
        return await self._readers.read(query)

    def read_now(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        """Run *query* here and now: for what takes microseconds.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """
        return self._readers.read_now(query)

    async def close(self) -> None:
        """Finish what was accepted and close the file; a second call waits for the first."""
        if self._closing is None:
            self._readers.is_closed = True
            for place in self._waiting:
                place.get_loop().call_soon_threadsafe(settle, place, None, None)
            self._waiting.clear()
            self._closing = asyncio.ensure_future(self._drain_and_close())
        await asyncio.shield(self._closing)

    def abandon(self) -> None:
        """Let go of the file at once, without waiting for what was accepted."""
        self._readers.is_closed = True
        if self._writer is not None:
            self.writing.close(wait=False)
        self._readers.close()

    async def _drain_and_close(self) -> None:
        if self._writer is not None:
            await self._writer.drained()
            await asyncio.to_thread(self.writing.close)
        await asyncio.to_thread(self._readers.close)

    def _deliver(self, jobs: list[Job]) -> None:
        self._queued -= len(jobs)
        for job in jobs:
            if job.error is None and job.on_commit is not None:
                job.on_commit(job.result)
            settle(job.future, job.result, job.error)
        for _ in range(min(len(jobs), len(self._waiting))):
            place = self._waiting.popleft()
            place.get_loop().call_soon_threadsafe(settle, place, None, None)

    def _expect(self, component: str, known: int, cursor: sqlite3.Cursor) -> None:
        """See that a file which cannot be written has the tables that this code needs."""
        stored = stored_version(cursor, self.path, component, known)
        if stored < known:
            raise StoreUnavailable(
                f"{self.path}: its {component} tables have version {stored}, this saga needs "
                f"{known}, and it is read-only: make the file and its folder writable for this user"
            )


def migrate_tables(
    connection: sqlite3.Connection, path: str, component: str, migrations: Sequence[Migration]
) -> None:
    """As `SqliteDatabase.migrate`, in one transaction of *connection*; all of it or nothing."""
    known = len(migrations)
    cursor = connection.cursor()
    if stored_version(cursor, path, component, known) == known:
        return
    cursor.execute("BEGIN IMMEDIATE")
    try:
        cursor.execute(_SCHEMA_TABLE)
        for migration in migrations[stored_version(cursor, path, component, known) :]:
            migration(cursor)
        cursor.execute("INSERT OR REPLACE INTO saga_schema VALUES (?, ?)", (component, known))
        cursor.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def stored_version(cursor: sqlite3.Cursor, path: str, component: str, known: int) -> int:
    """The version of the tables of *component*, 0 where there are none.

    Raises:
        StoreTooNew: they are beyond the version *known*.
    """
    cursor.execute("SELECT count(*) FROM sqlite_master WHERE name = 'saga_schema'")
    if not cursor.fetchone()[0]:
        return 0
    cursor.execute("SELECT version FROM saga_schema WHERE component = ?", (component,))
    row = cursor.fetchone()
    stored = int(row[0]) if row else 0
    if stored > known:
        raise StoreTooNew(
            f"{path}: its {component} tables have version {stored}, this saga knows up to {known}: "
            "upgrade saga, or name another file"
        )
    return stored


class Writer:
    """Puts what waits into transactions of *writing*, for one event loop.

    *deliver* is called on the loop with the jobs of a commit, in their order.
    """

    def __init__(self, writing: WritingConnection, *, deliver: Callable[[list[Job]], None]) -> None:
        self._writing = writing
        self._deliver = deliver
        self._waiting: deque[Job] = deque()
        self._open_group: list[Job] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._is_joining = False
        self._is_busy = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def submit(self, job: Job) -> None:
        """Put *job* into the next commit."""
        self._waiting.append(job)
        if not self._is_busy:
            self._is_busy = True
            self._is_idle.clear()
            job.future.get_loop().call_soon(self._take_group)
        elif self._open_group is not None and not self._is_joining:
            self._is_joining = True
            job.future.get_loop().call_soon(self._join_group)

    async def drained(self) -> None:
        """Return when everything accepted is done."""
        await self._is_idle.wait()

    def _take_group(self) -> None:
        if not self._waiting:
            self._is_busy = False
            self._is_idle.set()
            return
        jobs = self._next_jobs()
        try:
            is_begun = self._writing.begin()
        except (sqlite3.DatabaseError, StoreUnavailable) as error:
            self._give_up(jobs, error)
            return
        if is_begun:
            self._write([], jobs)
        else:  # another process is writing
            self._writing.begin_when_free(partial(self._begun, jobs))

    def _next_jobs(self) -> list[Job]:
        waiting = self._waiting
        return [waiting.popleft() for _ in range(min(len(waiting), JOBS_PER_COMMIT_MAX))]

    def _begun(self, jobs: list[Job], error: BaseException | None) -> None:
        if error is None:
            self._write([], jobs)
        else:
            self._give_up(jobs, error)

    def _join_group(self) -> None:
        """Write what came while the commit lingers."""
        self._is_joining = False
        written = self._open_group
        if written is not None:
            self._write(written, self._next_jobs())

    def _write(self, written: list[Job], jobs: list[Job]) -> None:
        """Write *jobs* behind those *written*; then commit, or linger for more."""
        group = written + jobs
        try:
            is_in_one_go = self._run(written, jobs)
            if all(job.error is not None for job in group):
                self._writing.roll_back()
                self._linger_no_more()
                self._end(group)
                return
        except (sqlite3.DatabaseError, StoreUnavailable) as error:
            self._linger_no_more()
            self._give_up(group, error)
            return
        if is_in_one_go and self._is_awaited(group, jobs):
            self._open_group = group
        else:
            self._commit(group)

    def _is_awaited(self, group: list[Job], jobs: list[Job]) -> bool:
        """Deliver early what *jobs* have written; whether a job that relies on it is to come."""
        if any(job.is_last for job in group) or len(group) >= JOBS_PER_COMMIT_MAX:
            return False
        is_awaited = self._lingering is not None
        for job in jobs:
            if job.early_readers is not None:
                job.is_delivered_early = True
                is_awaited |= job.early_readers.deliver(job.result)
        if is_awaited and self._lingering is None:
            loop = asyncio.get_running_loop()
            self._lingering = loop.call_later(LINGER_S, self._commit_lingering)
        return is_awaited

    def _commit_lingering(self) -> None:
        """Enough waited; but what came while the loop was busy goes along."""
        if self._waiting:
            self._join_group()
        if self._open_group is not None:
            self._commit(self._open_group)

    def _commit(self, group: list[Job]) -> None:
        self._linger_no_more()
        self._writing.commit(partial(self._committed, group))

    def _committed(self, group: list[Job], error: BaseException | None) -> None:
        if error is None:
            self._end(group)
        elif isinstance(error, sqlite3.DatabaseError):
            look = partial(self._find_out, group, error)
            self._writing.call(look, partial(self._found_out, group))
        else:
            self._give_up(group, error)

    def _found_out(self, group: list[Job], _: object, error: BaseException | None) -> None:
        if error is None:
            self._end(group)
        else:
            self._give_up(group, error)

    def _linger_no_more(self) -> None:
        self._open_group = None
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _give_up(self, jobs: list[Job], error: BaseException) -> None:
        if isinstance(error, sqlite3.DatabaseError):
            self._writing.discard()
            error = self._translate(error)
        _fail(jobs, error)
        self._end(jobs)

    def _end(self, jobs: list[Job]) -> None:
        _retract(job for job in jobs if job.error is not None)
        self._deliver(jobs)
        # Not at once: whoever was just answered may have more to write, which then shares a commit.
        asyncio.get_running_loop().call_soon(self._take_group)

    def _run(self, written: list[Job], jobs: list[Job]) -> bool:
        """Run *jobs* behind those *written*; False where all of them had to begin again."""
        cursor = self._writing.connection.cursor()
        try:
            for job in jobs:
                job.result = job.work(cursor)
        except Exception as error:  # noqa: BLE001 - handed to whoever submitted the job
            if len(jobs) == 1 and not written:
                jobs[0].error = self._translate(error)
                return True
            self._writing.roll_back()
            _retract(written)
            self._writing.begin(wait_s=BUSY_TIMEOUT_S)
            self._run_one_by_one(written + jobs)
            return False
        return True

    def _run_one_by_one(self, jobs: list[Job]) -> None:
        cursor = self._writing.connection.cursor()
        for job in jobs:
            cursor.execute("SAVEPOINT job")
            try:
                job.result = job.work(cursor)
            except Exception as error:
                if not cursor.connection.in_transaction:  # SQLite gave up all of it (disk full)
                    raise
                job.error = self._translate(error)
                cursor.execute("ROLLBACK TO job")
                self._writing.epoch += 1
            cursor.execute("RELEASE job")

    def _find_out(self, jobs: list[Job], error: sqlite3.DatabaseError) -> None:
        """COMMIT was answered with an error: see whether the group is stored all the same."""
        writing = self._writing
        writing.discard()
        is_stored = next(
            (job.is_stored for job in jobs if job.error is None and job.is_stored), None
        )
        failure = unavailable(writing.path, error)
        for _ in range(SETTLE_TRIES_MAX if is_stored else 0):
            assert is_stored is not None
            try:
                if is_stored(writing.reopen().cursor()):
                    return
                break
            except (sqlite3.DatabaseError, StoreUnavailable):
                writing.discard()
                time.sleep(SETTLE_PAUSE_S)
        else:
            if is_stored:
                failure = StoreUnavailable(f"{failure}; whether it was recorded is not known")
        _fail(jobs, failure)

    def _translate(self, error: Exception) -> Exception:
        return unavailable(self._writing.path, error) if is_of_the_disk(error) else error


def _fail(jobs: list[Job], error: BaseException) -> None:
    for job in jobs:
        if job.error is None:
            job.error = error


def _retract(jobs: Iterable[Job]) -> None:
    """What was delivered early did not become durable, or will have to be written again."""
    for job in jobs:
        if job.is_delivered_early and job.early_readers is not None:
            job.is_delivered_early = False
            job.early_readers.retract(job.result)


class _Readers:
    """The connections of this process that only read a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inline: sqlite3.Connection | None = None
        self._inline_lock = threading.Lock()
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(READER_THREADS, f"readers of {path}")
        self.connect: Callable[[str], sqlite3.Connection] = connect
        self.is_closed = False

    def open(self) -> None:
        self._inline = self._connected()

    def check_open(self) -> None:
        if self.is_closed:
            raise StoreUnavailable(f"{self._path}: it is closed")

    async def read(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        self.check_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._read_in_thread, query)

    def read_now(self, query: Callable[[sqlite3.Cursor], T]) -> T:
        with self._inline_lock:
            self.check_open()
            assert self._inline is not None
            with translated(self._path):
                return query(self._inline.cursor())

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                break
        with self._inline_lock:
            if self._inline is not None:
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
        connection = self.connect(self._path)
        connection.execute("PRAGMA query_only=ON")
        return connection


def _prepare(path: str) -> None:
    """Make the file a database in WAL mode, and see that it can be written."""
    connection = connect(path)
    try:
        with translated(path):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SCHEMA_TABLE)
            connection.execute("COMMIT")
    finally:
        connection.close()
