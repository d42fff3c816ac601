"""The event store in a PostgreSQL database, for any number of processes, and its read side.

What a batch publishes goes to the relay's backlog in the same transaction. A commit whose answer
was lost is found out about: the session is ended, so that nothing of it can still happen, and the
stored entries are compared with ours. `append` then tells what is true.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from typing_extensions import override

from saga.adapters.mapper import TurnRow, originator_of, to_entries, to_history, to_rows
from saga.adapters.postgres import statements as sql
from saga.adapters.postgres.database import PostgresDatabase, is_of_the_server, unavailable
from saga.adapters.postgres.notifier import Notifier
from saga.adapters.postgres.pipeline import Answers, Call, Texts, Uuids, escaped, unescaped
from saga.adapters.postgres.schema import event_store_tables, prepare
from saga.adapters.rows import (
    KnownSagas,
    check_new_sagas,
    covered,
    readable,
    to_parked,
    to_summary,
    tracking_name,
)
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.status import SagaStatus
from saga.errors import AlreadyRecorded, CorruptHistory, HistoryConflict
from saga.ports.bus import Source
from saga.ports.store import (
    UNFINISHED,
    UNHANDLED_COUNTED_MAX,
    Appended,
    Backlog,
    Batch,
    Catalogue,
    DueTimer,
    EventStore,
    History,
    SagaSummary,
    StatisticsReader,
    StoreStatistics,
    TellsOfAppends,
    UnhandledKind,
    UnhandledRecord,
)

LOG_PAGE_TURNS: Final = 2_000

_UNIQUE_VIOLATION: Final = "23505"
_LOCK_TIMEOUT: Final = "55P03"
_HISTORIES: Final = (
    "SELECT originator_id::text, originator_version, topic, state FROM stored_events "
    "WHERE originator_id = ANY(%s::uuid[]) ORDER BY originator_id, originator_version"
)
_POSITIONS: Final = (
    "SELECT application_name, notification_id FROM notification_tracking "
    "WHERE application_name = ANY(%s::text[])"
)
_DUE: Final = (
    "SELECT timer_id, saga_id::text, due_at FROM timers WHERE due_at <= %s "
    "ORDER BY due_at, timer_id LIMIT %s"
)
_BACKLOG: Final = (
    "SELECT b.backlog_id, b.appended_at, e.originator_id::text, e.topic, "
    "e.state FROM (SELECT * FROM backlog WHERE backlog_id > %s "
    "ORDER BY backlog_id LIMIT %s) AS b "
    "LEFT JOIN LATERAL (SELECT * FROM stored_events WHERE notification_id = ANY(b.positions) "
    "ORDER BY notification_id) AS e ON true ORDER BY b.backlog_id, e.notification_id"
)


class Written(NamedTuple):
    """What was written: where sagas that are new begin in the log, and the batch's backlog id."""

    first_entries: Mapping[str, int]
    backlog_id: int | None


