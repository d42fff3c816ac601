"""Everything that is written to a file goes through here: whatever is waiting shares the next
commit.

Statements run on the event loop's thread, because they take microseconds, and a thread of their own
would fight the loop for the interpreter's lock over each of them. Only what waits runs beside the
loop: for another process that is writing, and for a disk that is not quick (see `committing`). A
failing job takes nobody with it: the group is rolled back and repeated with a savepoint around each
job. A job may therefore run twice, and must do nothing but write through its cursor.

What a job has written may be shown, before it is durable, to somebody whose next job belongs into
the same transaction: the commit then lingers for a moment. If it fails, what was shown is taken
back, and whoever relied on it fails with it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from saga.adapters.sqlite.beside import Beside
from saga.adapters.sqlite.checkpoints import Checkpointer
from saga.adapters.sqlite.committing import Committer
from saga.adapters.sqlite.connections import BUSY_TIMEOUT_S, connect
from saga.adapters.sqlite.failures import is_of_the_disk, unavailable
from saga.adapters.sqlite.file_watch import FileWatch
from saga.adapters.sqlite.jobs import Job, take_back
from saga.errors import StoreUnavailable

JOBS_PER_COMMIT_MAX: Final = 256
BUSY_NOW_S: Final = 0.0
LOCK_RETRY_S: Final = 0.000_5
LINGER_S: Final = 0.002
"""How long a commit waits for the job that a preview leads to."""
SETTLE_TRIES_MAX: Final = 10
SETTLE_PAUSE_S: Final = 0.2


class Writer:
    """The writer of one file, for one event loop.

    *deliver* is called on the loop with the jobs of a commit, in their order.
    """

    def __init__(
        self, path: str, *, deliver: Callable[[list[Job]], None], checkpointer: Checkpointer
    ) -> None:
        self._path = path
        self._watch = FileWatch(path)
        self._deliver = deliver
        self._waiting: deque[Job] = deque()
        self._open_group: list[Job] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._is_joining = False
        self._is_busy = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._beside = Beside(f"commits to {path}")
        self._commits = Committer(self._beside, checkpointer)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: sqlite3.Connection | None = None
        self._data_version = 0
        self.epoch = 0
        """Changes when what jobs remember of the file may be out of date: see `_begin`."""
        self.foreign_commits = 0
        """How often it was found that other connections had written."""
        self.commits = 0

    def start(self) -> None:
        """Open the file and begin to take jobs.

        Raises:
            StoreUnavailable: the file cannot be opened.
        """
        self._open()
        self._watch.begin()
        self._beside.start()

    def submit(self, job: Job) -> None:
        """Put *job* into the next commit."""
        self._waiting.append(job)
        if not self._is_busy:
            self._is_busy = True
            self._is_idle.clear()
            self._loop = job.future.get_loop()
            self._loop.call_soon(self._take_group)
        elif self._open_group is not None and not self._is_joining:
            self._is_joining = True
            job.future.get_loop().call_soon(self._join_group)

    async def drained(self) -> None:
        """Return when everything accepted is done."""
        await self._is_idle.wait()

    def close(self) -> None:
        """End the thread and close the file. Blocks until it is done; to be called when drained."""
        self._beside.close(wait=True)
        self._discard()

    # On the loop: what is waiting becomes one transaction.

    def _take_group(self) -> None:
        waiting = self._waiting
        if not waiting:
            self._is_busy = False
            self._is_idle.set()
            return
        jobs = self._next_jobs(JOBS_PER_COMMIT_MAX)
        try:
            is_begun = self._begin(BUSY_NOW_S)
        except (sqlite3.DatabaseError, StoreUnavailable) as error:
            self._give_up(jobs, error)
            return
        if is_begun:
            self._write(jobs)
        else:
            # Another process is writing: wait beside the loop.
            assert self._loop is not None
            wait = partial(self._begin, BUSY_TIMEOUT_S)
            self._beside.call(wait, partial(self._go_on, self._write, jobs), self._loop)

    def _next_jobs(self, limit: int) -> list[Job]:
        waiting = self._waiting
        return [waiting.popleft() for _ in range(min(len(waiting), limit))]

    def _write(self, jobs: list[Job]) -> None:
        """Write the first *jobs* of a transaction that has begun."""
        self._write_more([], jobs)

    def _join_group(self) -> None:
        """Write what came while the commit lingers."""
        self._is_joining = False
        written = self._open_group
        if written is not None:
            self._write_more(written, self._next_jobs(JOBS_PER_COMMIT_MAX))

    def _write_more(self, written: list[Job], jobs: list[Job]) -> None:
        group = written + jobs
        try:
            assert self._connection is not None
            is_in_one_go = self._work(self._connection.cursor(), written, jobs)
            if all(job.error is not None for job in group):
                self._roll_back()
                self._linger_no_more()
                self._done(group)
                return
        except (sqlite3.DatabaseError, StoreUnavailable) as error:
            self._linger_no_more()
            self._give_up(group, error)
            return
        if is_in_one_go and self._is_awaited(group, jobs):
            self._open_group = group
        else:
            self._commit_group(group)

    def _is_awaited(self, group: list[Job], jobs: list[Job]) -> bool:
        """Show what *jobs* have written; whether the commit is to wait for a job that relies on
        it.
        """
        if any(job.is_last for job in group) or len(group) >= JOBS_PER_COMMIT_MAX:
            return False
        is_awaited = self._lingering is not None
        for job in jobs:
            if job.preview is not None:
                job.is_shown = True
                is_awaited |= job.preview.show(job.result)
        if is_awaited and self._lingering is None:
            assert self._loop is not None
            self._lingering = self._loop.call_later(LINGER_S, self._commit_lingering)
        return is_awaited

    def _commit_lingering(self) -> None:
        """Enough waited; but what came while the loop was busy goes along."""
        if self._waiting:
            self._join_group()
        if self._open_group is not None:
            self._commit_group(self._open_group)

    def _commit_group(self, group: list[Job]) -> None:
        self._linger_no_more()
        assert self._loop is not None
        assert self._connection is not None
        self._commits.commit(self._connection, partial(self._committed, group), self._loop)

    def _committed(self, group: list[Job], error: BaseException | None) -> None:
        if isinstance(error, sqlite3.DatabaseError):
            assert self._loop is not None
            settle = partial(self._settle, group, error)
            self._beside.call(settle, partial(self._go_on, self._done, group), self._loop)
            return
        self.commits += error is None
        self._go_on(self._done, group, None, error)

    def _linger_no_more(self) -> None:
        self._open_group = None
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _go_on(
        self,
        way: Callable[[list[Job]], None],
        jobs: list[Job],
        _: object,
        error: BaseException | None,
    ) -> None:
        """What was waited for has ended: go *way* with the jobs, unless it has failed."""
        if error is None:
            way(jobs)
        else:
            self._give_up(jobs, error)

    def _give_up(self, jobs: list[Job], error: BaseException) -> None:
        if isinstance(error, sqlite3.DatabaseError):
            self._discard()
            error = unavailable(self._path, error) if is_of_the_disk(error) else error
        _fail(jobs, error)
        self._done(jobs)

    def _done(self, jobs: list[Job]) -> None:
        take_back([job for job in jobs if job.error is not None])
        self._deliver(jobs)
        assert self._loop is not None
        # Not at once: whoever was just answered may have more to write, which then shares a commit.
        self._loop.call_soon(self._take_group)

    # Beside the loop: what waits.

    def _begin(self, timeout_s: float) -> bool:
        """Take the write lock, and see whether others have written since this writer last did.

        The lock is waited for in small steps: SQLite's own busy handler sleeps up to 100 ms a step,
        which is long beside a commit of another process. False when *timeout_s* was not enough and
        is too short to call it a failure.
        """
        connection = self._connection or self._open()
        self._watch.check()
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                busy = str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")
                if not busy:
                    raise
                if time.monotonic() >= deadline:
                    if timeout_s == BUSY_NOW_S:
                        return False
                    raise
            time.sleep(LOCK_RETRY_S)
        (data_version,) = connection.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version:
            self._data_version = data_version
            self.foreign_commits += 1
            self.epoch += 1
        return True

    def _work(self, cursor: sqlite3.Cursor, written: list[Job], jobs: list[Job]) -> bool:
        """Write *jobs* after those already *written*; False where all of them had to begin
        again.
        """
        try:
            for job in jobs:
                job.result = job.work(cursor)
        except Exception as error:  # noqa: BLE001 - handed to whoever submitted the job
            if len(jobs) == 1 and not written:
                jobs[0].error = self._translate(error)
                return True
            self._roll_back()
            take_back(written)
            self._begin(BUSY_TIMEOUT_S)
            assert self._connection is not None
            self._work_one_by_one(self._connection.cursor(), written + jobs)
            return False
        return True

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
        """COMMIT was answered with an error: find out whether the group is stored all the same."""
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
        # Reading once opens the -wal file, so that it can be watched.
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._data_version = 0
        self.epoch += 1
        return self._connection

    def _discard(self) -> None:
        """Close the connection: after an error of the disk nothing it remembers can be trusted."""
        connection, self._connection = self._connection, None
        self.epoch += 1
        if connection is not None:
            connection.close()

    def _translate(self, error: Exception) -> Exception:
        return unavailable(self._path, error) if is_of_the_disk(error) else error


def _fail(jobs: list[Job], error: BaseException) -> None:
    for job in jobs:
        if job.error is None:
            job.error = error
