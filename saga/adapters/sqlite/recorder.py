"""The event store's tables: eventsourcing's process recorder, with what must commit beside events.

The library's `stored_events` and `tracking` keep their layout, so that its own tools read them. In
`stored_events` the rowid is the place in the log. A saga's row in `saga_index` bears the place of
its first entry: sagas that run at the same time share pages, and order of start is order of rows.

`write` is the whole transaction of a batch; it runs in the writer thread as a job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import SQLiteCursor, SQLiteProcessRecorder

from saga.adapters.headers import encode_headers
from saga.adapters.mapper import TurnRow, originator_of
from saga.adapters.rows import KnownSagas, tracking_name
from saga.adapters.sqlite.connections import SagaDatastore
from saga.adapters.sqlite.statements import ManyRows
from saga.core.identity import Instant, SagaId
from saga.errors import AlreadyRecorded, HistoryConflict
from saga.ports.bus import Source
from saga.ports.store import Batch

TABLES: Final = (
    (
        "CREATE TABLE saga_index (position INTEGER PRIMARY KEY, saga_id TEXT NOT NULL, "
        "definition TEXT NOT NULL, definition_version INTEGER NOT NULL, key TEXT NOT NULL, "
        "status TEXT NOT NULL, started_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, "
        "waiting_for TEXT, reason TEXT, version INTEGER NOT NULL)"
    ),
    # Nearly all sagas are completed, and finding those needs no index.
    "CREATE INDEX saga_index_by_status ON saga_index (status) WHERE status <> 'completed'",
    (
        "CREATE TABLE timers (timer_id TEXT PRIMARY KEY, saga_id TEXT NOT NULL, "
        "due_at INTEGER NOT NULL) WITHOUT ROWID"
    ),
    "CREATE INDEX timers_by_due_at ON timers (due_at)",
    # Ids are never given twice: a late word about an old one must not hit a new one.
    (
        "CREATE TABLE parked (record_id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, "
        "reason TEXT NOT NULL, message TEXT NOT NULL, topic TEXT NOT NULL, "
        'partition INTEGER NOT NULL, "offset" INTEGER NOT NULL, key BLOB, value BLOB, '
        "headers BLOB NOT NULL, timestamp INTEGER NOT NULL, "
        "kept_at INTEGER NOT NULL, saga_id TEXT)"
    ),
    "CREATE INDEX parked_by_saga ON parked (saga_id) WHERE saga_id IS NOT NULL",
    (
        "CREATE TABLE backlog (backlog_id INTEGER PRIMARY KEY AUTOINCREMENT, "
        "first_position INTEGER NOT NULL, last_position INTEGER NOT NULL, "
        "appended_at INTEGER NOT NULL)"
    ),
)

# OR FAIL: a job that fails is rolled back whole, so SQLite need not remember every page that a
# statement of many rows changes. That is a fifth to a third of the time of an insert.
_EVENTS: Final = ManyRows("INSERT OR FAIL INTO stored_events VALUES {values}", 4)
_TRACKINGS: Final = ManyRows(
    "INSERT OR FAIL INTO tracking VALUES {values} "
    "ON CONFLICT (application_name) DO UPDATE SET notification_id = excluded.notification_id "
    "WHERE notification_id < excluded.notification_id",
    2,
)
_PREDECESSORS: Final = ManyRows(
    "SELECT count(*) FROM {rows} AS r WHERE EXISTS (SELECT 1 FROM stored_events "
    "WHERE originator_id = r.column1 AND originator_version = r.column2)",
    2,
)
_VERSIONS: Final = ManyRows(
    "SELECT r.column1, (SELECT max(originator_version) FROM stored_events "
    "WHERE originator_id = r.column1) FROM {rows} AS r",
    1,
)
_FIRSTS: Final = ManyRows(
    "SELECT r.column1, e.rowid FROM {rows} AS r JOIN stored_events AS e "
    "ON e.originator_id = r.column1 AND e.originator_version = 1",
    1,
)
_INDEX: Final = ManyRows(
    "INSERT OR FAIL INTO saga_index VALUES {values} ON CONFLICT (position) DO UPDATE SET "
    "definition = excluded.definition, definition_version = excluded.definition_version, "
    "key = excluded.key, status = excluded.status, started_at = excluded.started_at, "
    "updated_at = excluded.updated_at, waiting_for = excluded.waiting_for, "
    "reason = excluded.reason, version = excluded.version",
    11,
)
_ARM: Final = ManyRows("INSERT OR REPLACE INTO timers VALUES {values}", 3)
_CLEAR: Final = ManyRows("DELETE FROM timers WHERE timer_id IN {rows}", 1)
_PARK: Final = ManyRows(
    'INSERT INTO parked (kind, reason, message, topic, partition, "offset", key, value, headers, '
    "timestamp, kept_at, saga_id) VALUES {values}",
    12,
)
_UNPARK: Final = ManyRows("DELETE FROM parked WHERE record_id IN {rows}", 1)
_RELAYED: Final = ManyRows("DELETE FROM backlog WHERE backlog_id IN {rows}", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What `write` did: places in the log, and the places of sagas' first entries."""

    first_position: int
    last_position: int
    first_entries: Mapping[SagaId, int]


