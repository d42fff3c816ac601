"""
The one thread that writes a file: every job that is waiting goes into the next commit.

A commit waits for the disk, whatever it holds, so jobs that arrive meanwhile share the next one. A
failing job takes nobody with it: the group is rolled back and repeated with a savepoint around each
job. A job may therefore run twice, and must do nothing but write through its cursor.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from saga.adapters.sqlite.connections import BUSY_TIMEOUT_S, connect
from saga.adapters.sqlite.failures import is_of_the_disk, unavailable
from saga.errors import StoreUnavailable

JOBS_PER_COMMIT_MAX: Final = 256
LOCK_RETRY_S: Final = 0.000_5
SETTLE_TRIES_MAX: Final = 10
SETTLE_PAUSE_S: Final = 0.2

Work = Callable[[sqlite3.Cursor], Any]
Landed = Callable[[sqlite3.Cursor], bool]


@dataclass(slots=True, eq=False)
class Job:
    """
    What is to be written, and who waits for it.

    Args:
        work: writes through the cursor and returns the result; may run more than once.
        landed: whether it is stored after all; asked when the answer to COMMIT was an error.
        committed: called with the result on the event loop, in commit order, before *future* ends.
        future: ends once the job is durable or has failed.
    """

    work: Work
    landed: Landed | None
    committed: Callable[[Any], None] | None
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """
    The writer thread of one file.

    *deliver* is called on the event loop with the jobs of a commit, in their order; *on_commit* in
    the writer thread after each commit.
    """

    def __init__(self, path: str, *, deliver: Callable[[list[Job]], None]) -> None:
        self._path = path
        self._file = Path(path)
        self._wal = Path(path + "-wal")
        self._deliver = deliver
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, ...] | None = None
        self._data_version = 0
        self._thread = threading.Thread(target=self._run, name=f"writer of {path}", daemon=True)
        self.epoch = 0
        """Changes when what jobs remember of the file may be out of date: see `_begin`."""
        self.foreign_commits = 0
        """How often this thread found that other connections had written."""
        self.commits = 0
        self.after_commit: Callable[[sqlite3.Connection], None] | None = None

    def start(self) -> None:
        """
        Open the file and begin to take jobs.

        Raises:
            StoreUnavailable: the file cannot be opened.
        """
        self._open()
        self._identity = self._look()
        self._thread.start()

    def submit(self, job: Job) -> None:
        """
        Put *job* into the next commit.
        """
        self._queue.put(job)

    def close(self) -> None:
        """
        Finish the accepted jobs, then end the thread. Blocks until it is done.
        """
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            job = self._queue.get()
            jobs: list[Job] = []
            while job is not None:
                jobs.append(job)
                if len(jobs) == JOBS_PER_COMMIT_MAX:
                    break
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
            if jobs:
                self._commit_group(jobs)
                self._resolve(jobs)
            if job is None:
                self._discard()
                return

    def _commit_group(self, jobs: list[Job]) -> None:
        try:
            cursor = self._begin()
            self._work(cursor, jobs)
            if all(job.error is not None for job in jobs):
                self._roll_back()
                return
        except sqlite3.DatabaseError as error:
            self._discard()
            _fail(jobs, unavailable(self._path, error) if is_of_the_disk(error) else error)
            return
        except StoreUnavailable as error:
            _fail(jobs, error)
            return
        try:
            cursor.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._settle(jobs, error)
            return
        self.commits += 1
        if self.after_commit is not None and self._connection is not None:
            self.after_commit(self._connection)

    def _begin(self) -> sqlite3.Cursor:
        """
        Take the write lock, and see whether others have written since this thread last did.

        The lock is waited for in small steps: SQLite's own busy handler sleeps up to 100 ms a step,
        which is long beside a commit of another process.
        """
        connection = self._connection or self._open()
        if self._look() != self._identity:
            raise StoreUnavailable(
                f"{self._path}: the file or its -wal was replaced or deleted while it was open: "
                "put it back, or start again"
            )
        cursor = connection.cursor()
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                cursor.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                busy = str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")
                if not busy or time.monotonic() > deadline:
                    raise
            time.sleep(LOCK_RETRY_S)
        (data_version,) = cursor.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version:
            self._data_version = data_version
            self.foreign_commits += 1
            self.epoch += 1
        return cursor

    def _work(self, cursor: sqlite3.Cursor, jobs: list[Job]) -> None:
        try:
            for job in jobs:
                job.result = job.work(cursor)
        except Exception as error:  # noqa: BLE001 - handed to whoever submitted the job
            if len(jobs) == 1:
                jobs[0].error = self._translate(error)
                return
            self._roll_back()
            self._work_one_by_one(self._begin(), jobs)

    def _work_one_by_one(self, cursor: sqlite3.Cursor, jobs: list[Job]) -> None:
        for job in jobs:
            cursor.execute("SAVEPOINT job")
            try:
                job.result = job.work(cursor)
            except Exception as error:
                if not cursor.connection.in_transaction:  # SQLite gave up all of it (disk full)
                    raise
                job.error = self._translate(error)
                cursor.execute("ROLLBACK TO job")
                self.epoch += 1
            cursor.execute("RELEASE job")

    def _settle(self, jobs: list[Job], error: sqlite3.DatabaseError) -> None:
        """
        COMMIT was answered with an error: find out whether the group is stored all the same.
        """
        self._discard()
        proof = next((job.landed for job in jobs if job.error is None and job.landed), None)
        failure: StoreUnavailable = unavailable(self._path, error)
        for _ in range(SETTLE_TRIES_MAX if proof else 0):
            assert proof is not None
            try:
                if proof(self._open().cursor()):
                    return
                break
            except (sqlite3.DatabaseError, StoreUnavailable):
                self._discard()
                time.sleep(SETTLE_PAUSE_S)
        else:
            if proof:
                failure = StoreUnavailable(f"{failure}; whether it was recorded is not known")
        _fail(jobs, failure)

    def _roll_back(self) -> None:
        self.epoch += 1
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _open(self) -> sqlite3.Connection:
        self._connection = connect(self._path, busy_timeout_s=0)
        # Reading once opens the -wal file, so that `_look` sees it.
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._data_version = 0
        self.epoch += 1
        return self._connection

    def _discard(self) -> None:
        """
        Close the connection: after an error of the disk nothing it remembers can be trusted.
        """
        connection, self._connection = self._connection, None
        self.epoch += 1
        if connection is not None:
            connection.close()

    def _look(self) -> tuple[int, ...] | None:
        try:
            main, wal = self._file.stat(), self._wal.stat()
        except OSError:
            return None
        return main.st_dev, main.st_ino, wal.st_ino

    def _translate(self, error: Exception) -> Exception:
        return unavailable(self._path, error) if is_of_the_disk(error) else error

    def _resolve(self, jobs: list[Job]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in jobs:
            by_loop.setdefault(job.future.get_loop(), []).append(job)
        for loop, done in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._deliver, done)
            except RuntimeError:  # the loop is closed: nobody waits any more
                continue


def _fail(jobs: list[Job], error: Exception) -> None:
    for job in jobs:
        if job.error is None:
            job.error = error
