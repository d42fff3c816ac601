"""How one file is written: its writing connection, its thread for waiting, its checkpoints.

Statements take microseconds and run on the event loop's thread, as do commits to a quick disk: a
change of threads would cost as much. Slow disks and other processes are waited for on a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from saga.adapters.sqlite.connection import BUSY_TIMEOUT_S, connect, unavailable
from saga.core.texts import described
from saga.errors import StoreUnavailable

Act = Callable[[], BaseException | None]
Then = Callable[[BaseException | None], None]
"""Is called on the loop with what an act has raised or returned."""
_Order = tuple[Act, Then, asyncio.AbstractEventLoop]

QUICK_S: Final = 0.000_5
"""Where the last commit took less, the next one may be made on the loop's thread."""
HELD_UP_S: Final = 0.010
"""A commit that took longer on the loop's thread has held up everybody else there."""
WARY_S: Final = 10.0
"""So long after that all commits are made on the executor's thread."""
LOCK_RETRY_S: Final = 0.000_5
BEGIN_S_MAX: Final = 0.002
"""The loop waits no longer for a thread to begin: it may have no processor."""
FRAMES_TARGET: Final = 8_192
"""Pages in the log (4 KiB each) at which it is time to move them."""
FRAMES_MAX: Final = 65_536
"""Beyond this the writer waits for readers until the log can begin anew."""
COMMITS_FIRST: Final = 64
COMMITS_MAX: Final = 16_384
IDLE_S: Final = 1.0
FIND_OUT_TRIES_MAX: Final = 10
FIND_OUT_PAUSE_S: Final = 0.2
log = logging.getLogger(__name__)


