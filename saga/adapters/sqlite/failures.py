"""What SQLite and the file system say, translated into what the caller can do about it.

The one place where driver errors become ours. Constraint violations are not translated: the job
that caused one knows what it means.
"""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from typing import Final

from eventsourcing.persistence import PersistenceError

from saga.errors import BusUnavailable, StoreUnavailable

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


class _Translated:
    """A class and no generator, which costs more than twice as much: it is entered for
    every query.
    """

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        path = self._path
        match error:
            case None:
                return
            case sqlite3.DatabaseError() if is_of_the_disk(error):
                raise unavailable(path, error) from error
            case PersistenceError():
                cause = error.args[0] if error.args else error
                raise unavailable(path, cause if isinstance(cause, Exception) else error) from error
            case OSError():
                raise StoreUnavailable(f"{path}: {error.strerror or error}") from error


class _AsBusError:
    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, StoreUnavailable):
            raise BusUnavailable(str(error)) from error


_AS_BUS_ERROR: Final = _AsBusError()


def translated(path: str) -> AbstractContextManager[None, None]:
    """Raise StoreUnavailable, naming *path* and what to do, where SQLite cannot read or
    write it.
    """
    return _Translated(path)


def as_bus_error() -> AbstractContextManager[None, None]:
    """Raise BusUnavailable where the bus's file is unavailable."""
    return _AS_BUS_ERROR


def is_of_the_disk(error: BaseException) -> bool:
    """Whether *error* says that the file cannot be read or written now, and not that a job is
    wrong.
    """
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, sqlite3.IntegrityError):
        return False
    return getattr(error, "sqlite_errorname", None) not in {None, *_OUR_MISTAKES}


def unavailable(path: str, error: Exception) -> StoreUnavailable:
    """The error that says of *path* what *error* means and what to do."""
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, advice in _ADVICE.items():
        if name.startswith(prefix):
            return StoreUnavailable(f"{path}: {advice} ({error})")
    return StoreUnavailable(f"{path}: {error}")