class PostgresEventStore(EventStore, TellsOfAppends):
    """Histories in *database*, which stays its maker's to close.

    Making one blocks for some milliseconds, and longer where the tables are to be made first.

    Args:
        make: whether to make the tables where there are none.

    Raises:
        StoreTooNew: a newer version of saga wrote the database.
        StoreUnavailable: it cannot be reached, or is to be migrated first.
    """

    def __init__(self, database: PostgresDatabase, *, make: bool = True) -> None:
        self.database = database
        self._lock = sql.share_lock(database.address.lock_key("append"))
        self._known = KnownSagas()
        self._notifier = Notifier(database, sql.CHANNEL)
        prepare(database.address, event_store_tables(database.address), make=make)

    @override
    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        return await self.database.finish(self._append(batch, at))

    @override
    async def load(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, History | CorruptHistory]:
        if not saga_ids:
            return {}
        keys = Uuids(originator_of(saga_id) for saga_id in dict.fromkeys(saga_ids))
        rows = await self.database.fetch(_HISTORIES, (keys,))
        return {
            SagaId(saga_id): to_history(SagaId(saga_id), (row[1:] for row in history))
            for saga_id, history in groupby(rows, key=itemgetter(0))
        }

    @override
    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        names = {tracking_name(source): source for source in sources}
        rows = await self.database.fetch(_POSITIONS, (Texts(names),))
        return {names[unescaped(name)]: offset for name, offset in rows}

    @override
    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        return [_timer(row) for row in await self.database.fetch(_DUE, (until, limit))]

    @override
    async def backlog(self, *, limit: int, after: int = 0) -> Sequence[Backlog]:
        rows = await self.database.fetch(_BACKLOG, (after, limit))
        return [
            Backlog(backlog_id, Instant(appended_at), _entries_in(entries))
            for (backlog_id, appended_at), entries in groupby(rows, key=itemgetter(0, 1))
        ]

    @override
    def appends(self, *, poll_s: float) -> AsyncGenerator[None, None]:
        return self._notifier.appends(poll_s=poll_s)

    async def _append(self, batch: Batch, at: Instant) -> Appended:
        check_new_sagas(batch)
        rows = to_rows(batch.histories)
        calls: list[Call] = []

        def next_try() -> list[Call]:
            calls[:] = sql.calls_of(batch, rows, self._known, at=at, lock=self._lock)
            return calls

        try:
            answers = await self.database.commit(
                next_try, has_landed=partial(self._has_landed, batch, rows)
            )
        except psycopg.Error as error:
            raise await self._explained(error, batch) from error
        written = await self._found(batch, rows) if answers is None else _written(calls, answers)
        self._remember(batch, written)
        if rows:
            self._notifier.notify()
        return Appended(written.backlog_id)

    async def _explained(self, error: psycopg.Error, batch: Batch) -> Exception:
        """What the refusal *error* of *batch* means; nothing was recorded."""
        is_ours = error.diag.table_name == "stored_events"
        if error.sqlstate == sql.ALREADY_RECORDED:
            stored = await self.positions(list(batch.positions))
            return AlreadyRecorded(covered(batch.positions, stored))
        if error.sqlstate == sql.HISTORY_CONFLICT or (
            error.sqlstate == _UNIQUE_VIOLATION and is_ours
        ):
            return HistoryConflict(await self._moved(batch))
        if error.sqlstate == _LOCK_TIMEOUT:
            await self.database.end_frozen()
        return unavailable(self.database.name, error) if is_of_the_server(error) else error

    async def _has_landed(self, batch: Batch, rows: Sequence[TurnRow]) -> bool:
        self._known = KnownSagas()  # the server may be another one now, that has not all of it
        return await self._is_stored(batch, rows)

    async def _is_stored(self, batch: Batch, rows: Sequence[TurnRow]) -> bool:
        proof = sql.proof_of(batch, rows)
        if proof is None:
            return False
        question, expected = proof
        return await self.database.fetch(*question) == [(expected,)]

    async def _found(self, batch: Batch, rows: Sequence[TurnRow]) -> Written:
        """What was written of *batch*, which is stored."""
        if not rows or not batch.outgoing:
            return Written({}, None)
        first, version, *_ = rows[0]
        owed = await self.database.fetch(sql.OWED, (Uuids([first]), version))
        return Written({}, owed[0][0] if owed else None)

    async def _moved(self, batch: Batch) -> tuple[str, ...]:
        """The sagas whose stored version is not the expected one; all, where that is not clear."""
        ids = Uuids(originator_of(each.saga_id) for each in batch.histories)
        stored = dict(await self.database.fetch(sql.VERSIONS, (ids,)))
        moved = tuple(
            each.saga_id
            for each in batch.histories
            if (stored[originator_of(each.saga_id)] or 0) != each.expected_turns
        )
        return moved or tuple(each.saga_id for each in batch.histories)

    def _remember(self, batch: Batch, written: Written) -> None:
        for history in batch.histories:
            saga_id = history.saga_id
            position = written.first_entries.get(originator_of(saga_id))
            if position is None:
                known = self._known.get(saga_id)
                position = known[1] if known is not None else None
            if position is not None:
                turns = history.expected_turns + len(history.turns)
                self._known.remember(saga_id, turns, position)


def _written(calls: Sequence[Call], answers: Answers) -> Written:
    """What *answers* to *calls* tell."""
    firsts: dict[str, int] = {}
    owed: int | None = None
    for call, answer in zip(calls, answers, strict=True):
        if call.text in sql.APPENDS:
            for originator_id, position, backlog_id in answer:
                if originator_id is not None and position is not None:
                    firsts[originator_id.hex()] = int.from_bytes(position)
                elif backlog_id is not None:
                    owed = int.from_bytes(backlog_id)
    return Written(firsts, owed)


def _entries_in(rows: Iterable[tuple[Any, ...]]) -> list[Entry]:
    entries = (row[2:] for row in rows)
    return readable((SagaId(saga_id), *rest) for saga_id, *rest in entries if saga_id is not None)


# What people and tools ask.

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
    "SELECT notification_id, originator_id::text, topic, state "
    "FROM stored_events WHERE notification_id > %s AND notification_id <= %s "
    "ORDER BY notification_id LIMIT %s"
)
_UNHANDLED: Final = (
    'SELECT kind, reason, message, topic, partition, "offset", key, value, headers, '
    "timestamp, kept_at, saga_id::text, record_id FROM parked"
)
_TIMERS: Final = (
    "SELECT timer_id, saga_id::text, due_at FROM timers ORDER BY due_at, timer_id LIMIT %s"
)


