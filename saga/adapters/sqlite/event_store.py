"""The event store in an SQLite file.

With a local bus on the same file, publishing is part of the append: entries, positions and records
become durable together, and there is nothing to relay.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from eventsourcing.sqlite import SQLiteCursor

from saga.adapters.mapper import originator_of, saga_id_of, to_history, to_rows
from saga.adapters.rows import check_new_sagas, covered, readable, tracking_name
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.local_bus import LocalBus
from saga.adapters.sqlite.record_log import Placed
from saga.adapters.sqlite.recorder import SagaProcessRecorder, Written
from saga.adapters.sqlite.statements import ManyRows
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.errors import AlreadyRecorded, BusUnavailable, CorruptHistory, StoreUnavailable
from saga.ports.bus import Source
from saga.ports.store import Appended, Backlog, Batch, DueTimer, History

LOAD_INLINE_SAGAS_MAX: Final = 64
"""More than these are read on another thread, so as not to hold up the event loop."""

_HISTORIES: Final = ManyRows(
    "SELECT originator_id, originator_version, topic, state FROM stored_events "
    "WHERE originator_id IN {rows} ORDER BY originator_id, originator_version",
    1,
)
_POSITIONS: Final = ManyRows(
    "SELECT application_name, notification_id FROM tracking WHERE application_name IN {rows}", 1
)


class _Result(NamedTuple):
    written: Written
    backlog_id: int | None
    placed: Placed | None


class SqliteEventStore:
    """Histories in the file of *database*, which stays its maker's to close.

    Args:
        publish_through: a bus on the same database, which gets what a batch publishes in the same
            transaction; without one the batch goes to the relay's backlog.

    Raises:
        StoreTooNew: a newer version of saga wrote the file.
        StoreUnavailable: the file cannot be read or written.
    """

    def __init__(
        self, database: SqliteDatabase, *, publish_through: LocalBus | None = None
    ) -> None:
        if publish_through is not None and publish_through.database is not database:
            raise ValueError("publish_through must be a bus on the same database")
        self._database = database
        self._bus = publish_through
        if publish_through is not None:
            publish_through.show_early()
        self.recorder = SagaProcessRecorder(database.datastore)
        """eventsourcing's view of the same tables."""
        database.migrate("event store", (self._create_tables,))

    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        """Record the whole batch in one durable transaction, or nothing of it.

        Raises:
            AlreadyRecorded: a position is not beyond the stored one of its source.
            HistoryConflict: another writer was first on some history.
            RecordsRetracted: the bus showed records before they were durable, and they are not.
            StoreUnavailable: the file cannot be written now; nothing was recorded.
            MessageTooLarge: the bus refuses a record of *outgoing*; nothing was recorded.
            TopicMissing: a topic of *outgoing* does not exist; nothing was recorded.
        """
        recorder, bus = self.recorder, self._bus
        check_new_sagas(batch)
        rows = to_rows(batch.histories)
        try:
            prepared = bus.prepare(batch.outgoing) if bus and batch.outgoing else None
        except BusUnavailable as error:
            raise StoreUnavailable(str(error)) from error

        def work(cursor: sqlite3.Cursor) -> _Result:
            if bus is not None:
                bus.memory.check(batch.positions)
            written = recorder.write(cursor, batch, rows)
            if bus is not None and prepared is not None:
                return _Result(written, None, bus.append(cursor, prepared))
            if batch.outgoing:
                return _Result(written, recorder.add_to_backlog(cursor, written, at), None)
            return _Result(written, None, None)

        def committed(result: _Result) -> None:
            recorder.remember(batch, result.written)
            if bus is not None and result.placed is not None:
                bus.memory.hand_over(result.placed)

        def landed(cursor: sqlite3.Cursor) -> bool:
            return recorder.has_landed(cursor, batch, rows)

        has_proof = bool(rows or batch.positions)
        try:
            result = await self._database.write(
                work, landed=landed if has_proof else None, committed=committed, is_last=True
            )
        except AlreadyRecorded:
            # Which of them, only the state before the attempt tells.
            stored = await self.positions(list(batch.positions))
            raise AlreadyRecorded(covered(batch.positions, stored)) from None
        return Appended(result.backlog_id)

    async def load(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, History | CorruptHistory]:
        """The whole histories, in order of version; a saga without one is left out.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """
        sagas = {originator_of(saga_id): saga_id for saga_id in saga_ids}

        def query(cursor: sqlite3.Cursor) -> dict[SagaId, History | CorruptHistory]:
            by_saga: dict[str, list[tuple[int, str, bytes]]] = {}
            for originator_id, *row in _HISTORIES.fetch(cursor, [(key,) for key in sagas]):
                by_saga.setdefault(originator_id, []).append((row[0], row[1], row[2]))
            return {
                sagas[originator_id]: to_history(sagas[originator_id], rows)
                for originator_id, rows in by_saga.items()
            }

        if len(sagas) <= LOAD_INLINE_SAGAS_MAX:
            return self._database.read_now(query)
        return await self._database.read(query)

    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        """The highest offset accounted for of each source; a source never seen is left out.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """
        names = {tracking_name(source): source for source in sources}
        found = self._database.read_now(
            lambda cursor: _POSITIONS.fetch(cursor, [(name,) for name in names])
        )
        return {names[name]: offset for name, offset in found}

    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        """Timers due at or before *until*, the earliest first.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """

        def query(cursor: sqlite3.Cursor) -> list[Any]:
            return cursor.execute(
                "SELECT timer_id, saga_id, due_at FROM timers WHERE due_at <= ? "
                "ORDER BY due_at, timer_id LIMIT ?",
                (until, limit),
            ).fetchall()

        return [
            DueTimer(TimerId(timer_id), SagaId(saga_id), Instant(due_at))
            for timer_id, saga_id, due_at in self._database.read_now(query)
        ]

    async def backlog(self, *, limit: int, after: int = 0) -> Sequence[Backlog]:
        """Batches with something to publish that nobody has said to be published, the oldest first.

        An entry that cannot be read cannot be published either and is left out; `load` names it.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """

        def query(cursor: sqlite3.Cursor) -> list[Backlog]:
            cursor.execute(
                "SELECT backlog_id, first_position, last_position, appended_at FROM backlog "
                "WHERE backlog_id > ? ORDER BY backlog_id LIMIT ?",
                (after, limit),
            )
            return [
                Backlog(backlog_id, Instant(appended_at), _entries_between(cursor, first, last))
                for backlog_id, first, last, appended_at in cursor.fetchall()
            ]

        return await self._database.read(query)

    def _create_tables(self, cursor: sqlite3.Cursor) -> None:
        self.recorder._create_table(SQLiteCursor(cursor))  # noqa: SLF001 - inside our transaction


def _entries_between(cursor: sqlite3.Cursor, first: int, last: int) -> list[Entry]:
    cursor.execute(
        "SELECT originator_id, topic, state FROM stored_events "
        "WHERE rowid BETWEEN ? AND ? ORDER BY rowid",
        (first, last),
    )
    return readable((saga_id_of(row[0]), *row[1:]) for row in cursor.fetchall())
