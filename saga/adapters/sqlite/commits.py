"""How one file is written: its writing connection, its thread for waiting, its checkpoints.

`WritingConnection` begins, commits and rolls back the transactions of a file in this process; who
writes in them is the database's business. Statements run on the event loop's thread: they take
microseconds, and a thread of their own would fight the loop for the interpreter's lock.

A commit to a quick disk is made there too, because a change of threads and back costs as much. A
slow disk is waited for on the executor's thread, and so is one that has once held up the loop, for
a while. Another process that writes is waited for there as well. Checkpoints never run on the loop.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from saga.adapters.sqlite.connection import BUSY_TIMEOUT_S, FileWatch, connect
from saga.errors import StoreUnavailable

T = TypeVar("T")
Then = Callable[[Any, BaseException | None], None]

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


class WritingConnection:
    """The one connection of this process that writes the file at *path*.

    Args:
        connection: use this one, and leave it open at the end.
        threaded: wait for slow commits and for other processes in a thread. Otherwise everything
            happens on the loop, as in simulated worlds.

    Raises:
        StoreUnavailable: the file cannot be opened.
    """

    def __init__(
        self, path: str, *, connection: sqlite3.Connection | None = None, threaded: bool = True
    ) -> None:
        self.path = path
        self._given = connection
        self._open_connection = connection
        self._watch: FileWatch | None = None
        self._executor: Executor | None = None
        self._checkpointer: Checkpointer | None = None
        self._pace = _Pace()
        self._data_version = 0
        self.epoch = 0
        """Changes when what jobs remember of the file may be out of date."""
        self.commits = 0
        self.foreign_commits = 0
        """How often it was found that other connections had written."""
        if connection is None:
            self._open()
            self._watch = FileWatch(path)
        if threaded:
            self._executor = Executor(f"commits to {path}")
            self._executor.start()
            self._checkpointer = Checkpointer(path)
            self._checkpointer.start()

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, inside of a transaction or not.

        Raises:
            StoreUnavailable: it was closed, and `begin` has not opened it again.
        """
        if self._open_connection is None:
            raise StoreUnavailable(f"{self.path}: it is not open")
        return self._open_connection

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and not ended."""
        return self._open_connection is not None and self._open_connection.in_transaction

    def check(self) -> None:
        """See that the file is still the one that was opened.

        Raises:
            StoreUnavailable: the file was replaced or deleted.
        """
        if self._watch is not None:
            self._watch.check()

    def begin(self, *, wait_s: float = 0.0) -> bool:
        """Take the write lock, and see whether others have written since the last time.

        False where another process has the lock and *wait_s* is 0. The lock is waited for in small
        steps: SQLite's own busy handler sleeps up to 100 ms a step, which is long beside a commit.

        Raises:
            StoreUnavailable: the file was replaced or deleted.
            sqlite3.DatabaseError: the lock was not released in time, or cannot be taken.
        """
        connection = self._open_connection or self._open()
        self.check()
        deadline = time.monotonic() + wait_s
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                name = str(getattr(error, "sqlite_errorname", ""))
                if not name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                    raise
                if time.monotonic() >= deadline:
                    if wait_s:
                        raise
                    return False
            time.sleep(LOCK_RETRY_S)
        (data_version,) = connection.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version:
            self._data_version = data_version
            self.foreign_commits += 1
            self.epoch += 1
        return True

    def begin_when_free(self, then: Callable[[BaseException | None], None]) -> None:
        """Wait for other processes off the loop, then call *then* on it with what failed."""
        if self._executor is None:
            then(StoreUnavailable(f"{self.path}: another connection keeps it locked: wait for it"))
            return
        wait = partial(self.begin, wait_s=BUSY_TIMEOUT_S)
        self._executor.call(wait, lambda _, error: then(error))

    def commit(self, then: Callable[[BaseException | None], None]) -> None:
        """Commit, then call *then* on the loop with what the commit raised.

        It is called after this has returned, except without threads.
        """
        checkpointer, executor = self._checkpointer, self._executor
        if executor is None:
            then(_error_of(self._commit))
            return
        assert checkpointer is not None
        if self._pace.is_quick and not checkpointer.is_rest_wanted:
            error = _error_of(self._commit)
            self._pace.note_on_loop()
            asyncio.get_running_loop().call_soon(then, error)
        else:
            executor.begin(self._commit_and_copy_rest, lambda _, error: then(error))

    def call(self, act: Callable[[], Any], then: Then) -> None:
        """Do *act* off the loop, then call *then* on it with the result, or None and the error."""
        assert self._executor is not None, "there is no thread to wait in"
        self._executor.call(act, then)

    def roll_back(self) -> None:
        """Undo the transaction in hand, if there is one."""
        self.epoch += 1
        if self.in_transaction:
            self.connection.execute("ROLLBACK")

    def discard(self) -> None:
        """Close the connection: after an error of the disk nothing it remembers can be trusted."""
        self.epoch += 1
        connection, self._open_connection = self._open_connection, None
        if connection is not None and connection is not self._given:
            connection.close()

    def reopen(self) -> sqlite3.Connection:
        """A new connection in place of the one that was discarded."""
        return self._open()

    def close(self, *, wait: bool = True) -> None:
        """End the threads and close the file; with *wait*, blocks until it is done."""
        if self._executor is not None:
            self._executor.close(wait=wait)
        if self._checkpointer is not None:
            self._checkpointer.close()
        self.discard()

    def _open(self) -> sqlite3.Connection:
        assert self._given is None, f"{self.path}: the connection that was given is gone"
        connection = connect(self.path, busy_timeout_s=0)
        # Reading once opens the -wal file, so that it can be watched.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._open_connection = connection
        self._data_version = 0
        self.epoch += 1
        return connection

    def _commit(self) -> None:
        began_s = time.monotonic()
        try:
            self.connection.execute("COMMIT")
        finally:
            self._pace.took_s = time.monotonic() - began_s
        self.commits += 1
        if self._checkpointer is not None:
            self._checkpointer.committed()

    def _commit_and_copy_rest(self) -> None:
        self._commit()
        assert self._checkpointer is not None
        if self._checkpointer.is_rest_wanted:
            self._checkpointer.copy_rest(self.connection)


class _Pace:
    """Whether the disk is quick enough for commits on the loop's thread."""

    def __init__(self) -> None:
        self.took_s = 0.0
        self.wary_until_s = 0.0

    @property
    def is_quick(self) -> bool:
        return self.took_s < QUICK_S and time.monotonic() >= self.wary_until_s

    def note_on_loop(self) -> None:
        if self.took_s > HELD_UP_S:
            self.wary_until_s = time.monotonic() + WARY_S


