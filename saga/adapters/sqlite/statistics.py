"""What is counted of an event store in an SQLite file."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from typing_extensions import override

from saga.adapters.rows import COUNT_BACKLOG, to_statistics
from saga.adapters.sqlite.database import SqliteDatabase
from saga.core.identity import Instant
from saga.ports.store import (
    UNFINISHED,
    UNHANDLED_COUNTED_MAX,
    StatisticsReader,
    StoreStatistics,
)

# The index by status has all but completed sagas, and is used only where the query says so.
_COUNT_SAGAS: Final = (
    "SELECT definition, status, count(*) FROM saga_index WHERE status <> 'completed' "
    f"AND status IN ({', '.join('?' * len(UNFINISHED))}) GROUP BY definition, status"
)
_COUNT_UNHANDLED: Final = (
    "SELECT kind, reason, count(*) FROM (SELECT kind, reason FROM unhandled LIMIT ?) "
    "GROUP BY kind, reason"
)
_COUNT_TIMERS: Final = "SELECT count(*), min(due_at) FROM timers WHERE due_at <= ?"


class SqliteStatistics(StatisticsReader):
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    @override
    async def take(self, *, at: Instant) -> StoreStatistics:
        def query(cursor: sqlite3.Cursor) -> tuple[Any, Any, Any, Any]:
            return (
                cursor.execute(_COUNT_SAGAS, [status.value for status in UNFINISHED]).fetchall(),
                cursor.execute(_COUNT_UNHANDLED, [UNHANDLED_COUNTED_MAX]).fetchall(),
                cursor.execute(COUNT_BACKLOG).fetchone(),
                cursor.execute(_COUNT_TIMERS, [at]).fetchone(),
            )

        return to_statistics(*await self._database.read(query))