class SagaProcessRecorder(SQLiteProcessRecorder):
    """The library's recorder of events and trackings, and our tables beside them."""

    def __init__(self, datastore: SagaDatastore) -> None:
        super().__init__(datastore)
        self.known: KnownSagas[int] = KnownSagas()

    def construct_create_table_statements(self) -> list[str]:
        """The library's tables, then ours."""
        return [*super().construct_create_table_statements(), *TABLES]

    def write(self, cursor: sqlite3.Cursor, batch: Batch, rows: Sequence[TurnRow]) -> Written:
        """Write all of *batch* but what it publishes; *rows* are its turns, history by history.

        Raises:
            AlreadyRecorded: a position is not beyond the stored one; names all of the batch.
            HistoryConflict: a history is not where the batch expects it.
        """
        _advance(cursor, batch.positions)
        self._check_predecessors(cursor, batch)
        try:
            first, last = self._insert_rows(cursor, rows)
        except sqlite3.IntegrityError as error:
            moved = _moved(cursor, batch)
            if not moved:
                raise
            raise HistoryConflict(moved) from error
        firsts = self._first_entries(cursor, batch, first)
        _INDEX.execute(cursor, _index_rows(batch, firsts))
        _ARM.execute(cursor, [(t.timer_id, t.saga_id, t.due_at) for t in batch.timers_armed])
        _CLEAR.execute(cursor, [(timer_id,) for timer_id in batch.timers_cleared])
        if batch.unhandled:
            _PARK.execute(cursor, _parked_rows(batch))
        _UNPARK.execute(cursor, [(record_id,) for record_id in batch.handled])
        _RELAYED.execute(cursor, [(backlog_id,) for backlog_id in batch.relayed])
        return Written(first_position=first, last_position=last, first_entries=firsts)

    def add_to_backlog(self, cursor: sqlite3.Cursor, written: Written, at: Instant) -> int:
        """Remember that the entries just written are to be published, and return the backlog's
        id.
        """
        cursor.execute(
            "INSERT INTO backlog (first_position, last_position, appended_at) VALUES (?, ?, ?)",
            (written.first_position, written.last_position, at),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def remember(self, batch: Batch, written: Written) -> None:
        """Take note of a batch that is committed."""
        for history in batch.histories:
            position = written.first_entries.get(history.saga_id)
            if position is not None:
                turns = history.expected_turns + len(history.turns)
                self.known.remember(history.saga_id, turns, position)

    def has_landed(self, cursor: sqlite3.Cursor, batch: Batch, rows: Sequence[TurnRow]) -> bool:
        """Whether *batch* is stored, judging by its first entry or position."""
        if rows:
            originator_id, version, topic, state = rows[0]
            cursor.execute(
                "SELECT topic, state FROM stored_events "
                "WHERE originator_id = ? AND originator_version = ?",
                (originator_id, version),
            )
            return bool(cursor.fetchone() == (topic, state))
        source, offset = next(iter(batch.positions.items()))
        cursor.execute(
            "SELECT notification_id FROM tracking WHERE application_name = ?",
            (tracking_name(source),),
        )
        return bool(cursor.fetchone() == (offset,))

    def _insert_events(
        self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """The library's way in: many rows in one statement, then its *tracking*, if there is
        one.
        """
        rows = [
            (_hex(event.originator_id), event.originator_version, event.topic, event.state)
            for event in stored_events
        ]
        first, last = self._insert_rows(c.sqlite_cursor, rows)
        tracking = kwargs.get("tracking")
        if tracking is not None:
            self._insert_tracking(c, tracking)
        return range(first, last + 1)

    def _insert_rows(self, cursor: sqlite3.Cursor, rows: Sequence[TurnRow]) -> tuple[int, int]:
        if not rows:
            row = cursor.execute("SELECT coalesce(max(rowid), 0) FROM stored_events").fetchone()
            return row[0] + 1, row[0]
        _EVENTS.execute(cursor, rows)
        last = cursor.lastrowid
        assert last is not None
        return last - len(rows) + 1, last

    def _check_predecessors(self, cursor: sqlite3.Cursor, batch: Batch) -> None:
        """See that each expected version is there."""
        unsure = self.known.unsure(batch)
        if unsure:
            found = sum(count for (count,) in _PREDECESSORS.fetch(cursor, unsure))
            if found < len(unsure):
                raise HistoryConflict(_moved(cursor, batch))

    def _first_entries(
        self, cursor: sqlite3.Cursor, batch: Batch, first_position: int
    ) -> dict[SagaId, int]:
        """The places of the first entries of all sagas in *batch* whose index rows are to be
        written.
        """
        found: dict[SagaId, int] = {}
        position = first_position
        for history in batch.histories:
            if history.expected_turns == 0:
                found[history.saga_id] = position
            position += len(history.turns)
        unknown: dict[str, SagaId] = {}
        for summary in batch.summaries:
            saga_id = summary.saga_id
            if saga_id in found:
                continue
            known = self.known.get(saga_id)
            if known is not None:
                found[saga_id] = known[1]
            else:
                unknown[originator_of(saga_id)] = saga_id
        if unknown:
            for originator_id, first in _FIRSTS.fetch(cursor, [(key,) for key in unknown]):
                found[unknown[originator_id]] = first
        return found


def _advance(cursor: sqlite3.Cursor, positions: Mapping[Source, int]) -> None:
    rows = [(tracking_name(source), offset) for source, offset in positions.items()]
    if _TRACKINGS.execute(cursor, rows) < len(rows):
        raise AlreadyRecorded(tuple(f"{topic}:{partition}" for topic, partition in positions))


def _moved(cursor: sqlite3.Cursor, batch: Batch) -> tuple[str, ...]:
    """The sagas whose stored version is not the expected one."""
    sagas = {originator_of(history.saga_id): history for history in batch.histories}
    versions = _VERSIONS.fetch(cursor, [(originator_id,) for originator_id in sagas])
    return tuple(
        sagas[originator_id].saga_id
        for originator_id, version in versions
        if (version or 0) != sagas[originator_id].expected_turns
    )


def _index_rows(batch: Batch, positions: Mapping[SagaId, int]) -> list[tuple[Any, ...]]:
    return [
        (
            positions[summary.saga_id],
            summary.saga_id,
            summary.definition,
            summary.definition_version,
            summary.key,
            summary.status.value,
            summary.started_at,
            summary.updated_at,
            summary.waiting_for,
            summary.reason,
            summary.version,
        )
        for summary in batch.summaries
    ]


def _parked_rows(batch: Batch) -> list[tuple[Any, ...]]:
    return [
        (
            record.kind.value,
            record.reason,
            record.message,
            *record.position,
            record.key,
            record.value,
            encode_headers(record.headers),
            record.timestamp,
            record.kept_at,
            record.saga_id,
        )
        for record in batch.unhandled
    ]


def _hex(originator_id: UUID | str) -> str:
    return originator_id.hex if isinstance(originator_id, UUID) else originator_id