class WritingConnection:
    """The one connection of this process that writes the file at *path*.

    A *given* connection is used without threads, as in simulated worlds, and stays open at the end.
    """

    def __init__(self, path: str, *, given: sqlite3.Connection | None = None) -> None:
        self.path = path
        self._given = given
        self._open_connection = given
        self._files: tuple[int, ...] | None = None
        self._beside: _Beside | None = None
        self._took_s = self._wary_until_s = 0.0
        self._is_looking = False
        self._data_version = 0
        self._epoch = 0
        self._commits = self._foreign_commits = 0
        if given is None:
            self._open()
            self._files = self._identities()
            self._beside = _Beside(Executor(f"commits to {path}"), Checkpointer(path))

    @property
    def connection(self) -> sqlite3.Connection:
        """Raises StoreUnavailable if it was closed and `begin` has not opened it again."""
        if self._open_connection is None:
            raise StoreUnavailable(f"{self.path}: it is not open")
        return self._open_connection

    @property
    def in_transaction(self) -> bool:
        return self._open_connection is not None and self._open_connection.in_transaction

    @property
    def epoch(self) -> int:
        """For jobs: what they remembered of the file under another epoch may be out of date."""
        if not self._is_looking:
            self._is_looking = True
            self._look()
        return self._epoch

    @property
    def commits(self) -> tuple[int, int]:
        """How many commits were made here, and how often it was found that others had written."""
        self._is_looking = True
        return self._commits, self._foreign_commits

    def check(self) -> None:
        """Raise StoreUnavailable if the file was replaced: SQLite would write on to the old one."""
        if self._files is not None and self._files != self._identities():
            raise StoreUnavailable(
                f"{self.path}: the file or its -wal was replaced or deleted while it was open: "
                "put it back, or start again"
            )

    def begin(self, *, wait_s: float = 0.0) -> bool:
        """Take the write lock; False where another process has it and *wait_s* is 0.

        Raises:
            StoreUnavailable: the file was replaced or deleted.
            sqlite3.DatabaseError: the lock was not released in time, or cannot be taken.
        """
        connection = self._open_connection or self._open()
        self.check()
        until_s = time.monotonic() + wait_s if wait_s else 0.0
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                name = str(getattr(error, "sqlite_errorname", ""))
                if not name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                    raise
                if not wait_s:
                    return False
                if time.monotonic() >= until_s:
                    raise
            # SQLite's own busy handler sleeps up to 100 ms a step, which is long beside a commit.
            time.sleep(LOCK_RETRY_S)
        if self._is_looking:
            self._look()
        return True

    def begin_when_free(self, then: Then) -> None:
        """Wait for other processes off the loop, then call *then* on it with what failed."""
        if self._beside is None:
            then(StoreUnavailable(f"{self.path}: another connection keeps it locked: wait for it"))
        else:
            self._beside.executor.call(self._wait_and_begin, then)

    def commit(self, then: Then) -> None:
        """Commit, then call *then* on the loop with what it raised, maybe before this returns."""
        if self._beside is not None and (
            self._took_s >= QUICK_S
            or self._beside.checkpointer.is_rest_wanted
            or (self._wary_until_s and time.monotonic() < self._wary_until_s)
        ):
            self._beside.executor.begin(self._commit_and_copy_rest, then)
            return
        failure = None
        try:
            self._commit()
        except Exception as error:  # noqa: BLE001 - handed to whoever asked for the commit
            failure = error
        if self._took_s > HELD_UP_S:
            self._wary_until_s = time.monotonic() + WARY_S
        then(failure)

    def find_out(
        self,
        is_stored: Callable[[sqlite3.Cursor], bool],
        failure: sqlite3.DatabaseError,
        then: Then,
    ) -> None:
        """See off the loop whether a COMMIT that failed is stored; *then* gets None if it is."""
        assert self._beside is not None, "there is no thread to wait in"
        self._beside.executor.call(partial(self._find_out, is_stored, failure), then)

    def roll_back(self) -> None:
        self._epoch += 1
        if self.in_transaction:
            self.connection.execute("ROLLBACK")

    def roll_back_to(self, savepoint: str) -> None:
        self._epoch += 1
        self.connection.execute(f"ROLLBACK TO {savepoint}")

    def discard(self) -> None:
        """Close the connection: after an error of the disk nothing in it can be trusted."""
        if self._given is not None:
            self.roll_back()
            return
        self._epoch += 1
        connection, self._open_connection = self._open_connection, None
        if connection is not None:
            connection.close()

    def close(self, *, wait: bool = True) -> None:
        """End the threads and close the file; with *wait*, blocks until it is done."""
        if self._beside is not None:
            self._beside.executor.close(wait=wait)
            self._beside.checkpointer.close()
        self.discard()

    def _open(self) -> sqlite3.Connection:
        connection = connect(self.path, busy_timeout_s=0)
        # Reading once opens the -wal file, so that it can be watched.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._open_connection = connection
        self._data_version = 0
        self._epoch += 1
        return connection

    def _identities(self) -> tuple[int, ...] | None:
        try:
            # Runs once a commit, and `Path.stat` takes three times as long.
            main, wal = os.stat(self.path), os.stat(f"{self.path}-wal")  # noqa: PTH116
        except OSError:
            return None
        return main.st_dev, main.st_ino, wal.st_ino

    def _look(self) -> None:
        (data_version,) = self.connection.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version:
            self._data_version = data_version
            self._foreign_commits += 1
            self._epoch += 1

    def _wait_and_begin(self) -> None:
        self.begin(wait_s=BUSY_TIMEOUT_S)

    def _commit(self) -> None:
        began_s = time.monotonic()
        try:
            self.connection.execute("COMMIT")
        finally:
            self._took_s = time.monotonic() - began_s
        self._commits += 1
        if self._beside is not None:
            self._beside.checkpointer.committed()

    def _commit_and_copy_rest(self) -> None:
        self._commit()
        assert self._beside is not None
        if self._beside.checkpointer.is_rest_wanted:
            self._beside.checkpointer.copy_rest(self.connection)

    def _find_out(
        self, is_stored: Callable[[sqlite3.Cursor], bool], failure: sqlite3.DatabaseError
    ) -> StoreUnavailable | None:
        said = unavailable(self.path, failure)
        for _ in range(FIND_OUT_TRIES_MAX):
            self.discard()
            try:
                return None if is_stored(self._open().cursor()) else said
            except (sqlite3.DatabaseError, StoreUnavailable):
                time.sleep(FIND_OUT_PAUSE_S)
        return StoreUnavailable(f"{said}; whether it was recorded is not known")


