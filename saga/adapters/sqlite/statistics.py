"""A statistics of the store in SQLite."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from saga.adapters.sqlite.database import SqliteDatabase
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.ports.store import UNFINISHED, UNHANDLED_COUNTED_MAX, StoreStatistics, UnhandledKind

# The index by status has all but completed sagas, and is used only where the query says so.
_SAGAS: Final = (
    "SELECT definition, status, count(*) FROM saga_index WHERE status <> 'completed' "
    f"AND status IN ({', '.join('?' * len(UNFINISHED))}) GROUP BY definition, status"
)
_PARKED: Final = (
    "SELECT kind, reason, count(*) FROM (SELECT kind, reason FROM parked LIMIT ?) "
    "GROUP BY kind, reason"
)
_BACKLOG: Final = "SELECT count(*), min(appended_at) FROM backlog"
_TIMERS: Final = "SELECT count(*), min(due_at) FROM timers WHERE due_at <= ?"


class SqliteCensus:
    """Counts what is in a `SqliteEventStore`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def take(self, *, at: Instant) -> StoreStatistics:
        """Count, with *at* as the present.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """

        def query(cursor: sqlite3.Cursor) -> tuple[Any, Any, Any, Any]:
            return (
                cursor.execute(_SAGAS, [one.value for one in UNFINISHED]).fetchall(),
                cursor.execute(_PARKED, [UNHANDLED_COUNTED_MAX]).fetchall(),
                cursor.execute(_BACKLOG).fetchone(),
                cursor.execute(_TIMERS, [at]).fetchone(),
            )

        sagas, parked, backlog, timers = await self._database.read(query)
        return StoreStatistics(
            sagas={(name, SagaStatus(status)): count for name, status, count in sagas},
            unhandled={(UnhandledKind(kind), reason): count for kind, reason, count in parked},
            backlog=backlog[0],
            backlog_since=backlog[1],
            timers_due=timers[0],
            timers_due_since=timers[1],
        )
