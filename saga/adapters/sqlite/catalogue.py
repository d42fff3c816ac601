"""The read side of the SQLite event store: what people and tools ask."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from saga.adapters.mapper import originator_of, saga_id_of, to_entries
from saga.adapters.rows import to_parked, to_summary
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.statements import ManyRows
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.status import SagaStatus
from saga.ports.store import DueTimer, SagaSummary, UnhandledKind, UnhandledRecord

LOG_PAGE_TURNS: Final = 500

_SUMMARY: Final = (
    "SELECT i.saga_id, definition, definition_version, key, status, started_at, updated_at, "
    "waiting_for, reason, version FROM saga_index AS i"
)
_SUMMARIES: Final = ManyRows(
    f"{_SUMMARY} JOIN stored_events AS e ON i.position = e.rowid "
    "WHERE e.originator_version = 1 AND e.originator_id IN {rows}",
    1,
)
_FIRST_ENTRY: Final = (
    "SELECT rowid FROM stored_events WHERE originator_id = ? AND originator_version = 1"
)


class SqliteCatalogue:
    """The catalogue of the event store in the file of *database*."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def sagas(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        after: SagaId | None = None,
        limit: int = 100,
    ) -> Sequence[SagaSummary]:
        """Summaries in order of start, beginning after the saga *after*."""
        conditions, values = ["true"], []
        if status is not None:
            conditions.append("status = ?")
            values.append(status.value)
            if status is not SagaStatus.COMPLETED:
                conditions.append("status <> 'completed'")  # so that the partial index serves
        if definition is not None:
            conditions.append("definition = ?")
            values.append(definition)
        if after is not None:
            conditions.append(f"position > coalesce(({_FIRST_ENTRY}), 0)")
            values.append(originator_of(after))
        sql = f"{_SUMMARY} WHERE {' AND '.join(conditions)} ORDER BY position LIMIT ?"
        rows = await self._fetch(sql, *values, limit)
        return [to_summary(row) for row in rows]

    async def summaries(self, saga_ids: Sequence[SagaId]) -> Sequence[SagaSummary]:
        """The summaries of these sagas, in their order; one that does not exist is left out."""
        keys = [(originator_of(saga_id),) for saga_id in dict.fromkeys(saga_ids)]
        rows = await self._database.read(lambda cursor: _SUMMARIES.fetch(cursor, keys))
        found = {summary.saga_id: summary for summary in map(to_summary, rows)}
        return [found[saga_id] for saga_id in dict.fromkeys(saga_ids) if saga_id in found]

    async def unhandled(
        self,
        *,
        kind: UnhandledKind | None = None,
        saga_id: SagaId | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[UnhandledRecord]:
        """Parked records in the order they were parked, beginning after the id *after*."""
        conditions = ["record_id > ?"]
        values: list[object] = [after]
        for column, value in (("kind", kind and kind.value), ("saga_id", saga_id)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        sql = (
            'SELECT kind, reason, message, topic, partition, "offset", key, value, headers, '
            "timestamp, kept_at, saga_id, record_id FROM parked "
            f"WHERE {' AND '.join(conditions)} ORDER BY record_id LIMIT ?"
        )
        return [to_parked(row) for row in await self._fetch(sql, *values, limit)]

    async def timers(self, *, limit: int = 100) -> Sequence[DueTimer]:
        """Armed timers, the earliest first."""
        sql = "SELECT timer_id, saga_id, due_at FROM timers ORDER BY due_at, timer_id LIMIT ?"
        return [
            DueTimer(TimerId(timer_id), SagaId(saga_id), Instant(due_at))
            for timer_id, saga_id, due_at in await self._fetch(sql, limit)
        ]

    async def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        """Every entry of every saga with its place in the log, in commit order.

        Raises:
            CorruptHistory: an entry cannot be read; names its saga and version.
        """
        sql = (
            "SELECT rowid, originator_id, topic, state FROM stored_events "
            "WHERE rowid > ? ORDER BY rowid LIMIT ?"
        )
        while True:
            rows = await self._fetch(sql, after, LOG_PAGE_TURNS)
            for position, originator_id, topic, state in rows:
                for entry in to_entries(saga_id_of(originator_id), topic, state):
                    yield position, entry
                after = position
            if len(rows) < LOG_PAGE_TURNS:
                return

    async def _fetch(self, sql: str, *values: object) -> list[Any]:
        def query(cursor: sqlite3.Cursor) -> list[Any]:
            return cursor.execute(sql, values).fetchall()

        return await self._database.read(query)