def _error_of(act: Callable[[], None]) -> Exception | None:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - handed to whoever asked for the commit
        return error
    return None


class _Order(NamedTuple):
    act: Callable[[], Any]
    then: Then
    loop: asyncio.AbstractEventLoop


class Executor:
    """One thread, which does one thing after another, so that the loop need not wait for a disk.

    A ThreadPoolExecutor would do the same at several times the cost; here one queue leads in and
    the loop's own leads out.
    """

    def __init__(self, name: str) -> None:
        self._orders: Final[queue.SimpleQueue[_Order | None]] = queue.SimpleQueue()
        self._has_begun: Final = threading.Lock()
        """Released by the thread as it begins an order, for `begin`."""
        self._thread: Final = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Begin to take orders."""
        self._thread.start()

    def call(self, act: Callable[[], Any], then: Then) -> None:
        """Do *act*, then call *then* on the loop with its result, or with None and the error."""
        self._orders.put(_Order(act, then, asyncio.get_running_loop()))

    def begin(self, act: Callable[[], Any], then: Then) -> None:
        """As `call`, and return when *act* has begun, which is to wait for the disk at once.

        The loop's thread has the interpreter until it has nothing to do. Without waiting here, the
        order would only begin when the loop has come to rest.
        """
        self._has_begun.acquire(blocking=False)
        self.call(act, then)
        self._has_begun.acquire(timeout=BEGIN_S_MAX)

    def run(self, act: Callable[[], T]) -> asyncio.Future[T]:
        """Do *act*; a future of its result."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.call(act, partial(settle, future))
        return future

    def close(self, *, wait: bool) -> None:
        """End the thread once it has done what was ordered."""
        self._orders.put(None)
        if wait:
            self._thread.join()

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            result, error = None, None
            if self._has_begun.locked():
                self._has_begun.release()
            try:
                result = order.act()
            except BaseException as raised:  # noqa: BLE001 - handed to whoever gave the order
                error = raised
            try:
                order.loop.call_soon_threadsafe(order.then, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del order, result, error  # waiting for the next must not keep this one's alive


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """End *future* with the result or the error, unless whoever waited for it has given up."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Checkpointer:
    """Moves what is committed from the write-ahead log into the file, out of the commits' way.

    Its thread copies most of the log while commits go on. The writer then copies the little that
    came meanwhile, so that the log begins anew and stays bounded and small.
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
        self._thread = threading.Thread(
            target=self._run, name=f"checkpoints of {path}", daemon=True
        )

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """End the thread. Blocks until it is done."""
        self._is_ending = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def committed(self) -> None:
        """Called by the writer after each commit."""
        self._commits_since += 1
        if self._commits_since >= self._commits_until and not self.is_rest_wanted:
            self._wake.set()

    def copy_rest(self, connection: sqlite3.Connection) -> None:
        """Called by the writer, outside any transaction, where the rest is wanted; may be slow."""
        self.is_rest_wanted = False
        _checkpoint(connection, "RESTART" if self._frames > FRAMES_MAX else "PASSIVE")

    def _run(self) -> None:
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
            # How many commits fill the log is learnt from how full this many have made it.
            fitting = commits * FRAMES_TARGET // frames
            self._commits_until = max(1, min(fitting, COMMITS_MAX, commits * 4))
        self.is_rest_wanted = is_asked


def _checkpoint(connection: sqlite3.Connection, mode: str) -> int | None:
    """The number of frames in the log; None where it could not be done now: the next one will."""
    try:
        busy, frames, _ = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if busy or frames < 0 else int(frames)