class _Beside(NamedTuple):
    executor: Executor
    checkpointer: Checkpointer


class Executor:
    """One thread that waits for the disk; at a fraction of what a ThreadPoolExecutor costs."""

    def __init__(self, name: str) -> None:
        self._orders: Final[queue.SimpleQueue[_Order | None]] = queue.SimpleQueue()
        self._has_begun: Final = threading.Lock()
        """Released by the thread as it begins an order, for `begin`."""
        self._thread: Final = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def call(self, act: Act, then: Then) -> None:
        """Do *act*, then call *then* on the loop with what it has raised or returned."""
        self._orders.put((act, then, asyncio.get_running_loop()))

    def begin(self, act: Act, then: Then) -> None:
        """As `call`, and return when *act* has begun: else it would begin when the loop rests."""
        self._has_begun.acquire(blocking=False)
        self.call(act, then)
        self._has_begun.acquire(timeout=BEGIN_S_MAX)

    def close(self, *, wait: bool) -> None:
        """End the thread once it has done what was ordered."""
        self._orders.put(None)
        if wait:
            self._thread.join()

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            act, then, loop = order
            if self._has_begun.locked():
                self._has_begun.release()
            try:
                error = act()
            except BaseException as raised:  # noqa: BLE001 - handed to whoever gave the order
                error = raised
            try:
                loop.call_soon_threadsafe(then, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del order, act, then, error  # waiting for the next must not keep this one's alive


class Checkpointer:
    """Moves what is committed from the write-ahead log into the file, out of the commits' way.

    Its thread copies most of the log while commits go on, and the writer copies the little that is
    left: only so does the log begin anew and stay small.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._wake = threading.Event()
        self._is_ending = False
        self._commits_since = 0
        self._commits_until = COMMITS_FIRST
        self._frames = 0
        self.is_rest_wanted = False
        """Whether the thread has copied most of the log and the writer is to copy the rest."""
        name = f"checkpoints of {path}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Block until the thread has ended."""
        self._is_ending = True
        self._wake.set()
        self._thread.join()

    def committed(self) -> None:
        self._commits_since += 1
        if self._commits_since >= self._commits_until and not self.is_rest_wanted:
            self._wake.set()

    def copy_rest(self, connection: sqlite3.Connection) -> None:
        """Is called outside any transaction; may be slow."""
        self.is_rest_wanted = False
        _checkpoint(connection, "RESTART" if self._frames > FRAMES_MAX else "PASSIVE")

    def _run(self) -> None:
        while not self._is_ending:
            try:
                self._move_while_open()
            except Exception as error:  # noqa: BLE001 - without it the log would grow for ever
                reason = described(error)
                keys = {"reason": reason}
                log.warning("checkpoints of %s begin anew: %s", self._path, reason, extra=keys)
                self._wake.wait(IDLE_S)

    def _move_while_open(self) -> None:
        connection = connect(self._path)
        try:
            while not self._is_ending:
                is_asked = self._wake.wait(IDLE_S)
                self._wake.clear()
                commits = self._commits_since
                if commits and not self._is_ending:
                    self._move(connection, commits, is_asked=is_asked)
        finally:
            connection.close()

    def _move(self, connection: sqlite3.Connection, commits: int, *, is_asked: bool) -> None:
        frames = _checkpoint(connection, "PASSIVE")
        if frames is None:
            return
        self._frames = frames
        self._commits_since = 0
        if frames:
            # Estimated from how full this many commits have made the log.
            fitting = commits * FRAMES_TARGET // frames
            self._commits_until = max(1, min(fitting, COMMITS_MAX, commits * 4))
        self.is_rest_wanted = is_asked


def _checkpoint(connection: sqlite3.Connection, mode: str) -> int | None:
    """The number of frames in the log; None where the next checkpoint has to do it."""
    try:
        busy, frames, _ = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if busy or frames < 0 else int(frames)
