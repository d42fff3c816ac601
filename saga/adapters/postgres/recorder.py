"""The event store's tables: eventsourcing's process recorder, with what must commit beside events.

The library's `stored_events` and `notification_tracking` keep their layout, so that its own tools
read them; `notification_id` is the place in the log. A saga's row in `saga_index` bears the place
of its first entry: sagas that run at the same time share pages, and order of start is order of
rows.

**No table lock.** The library locks `stored_events` for each insert until its commit, so that ids
become visible in their order. Here nobody waits for a commit that does not concern them, and a
process that freezes while it writes, or a vacuum, holds up nobody. Order is kept otherwise:

* Order within a saga: whoever appends to a history has seen the commit before it, so that its ids
  are larger. The backlog is a set of rows, each removed once it is published: there is no mark that
  could pass a row that is still to appear.
* Reading the log on from a place: each writer holds a shared advisory lock from before it takes
  ids until its end. A reader notes the last id given, waits for those who held the lock at that
  moment, and reads up to there: what is missing then will never come (`PostgresDatabase.settled`).
* Deadlocks: rows are locked in one order: positions by name, then entries by saga and version.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from eventsourcing.persistence import Notification, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresProcessRecorder
from psycopg import Cursor
from psycopg.sql import SQL

from saga.adapters.headers import encode_headers
from saga.adapters.mapper import EntryRow, originator_of
from saga.adapters.postgres import statements as sql
from saga.adapters.postgres.arrays import Array, Bigints, Blobs, Texts, Uuids
from saga.adapters.postgres.connections import Address, SagaDatastore
from saga.adapters.postgres.pipeline import Answers, Call
from saga.adapters.postgres.tables import TABLES
from saga.adapters.rows import KnownSagas, tracking_name
from saga.core.identity import Instant, SagaId
from saga.ports.store import Batch

SETTLE_POLL_S: Final = 0.005
SETTLE_TIMEOUT_S: Final = 10.0


class Written(NamedTuple):
    """What `calls` did: where sagas that are new begin in the log, and the batch's backlog id."""

    first_entries: Mapping[str, int]
    backlog_id: int | None


