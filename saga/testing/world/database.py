"""The database of a world's effect services: SQLite in memory, shared by their processes, with
errors.

It outlives every process, as a file would. A process that crashes loses what it had not committed.
Statements may fail, and a commit may be done and yet reported as failed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from itertools import count
from typing import Any, Final

from saga.adapters.sqlite import SqliteEffectsStore
from saga.testing.world.broker import WorldClock
from saga.testing.world.faults import Fault
from saga.testing.world.process import Process, Surroundings

_NUMBERS: Final = count(1)
_POINTS: Final = {"COMMIT": "inbox.commit", "BEGIN IMMEDIATE": "inbox.begin"}


class CrashingConnection(sqlite3.Connection):
    """A connection of one process, which may go down with it."""

    process: Process | None = None

    def execute(self, sql: str, /, *args: Any) -> sqlite3.Cursor:
        """Run a statement, unless something goes wrong."""
        process = self.process
        if process is None or sql == "ROLLBACK":
            return super().execute(sql, *args)
        if not process.is_alive:
            raise _io_error("the process is no more")
        point = _POINTS.get(sql)
        if point is None:
            return super().execute(sql, *args)
        process.surroundings.note(process.name, point)
        fault = process.surroundings.faults.at_call(point, can_fail=True)
        if fault is Fault.ERROR_AFTER and sql != "COMMIT":
            fault = Fault.ERROR_BEFORE  # a local database knows whether it began
        if fault is Fault.CRASH_BEFORE:
            process.crash(point)
        if fault in {Fault.CRASH_BEFORE, Fault.ERROR_BEFORE}:
            raise _io_error("made up, nothing was done")
        cursor = super().execute(sql, *args)
        if fault is Fault.CRASH_AFTER:
            process.crash(point)
        if fault in {Fault.CRASH_AFTER, Fault.ERROR_AFTER}:
            raise _io_error("made up, it was done all the same")
        return cursor


class EffectsDatabase:
    """What outlives the processes."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._clock = WorldClock(surroundings)
        self._address = f"file:saga-world-{next(_NUMBERS)}?mode=memory&cache=shared"
        self._anchor = sqlite3.connect(self._address, uri=True, isolation_level=None)

    def open_for(self, process: Process) -> SqliteEffectsStore:
        """The store of one process, over a connection of its own."""
        connection = sqlite3.connect(
            self._address, uri=True, isolation_level=None, timeout=0, factory=CrashingConnection
        )
        connection.process = process
        store = SqliteEffectsStore(
            "world", clock=self._clock, threaded=False, connection=connection
        )

        def go_down() -> None:
            store.abandon()
            if connection.in_transaction:
                connection.execute("ROLLBACK")

        process.on_crash.append(go_down)
        return store

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query finds, read outside of all faults."""
        return self._anchor.execute(sql).fetchall()

    def fetch(self, sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The same with parameters, by the names of the columns."""
        cursor = self._anchor.execute(sql, params)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def close(self) -> None:
        """Forget everything."""
        self._anchor.close()


def _io_error(message: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    error.sqlite_errorname = "SQLITE_IOERR"
    return error
