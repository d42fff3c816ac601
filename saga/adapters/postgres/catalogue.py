"""The read side of the PostgreSQL event store: what people and tools ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from saga.adapters.mapper import originator_of, to_entry
from saga.adapters.postgres.arrays import Uuids, escaped, unescaped
from saga.adapters.postgres.database import PostgresDatabase
from saga.adapters.postgres.recorder import writers_of
from saga.adapters.rows import to_parked, to_summary
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.status import SagaStatus
from saga.ports.store import DueTimer, SagaSummary, UnhandledKind, UnhandledRecord

LOG_PAGE_ENTRIES: Final = 2_000

_SUMMARY: Final = (
    "SELECT i.saga_id::text, definition, definition_version, key, status, started_at, updated_at, "
    "waiting_for, reason, version FROM saga_index AS i"
)
_SUMMARIES: Final = (
    f"{_SUMMARY} WHERE position = ANY(ARRAY(SELECT notification_id FROM stored_events "
    "WHERE originator_version = 1 AND originator_id = ANY(%s::uuid[])))"
)
_FIRST_ENTRY: Final = (
    "SELECT notification_id FROM stored_events "
    "WHERE originator_id = %s::uuid AND originator_version = 1"
)
_LOG: Final = (
    "SELECT notification_id, originator_id::text, originator_version, topic, state "
    "FROM stored_events WHERE notification_id > %s AND notification_id <= %s "
    "ORDER BY notification_id LIMIT %s"
)
_PARKED: Final = (
    'SELECT kind, reason, message, topic, partition, "offset", key, value, headers, '
    "timestamp, kept_at, saga_id::text, record_id FROM parked"
)
_TIMERS: Final = (
    "SELECT timer_id, saga_id::text, due_at FROM timers ORDER BY due_at, timer_id LIMIT %s"
)


class PostgresCatalogue:
    """The catalogue of the event store in *database*."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._writers = writers_of(database.address)

    async def sagas(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        after: SagaId | None = None,
        limit: int = 100,
    ) -> Sequence[SagaSummary]:
        """Summaries in order of start, beginning after the saga *after*."""
        conditions: list[str] = ["true"]
        values: list[object] = []
        if status is not None:
            conditions.append("status = %s")
            values.append(status.value)
            if status is not SagaStatus.COMPLETED:
                conditions.append("status <> 'completed'")  # so that the partial index serves
        if definition is not None:
            conditions.append("definition = %s")
            values.append(escaped(definition))
        if after is not None:
            conditions.append(f"position > coalesce(({_FIRST_ENTRY}), 0)")
            values.append(originator_of(after))
        query = f"{_SUMMARY} WHERE {' AND '.join(conditions)} ORDER BY position LIMIT %s"
        return [_summary(row) for row in await self._database.fetch(query, (*values, limit))]

    async def summaries(self, saga_ids: Sequence[SagaId]) -> Sequence[SagaSummary]:
        """The summaries of these sagas, in their order; one that does not exist is left out."""
        wanted = dict.fromkeys(saga_ids)
        keys = Uuids(originator_of(saga_id) for saga_id in wanted)
        rows = await self._database.fetch(_SUMMARIES, (keys,))
        found = {summary.saga_id: summary for summary in map(_summary, rows)}
        return [found[saga_id] for saga_id in wanted if saga_id in found]

    async def unhandled(
        self,
        *,
        kind: UnhandledKind | None = None,
        saga_id: SagaId | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[UnhandledRecord]:
        """Parked records in the order they were parked, beginning after the id *after*."""
        conditions = ["record_id > %s"]
        values: list[object] = [after]
        if kind is not None:
            conditions.append("kind = %s")
            values.append(kind.value)
        if saga_id is not None:
            conditions.append("saga_id = %s::uuid")
            values.append(originator_of(saga_id))
        query = f"{_PARKED} WHERE {' AND '.join(conditions)} ORDER BY record_id LIMIT %s"
        return [_parked(row) for row in await self._database.fetch(query, (*values, limit))]

    async def timers(self, *, limit: int = 100) -> Sequence[DueTimer]:
        """Armed timers, the earliest first."""
        return [
            DueTimer(TimerId(unescaped(timer_id)), SagaId(saga_id), Instant(due_at))
            for timer_id, saga_id, due_at in await self._database.fetch(_TIMERS, (limit,))
        ]

    async def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        """Every entry of every saga with its place in the log, in commit order.

        Ends at the last place that was taken when it began; nothing will appear before that.

        Raises:
            CorruptHistory: an entry cannot be read; names its saga and version.
        """
        last = await self._database.settled(self._writers)
        while True:
            rows = await self._database.fetch(_LOG, (after, last, LOG_PAGE_ENTRIES))
            for position, saga_id, version, topic, state in rows:
                yield position, to_entry(SagaId(saga_id), version, topic, state)
                after = position
            if len(rows) < LOG_PAGE_ENTRIES:
                return


def _summary(row: Sequence[Any]) -> SagaSummary:
    return to_summary(row, text=unescaped)


def _parked(row: Sequence[Any]) -> UnhandledRecord:
    return to_parked(row, text=unescaped)
