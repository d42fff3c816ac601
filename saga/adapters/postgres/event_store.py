"""The event store in a PostgreSQL database, for any number of processes.

What a batch publishes goes to the relay's backlog in the same transaction. A commit whose answer
was lost is found out about: the session is ended, so that nothing of it can still happen, and the
stored entries are compared with ours. `append` then says what is true.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import psycopg

from saga.adapters.mapper import EntryRow, originator_of, to_history, to_rows
from saga.adapters.postgres import statements as sql
from saga.adapters.postgres.arrays import Texts, Uuids, unescaped
from saga.adapters.postgres.database import InDoubt, PostgresDatabase
from saga.adapters.postgres.failures import is_conflict_of_order, is_of_the_server, unavailable
from saga.adapters.postgres.listening import Bell, Listener
from saga.adapters.postgres.pipeline import Call
from saga.adapters.postgres.recorder import SagaProcessRecorder, Written
from saga.adapters.postgres.schema import Component, prepare
from saga.adapters.rows import covered, readable, tracking_name
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.errors import AlreadyRecorded, CorruptHistory, HistoryConflict, StoreUnavailable
from saga.ports.bus import Source
from saga.ports.store import Appended, Backlog, Batch, DueTimer

APPEND_TRIES_MAX: Final = 8
ORDER_PAUSE_S: Final = 0.02
SETTLE_TIMEOUT_S: Final = 10.0
SETTLE_PAUSE_S: Final = 0.2

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
    "SELECT b.backlog_id, b.appended_at, e.originator_id::text, e.originator_version, e.topic, "
    "e.state FROM (SELECT * FROM backlog WHERE appended_at < %s AND backlog_id > %s "
    "ORDER BY backlog_id LIMIT %s) AS b "
    "LEFT JOIN LATERAL (SELECT * FROM stored_events WHERE notification_id = ANY(b.positions) "
    "ORDER BY notification_id) AS e ON true ORDER BY b.backlog_id, e.notification_id"
)


class PostgresEventStore:
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
        self.recorder = SagaProcessRecorder(database.datastore, database.address)
        """eventsourcing's view of the same tables."""
        self._bell = Bell(database, self.recorder.channel_name)
        prepare(database.address, _event_store_tables(self.recorder), make=make)

    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        """Record the whole batch in one durable transaction, or nothing of it.

        Raises:
            AlreadyRecorded: a position is not beyond the stored one of its source.
            HistoryConflict: another writer was first on some history.
            StoreUnavailable: the database cannot be written now. Nothing was recorded, unless the
                error says that this is not known: then the positions and versions tell.
        """
        return await self.database.finish(self._append(batch, at))

    async def load(
        self, saga_ids: Sequence[SagaId]
    ) -> Mapping[SagaId, Sequence[Entry] | CorruptHistory]:
        """The whole histories, in order of version; a saga without one is left out.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """
        if not saga_ids:
            return {}
        keys = Uuids(originator_of(saga_id) for saga_id in dict.fromkeys(saga_ids))
        rows = await self.database.fetch(_HISTORIES, (keys,))
        return {
            SagaId(saga_id): to_history(SagaId(saga_id), (row[1:] for row in history))
            for saga_id, history in groupby(rows, key=itemgetter(0))
        }

    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        """The highest offset accounted for of each source; a source never seen is left out.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """
        names = {tracking_name(source): source for source in sources}
        rows = await self.database.fetch(_POSITIONS, (Texts(names),))
        return {names[unescaped(name)]: offset for name, offset in rows}

    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        """Timers due at or before *until*, the earliest first.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """
        return [
            DueTimer(TimerId(unescaped(timer_id)), SagaId(saga_id), Instant(due_at))
            for timer_id, saga_id, due_at in await self.database.fetch(_DUE, (until, limit))
        ]

    async def backlog(
        self, *, appended_before: Instant, limit: int, after: int = 0
    ) -> Sequence[Backlog]:
        """Batches with something to publish that nobody has said to be published, the oldest first.

        An entry that cannot be read cannot be published either and is left out; `load` names it.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """
        rows = await self.database.fetch(_BACKLOG, (appended_before, after, limit))
        return [
            Backlog(backlog_id, Instant(appended_at), _entries_in(entries))
            for (backlog_id, appended_at), entries in groupby(rows, key=itemgetter(0, 1))
        ]

    def appends(self, *, poll_s: float) -> AsyncGenerator[None, None]:
        """Yields at once, then whenever another process may have appended something, and at least
        every *poll_s*. Goes on while the database is away.
        """
        listener = Listener(self.database, self.recorder.channel_name, deaf_to=self._bell)
        return listener.rings(poll_s=poll_s)

    async def _append(self, batch: Batch, at: Instant) -> Appended:
        recorder = self.recorder
        rows = to_rows(batch.histories)
        failure: Exception | None = None
        for _ in range(APPEND_TRIES_MAX):
            try:
                calls = recorder.calls(batch, rows, at)
                written = recorder.written(calls, await self.database.transact(calls))
            except InDoubt as doubt:
                failure = doubt.error
                settled = await self._settle(doubt, batch, rows)
                if settled is None:
                    continue
                written = settled
            except psycopg.Error as error:
                if not is_conflict_of_order(error):
                    raise await self._explained(error, batch) from error
                failure = error
                await asyncio.sleep(random.uniform(0, ORDER_PAUSE_S))  # noqa: S311 - no secret
                continue
            recorder.remember(batch, written)
            if rows:
                self._bell.ring()
            return Appended(written.backlog_id)
        assert failure is not None
        raise unavailable(self.database.name, failure) from failure

    async def _explained(self, error: psycopg.Error, batch: Batch) -> Exception:
        """What the refusal *error* of *batch* means; nothing was recorded."""
        is_ours = error.diag.table_name == self.recorder.events_table_name
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

    async def _settle(
        self, doubt: InDoubt, batch: Batch, rows: Sequence[EntryRow]
    ) -> Written | None:
        """Find out whether *batch* is stored: what was written, or None if it is not and cannot be.

        Raises:
            StoreUnavailable: that is not known.
        """
        self.recorder.forget()
        database = self.database
        problem: StoreUnavailable | None = None
        deadline = asyncio.get_running_loop().time() + SETTLE_TIMEOUT_S
        while problem is None or asyncio.get_running_loop().time() < deadline:
            try:
                await database.end(doubt.backend)
                return await self._landed(batch, rows)
            except StoreUnavailable as error:
                problem = error
                await asyncio.sleep(SETTLE_PAUSE_S)
        raise StoreUnavailable(f"{problem}; whether it was recorded is not known") from doubt.error

    async def _landed(self, batch: Batch, rows: Sequence[EntryRow]) -> Written | None:
        proof = self.recorder.proof(batch, rows)
        if proof is None:
            return None
        question, expected = proof
        if (await self._ask(question)) != [(expected,)]:
            return None
        owed = await self._ask(self.recorder.owed(rows)) if rows and batch.outgoing else []
        return Written({}, owed[0][0] if owed else None)

    async def _moved(self, batch: Batch) -> tuple[str, ...]:
        """The sagas whose stored version is not the expected one; all, where that cannot be
        told.
        """
        stored = dict(await self._ask(self.recorder.versions(batch)))
        moved = tuple(
            each.saga_id
            for each in batch.histories
            if (stored[originator_of(each.saga_id)] or 0) != each.expected_version
        )
        return moved or tuple(each.saga_id for each in batch.histories)

    async def _ask(self, question: Call) -> list[Any]:
        return await self.database.fetch(question.sql, question.parameters)


def components(database: PostgresDatabase) -> list[Component]:
    """Everything that saga keeps in *database*: each with the version that this code needs."""
    return [_event_store_tables(SagaProcessRecorder(database.datastore, database.address))]


def _event_store_tables(recorder: SagaProcessRecorder) -> Component:
    """The tables of an event store, and how they are made."""
    return Component(
        name="event store", landmark="stored_events", migrations=(recorder.create_tables,)
    )


def _entries_in(rows: Iterable[tuple[Any, ...]]) -> list[Entry]:
    found = (row[2:] for row in rows)
    return readable((SagaId(saga_id), *rest) for saga_id, *rest in found if saga_id is not None)