class PostgresCatalogue(Catalogue):
    """The catalogue of the event store in *database*."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._writers = sql.writers(database.address.lock_key("append"))

    @override
    async def sagas(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        after: SagaId | None = None,
        limit: int = 100,
    ) -> Sequence[SagaSummary]:
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

    @override
    async def summaries(self, saga_ids: Sequence[SagaId]) -> Sequence[SagaSummary]:
        wanted = dict.fromkeys(saga_ids)
        keys = Uuids(originator_of(saga_id) for saga_id in wanted)
        rows = await self._database.fetch(_SUMMARIES, (keys,))
        summaries = {summary.saga_id: summary for summary in map(_summary, rows)}
        return [summaries[saga_id] for saga_id in wanted if saga_id in summaries]

    @override
    async def unhandled(
        self,
        *,
        kind: UnhandledKind | None = None,
        saga_id: SagaId | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[UnhandledRecord]:
        conditions = ["record_id > %s"]
        values: list[object] = [after]
        if kind is not None:
            conditions.append("kind = %s")
            values.append(kind.value)
        if saga_id is not None:
            conditions.append("saga_id = %s::uuid")
            values.append(originator_of(saga_id))
        query = f"{_UNHANDLED} WHERE {' AND '.join(conditions)} ORDER BY record_id LIMIT %s"
        rows = await self._database.fetch(query, (*values, limit))
        return [to_parked(row, text=unescaped) for row in rows]

    @override
    async def timers(self, *, limit: int = 100) -> Sequence[DueTimer]:
        return [_timer(row) for row in await self._database.fetch(_TIMERS, (limit,))]

    @override
    async def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        # Ends at the last place that was taken when it began; nothing will appear before that.
        last = await self._settled_place()
        while True:
            rows = await self._database.fetch(_LOG, (after, last, LOG_PAGE_TURNS))
            for position, saga_id, topic, state in rows:
                for entry in to_entries(SagaId(saga_id), topic, state):
                    yield position, entry
                after = position
            if len(rows) < LOG_PAGE_TURNS:
                return

    async def _settled_place(self) -> int:
        rows = await self._database.fetch(sql.LAST_PLACE)
        if not rows:
            return 0
        await self._database.ended(self._writers)
        return int(rows[0][0])


def _summary(row: Sequence[Any]) -> SagaSummary:
    return to_summary(row, text=unescaped)


def _timer(row: Sequence[Any]) -> DueTimer:
    timer_id, saga_id, due_at = row
    return DueTimer(TimerId(unescaped(timer_id)), SagaId(saga_id), Instant(due_at))


# What is counted.

# The index by status has all but completed sagas, and is used only where the query says so.
_SAGAS_COUNTED: Final[LiteralString] = (
    "SELECT definition, status, count(*) FROM saga_index WHERE status <> 'completed' "
    "AND status = ANY(%s::text[]) GROUP BY definition, status"
)
_UNHANDLED_COUNTED: Final[LiteralString] = (
    "SELECT kind, reason, count(*) FROM (SELECT kind, reason FROM parked LIMIT %s) AS few "
    "GROUP BY kind, reason"
)
_BACKLOG_COUNTED: Final[LiteralString] = "SELECT count(*), min(appended_at) FROM backlog"
_TIMERS_COUNTED: Final[LiteralString] = (
    "SELECT count(*), min(due_at) FROM timers WHERE due_at <= %s"
)


class PostgresStatistics(StatisticsReader):
    """Counts what is in the event store in *database*."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    @override
    async def take(self, *, at: Instant) -> StoreStatistics:
        fetch = self._database.fetch
        sagas = await fetch(_SAGAS_COUNTED, ([status.value for status in UNFINISHED],))
        unhandled = await fetch(_UNHANDLED_COUNTED, (UNHANDLED_COUNTED_MAX,))
        [(backlog, backlog_since)] = await fetch(_BACKLOG_COUNTED)
        [(timers_due, timers_due_since)] = await fetch(_TIMERS_COUNTED, (int(at),))
        return StoreStatistics(
            sagas={(name, SagaStatus(status)): count for name, status, count in sagas},
            unhandled={(UnhandledKind(kind), reason): count for kind, reason, count in unhandled},
            backlog=backlog,
            backlog_since=_instant(backlog_since),
            timers_due=timers_due,
            timers_due_since=_instant(timers_due_since),
        )


def _instant(value: Any) -> Instant | None:
    return None if value is None else Instant(value)