class SagaProcessRecorder(PostgresProcessRecorder):
    """The library's recorder of events and trackings, and our tables beside them.

    Its own methods work on the same rows and block their thread; the event store sends `calls`.
    """

    def __init__(self, datastore: SagaDatastore, address: Address) -> None:
        super().__init__(datastore)
        self.known = KnownSagas()
        lock_class, lock_key = address.lock_key("append")
        self.share_lock = f"SELECT pg_advisory_xact_lock_shared({lock_class}, {lock_key})"
        self.writers = writers_of(address)
        self.lock_table_statements = [SQL(self.share_lock)]
        # It would insert without tracking and other rows (POSTGRES_ENABLE_DB_FUNCTIONS): not here.
        self.sql_create_statements.remove(self.sql_create_pg_function_insert_events)

    def create_tables(self, cursor: Cursor[dict[str, Any]]) -> None:
        """Make the library's tables, then ours, in the transaction of *cursor*."""
        for statement in self.sql_create_statements:
            if "CREATE TYPE" in statement.as_string():
                cursor.execute(statement)
        self._create_table(cursor)
        for table in TABLES:
            cursor.execute(table)

    def calls(self, batch: Batch, rows: Sequence[EntryRow], at: Instant) -> list[Call]:
        """The statements that write *batch*, in order; *rows* are its entries, history by history.

        The one that answers `Written` is `APPEND…`. They refuse with the codes above.
        """
        calls: list[Call] = []
        if batch.positions:
            names, offsets = _trackings(batch)
            calls.append(Call(sql.ADVANCE, (names, offsets, len(batch.positions))))
        unsure = self.known.unsure(batch)
        if unsure:
            ids, versions = zip(*unsure, strict=True)
            calls.append(Call(sql.PREDECESSORS, (len(unsure), Uuids(ids), Bigints(versions))))
        if rows:
            calls.append(Call(self.share_lock, ()))
        if batch.outgoing:
            calls.append(Call(sql.APPEND_AND_PUBLISH, (*_columns(rows), int(at))))
        elif rows:
            calls.append(Call(sql.APPEND, _columns(rows)))
        if batch.summaries:
            calls.append(Call(sql.INDEX, self._index_columns(batch)))
        if batch.timers_armed:
            calls.append(Call(sql.ARM, _timer_columns(batch)))
        if batch.timers_cleared:
            calls.append(Call(sql.CLEAR, (Texts(sorted(batch.timers_cleared)),)))
        if batch.unhandled:
            calls.append(Call(sql.PARK, _parked_columns(batch)))
        if batch.handled:
            calls.append(Call(sql.UNPARK, (Bigints(sorted(batch.handled)),)))
        if batch.relayed:
            calls.append(Call(sql.RELAYED, (Bigints(sorted(batch.relayed)),)))
        return calls

    def written(self, calls: Sequence[Call], answers: Answers) -> Written:
        """What *answers* to *calls* say."""
        firsts: dict[str, int] = {}
        owed: int | None = None
        for call, answer in zip(calls, answers, strict=True):
            if call.sql in {sql.APPEND, sql.APPEND_AND_PUBLISH}:
                for originator_id, position, backlog_id in answer:
                    if originator_id is not None and position is not None:
                        firsts[originator_id.hex()] = int.from_bytes(position)
                    elif backlog_id is not None:
                        owed = int.from_bytes(backlog_id)
        return Written(firsts, owed)

    def remember(self, batch: Batch, written: Written) -> None:
        """Take note of a batch that is committed."""
        for history in batch.histories:
            saga_id = history.saga_id
            position = written.first_entries.get(originator_of(saga_id))
            if position is None:
                known = self.known.get(saga_id)
                position = known[1] if known is not None else None
            if position is not None:
                version = history.expected_version + len(history.entries)
                self.known.remember(saga_id, version, position)

    def forget(self) -> None:
        """Remember nothing: the server may be another one now, that does not have all of it."""
        self.known = KnownSagas()

    def proof(self, batch: Batch, rows: Sequence[EntryRow]) -> tuple[Call, int] | None:
        """A question, with the answer it has if *batch* is stored; None where it may be written
        twice.
        """
        if rows:
            return Call(sql.LANDED, _columns(rows)), len(rows)
        if batch.positions:
            return Call(sql.REACHED, _trackings(batch)), len(batch.positions)
        if batch.unhandled:
            place = (
                Texts(each.position.topic for each in batch.unhandled),
                Bigints(each.position.partition for each in batch.unhandled),
                Bigints(each.position.offset for each in batch.unhandled),
                Bigints(each.kept_at for each in batch.unhandled),
            )
            return Call(sql.SET_ASIDE, place), len(batch.unhandled)
        return None

    def owed(self, rows: Sequence[EntryRow]) -> Call:
        """The question for the backlog id of the stored batch of *rows*."""
        return Call(sql.OWED, (Uuids([rows[0][0]]), rows[0][1]))

    def versions(self, batch: Batch) -> Call:
        """The question for the stored versions of all histories of *batch*, by originator."""
        ids = Uuids(originator_of(each.saga_id) for each in batch.histories)
        return Call(sql.VERSIONS, (ids,))

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """The library's way in, without its retries: they turn an unclear commit into a
        conflict.
        """
        once: Any = PostgresApplicationRecorder.insert_events
        ids: Sequence[int] | None = once.__wrapped__(self, stored_events, **kwargs)
        return ids

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Notifications up to where nothing can appear any more before what was read."""
        settled = self._settled_place()
        found: Sequence[Notification] = super().select_notifications(
            start,
            limit,
            settled if stop is None else min(stop, settled),
            topics,
            inclusive_of_start=inclusive_of_start,
        )
        return found

    def _insert_stored_events(
        self, curs: Cursor[dict[str, Any]], stored_events: Sequence[StoredEvent], **_: Any
    ) -> None:
        self._lock_table(curs)
        self._notify_channel(curs)
        rows = [
            (_hex(event.originator_id), event.originator_version, event.topic, event.state)
            for event in stored_events
        ]
        curs.execute(sql.EVENTS, _columns(rows))

    def _fetch_ids_after_insert_events(
        self, curs: Cursor[dict[str, Any]], stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        ids = super()._fetch_ids_after_insert_events(curs, stored_events, **kwargs)
        # They come in the order of the rows' keys, and were given in the order of the rows.
        return None if ids is None else sorted(ids)

    def _settled_place(self) -> int:
        with self.datastore.get_connection() as connection:
            row = connection.execute(sql.LAST_PLACE).fetchone()
            last = int(row["last_value"]) if row else 0
            waiting = {each["virtualtransaction"] for each in connection.execute(self.writers)}
            deadline = time.monotonic() + SETTLE_TIMEOUT_S
            while waiting and time.monotonic() < deadline:
                time.sleep(SETTLE_POLL_S)
                waiting &= {each["virtualtransaction"] for each in connection.execute(self.writers)}
        if waiting:
            raise TimeoutError("a transaction that writes entries does not end")
        return last

    def _index_columns(self, batch: Batch) -> tuple[Array, ...]:
        rows = {each.saga_id: each for each in batch.summaries}.values()
        return (
            Bigints(self._place(each.saga_id) for each in rows),
            Uuids(originator_of(each.saga_id) for each in rows),
            Texts(each.definition for each in rows),
            Bigints(each.definition_version for each in rows),
            Texts(each.key for each in rows),
            Texts(each.status.value for each in rows),
            Bigints(each.started_at for each in rows),
            Bigints(each.updated_at for each in rows),
            Texts(each.waiting_for for each in rows),
            Texts(each.reason for each in rows),
            Bigints(each.version for each in rows),
        )

    def _place(self, saga_id: SagaId) -> int | None:
        known = self.known.get(saga_id)
        return None if known is None else known[1]


def writers_of(address: Address) -> str:
    """The question for the transactions that have taken places in the log, or are about to."""
    return sql.WRITERS.format(*address.lock_key("append"))


def _columns(rows: Sequence[EntryRow]) -> tuple[Array, ...]:
    return (
        Uuids(row[0] for row in rows),
        Bigints(row[1] for row in rows),
        Texts(row[2] for row in rows),
        Blobs(row[3] for row in rows),
    )


def _trackings(batch: Batch) -> tuple[Array, Array]:
    rows = sorted((tracking_name(source), offset) for source, offset in batch.positions.items())
    return Texts(name for name, _ in rows), Bigints(offset for _, offset in rows)


def _timer_columns(batch: Batch) -> tuple[Array, ...]:
    rows = {each.timer_id: each for each in batch.timers_armed}.values()
    return (
        Texts(each.timer_id for each in rows),
        Uuids(originator_of(each.saga_id) for each in rows),
        Bigints(each.due_at for each in rows),
    )


def _parked_columns(batch: Batch) -> tuple[Array, ...]:
    rows = batch.unhandled
    return (
        Texts(each.kind.value for each in rows),
        Texts(each.reason for each in rows),
        Texts(each.message for each in rows),
        Texts(each.position.topic for each in rows),
        Bigints(each.position.partition for each in rows),
        Bigints(each.position.offset for each in rows),
        Blobs(each.key for each in rows),
        Blobs(each.value for each in rows),
        Blobs(encode_headers(each.headers) for each in rows),
        Bigints(each.timestamp for each in rows),
        Bigints(each.kept_at for each in rows),
        Uuids(None if each.saga_id is None else originator_of(each.saga_id) for each in rows),
    )


def _hex(originator_id: UUID | str) -> str:
    return originator_id.hex if isinstance(originator_id, UUID) else originator_id
