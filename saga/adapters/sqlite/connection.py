"""Connections to one SQLite file, and what its errors mean to those who use it.

Errors of the driver become ours here, but for constraint violations: the job that caused one knows
what it means.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from saga.errors import BusUnavailable, StoreUnavailable

BUSY_TIMEOUT_S: Final = 5
_SETTINGS: Final = (
    "PRAGMA synchronous=FULL",
    # The database's own thread makes checkpoints (see commits.py), never a commit.
    "PRAGMA wal_autocheckpoint=0",
    "PRAGMA cache_size=-32768",  # KiB
    "PRAGMA mmap_size=268435456",
    "PRAGMA temp_store=MEMORY",
    # Some builds of SQLite overwrite what is deleted, which only secrets need.
    "PRAGMA secure_delete=OFF",
)
_ADVICE: Final = {
    "SQLITE_FULL": "the disk is full: make room, work goes on by itself",
    "SQLITE_READONLY": "it is read-only: make the file and its folder writable for this user",
    "SQLITE_BUSY": "another process keeps it locked: end that process or wait for it",
    "SQLITE_LOCKED": "another connection keeps it locked: wait for it",
    "SQLITE_CANTOPEN": "it cannot be opened: check that the folder exists and is writable",
    "SQLITE_IOERR": "the disk reports an input/output error: check it and the room that is left",
    "SQLITE_NOTADB": "it is no SQLite database: name another file",
    "SQLITE_CORRUPT": "it is damaged: restore it from a backup (`sqlite3 FILE .recover` may help)",
}
_OUR_MISTAKES: Final = frozenset(
    {"SQLITE_ERROR", "SQLITE_MISUSE", "SQLITE_RANGE", "SQLITE_MISMATCH", "SQLITE_TOOBIG"}
)
"""A wrong statement is a bug, not a state of the disk: these stay what they are."""


def make_private(path: str) -> None:
    """Make the file and the folders that are missing, for this user alone; those there stay."""
    if Path(path).exists():
        return
    with translated(path):
        for folder in reversed(Path(path).parents):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
    with suppress(OSError):  # SQLite will say why it cannot be made
        # It gives the files beside it the same rights.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def connect(path: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """A connection in autocommit mode for one thread at a time; raises StoreUnavailable."""
    with translated(path):
        return _connect(path, busy_timeout_s=busy_timeout_s)


def connect_to_read(path: str) -> sqlite3.Connection:
    """A connection to a file that this user may not write, nor its folder.

    Raises:
        StoreUnavailable: it cannot be read whole: a -wal file is not read without writing.
    """
    uri = Path(path).as_uri()
    with translated(path):
        try:
            return _connect(f"{uri}?mode=ro", is_uri=True)
        except sqlite3.OperationalError:
            wal = Path(f"{path}-wal")
            if wal.exists() and wal.stat().st_size:
                raise
            # Nobody has it open, or the -wal file would be there: the file is all there is.
            return _connect(f"{uri}?mode=ro&immutable=1", is_uri=True)


def _connect(
    path: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S, is_uri: bool = False
) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        uri=is_uri,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        timeout=busy_timeout_s,
    )
    try:
        for setting in _SETTINGS:
            connection.execute(setting)
        if is_uri:  # whether it can be read is not known before
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise StoreUnavailable where SQLite cannot read or write *path*."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_of_the_disk(error):
            raise unavailable(path, error) from error
        raise
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error


class _AsBusError:
    """A class and no generator, which costs more than twice as much: every fetch enters it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, StoreUnavailable):
            raise BusUnavailable(str(error)) from error


_AS_BUS_ERROR: Final = _AsBusError()


def as_bus_error() -> AbstractContextManager[None, None]:
    """Raise BusUnavailable where the bus's file is unavailable."""
    return _AS_BUS_ERROR


def is_of_the_disk(error: BaseException) -> bool:
    """Whether *error* is about the file, and not about a wrong statement."""
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, sqlite3.IntegrityError):
        return False
    return getattr(error, "sqlite_errorname", None) not in {None, *_OUR_MISTAKES}


def is_refusal(error: BaseException) -> bool:
    """Whether SQLite can keep everything but what it was given: too large, or against a check."""
    if isinstance(error, OverflowError | UnicodeError | sqlite3.IntegrityError):
        return True
    return getattr(error, "sqlite_errorname", None) in {"SQLITE_TOOBIG", "SQLITE_MISMATCH"}


def unavailable(path: str, error: Exception) -> StoreUnavailable:
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, advice in _ADVICE.items():
        if name.startswith(prefix):
            return StoreUnavailable(f"{path}: {advice} ({error})")
    return StoreUnavailable(f"{path}: {error}")
