"""Moving what is committed from the write-ahead log into the file, out of the commits' way.

A thread of its own copies most of it while commits go on; the writer then copies the little that
came meanwhile, so that the log begins anew and stays bounded and small.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import Final

from saga.adapters.sqlite.connections import connect

FRAMES_TARGET: Final = 8_192
"""Pages in the log (4 KiB each) at which it is time to move them."""
FRAMES_MAX: Final = 65_536
"""Beyond this the writer waits for readers until the log can begin anew."""
COMMITS_FIRST: Final = 64
COMMITS_MAX: Final = 16_384
IDLE_S: Final = 1.0


class Checkpointer:
    """The checkpoint thread of one file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._wake = threading.Event()
        self._ending = False
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
        self._ending = True
        self._wake.set()
        self._thread.join()

    def committed(self) -> None:
        """Called by the writer after each commit."""
        self._commits_since += 1
        if self._commits_since >= self._commits_until and not self.is_rest_wanted:
            self._wake.set()

    def copy_rest(self, connection: sqlite3.Connection) -> None:
        """Called by the writer, outside any transaction, where the rest is wanted. Takes its
        time.
        """
        self.is_rest_wanted = False
        _checkpoint(connection, "RESTART" if self._frames > FRAMES_MAX else "PASSIVE")

    def _run(self) -> None:
        connection = connect(self._path)
        try:
            while not self._ending:
                is_asked = self._wake.wait(IDLE_S)
                self._wake.clear()
                commits = self._commits_since
                if commits and not self._ending:
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
    """The number of frames in the log, or None where it could not be done now; then the next one
    will.
    """
    try:
        busy, frames, _ = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if busy or frames < 0 else int(frames)
