"""The event store's statements: one for each table and batch, with an array for each column.

What is looked for by key is looked for in subqueries that cannot become joins: the plan of a join
may be one that reads the whole table, and stay. `%s` stands for a parameter; see `pipeline.py`.

Nobody locks a table, so ids are not in the order of commits, and need not be:

* Order within a saga: whoever appends to a history has seen the commit before it, so that its ids
  are larger. The backlog is a set of rows, each removed once it is published: there is no mark that
  could pass a row that is still to appear.
* Reading the log on from a place: see `_eventsourcing.py` and `PostgresCatalogue.log`.
* Deadlocks: rows are locked in one order, positions by name, then entries by saga and version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from saga.adapters.headers import encode_headers
from saga.adapters.mapper import TurnRow, originator_of
from saga.adapters.postgres.pipeline import Array, Bigints, Blobs, Call, Texts, Uuids, call_of
from saga.adapters.rows import KnownSagas, tracking_name
from saga.core.identity import Instant, SagaId
from saga.ports.store import Batch

Question = tuple[str, tuple[Any, ...]]
"""A query and its parameters."""

CHANNEL: Final = "stored_events"
"""Where appends are notified: as the library calls it."""
ALREADY_RECORDED: Final = "SG001"
HISTORY_CONFLICT: Final = "SG002"

ADVANCE: Final = (
    "WITH moved AS (INSERT INTO notification_tracking "
    "SELECT * FROM unnest(%s::text[], %s::bigint[]) ON CONFLICT (application_name) DO UPDATE "
    "SET notification_id = excluded.notification_id "
    "WHERE notification_tracking.notification_id < excluded.notification_id RETURNING 1) "
    f"SELECT saga_expect((SELECT count(*) FROM moved), %s::bigint, '{ALREADY_RECORDED}')"
)
PREDECESSORS: Final = (
    "SELECT saga_expect(count(*), %s::bigint, "
    f"'{HISTORY_CONFLICT}') FROM unnest(%s::uuid[], %s::bigint[]) AS r (id, version) "
    "WHERE (SELECT true FROM stored_events WHERE originator_id = r.id "
    "AND originator_version = r.version)"
)
EVENTS: Final = (
    "INSERT INTO stored_events "
    "(originator_id, originator_version, topic, state, notification_id) "
    "SELECT id, version, topic, state, place FROM ("
    "SELECT *, nextval('stored_events_notification_id_seq') AS place "
    "FROM unnest(%s::uuid[], %s::bigint[], %s::text[], %s::bytea[]) "
    "AS r (id, version, topic, state)) AS placed ORDER BY id, version "
    "RETURNING originator_id, originator_version, notification_id"
)
APPEND: Final = (
    f"WITH written AS ({EVENTS}) "
    "SELECT originator_id, notification_id, NULL::bigint "
    "FROM written WHERE originator_version = 1"
)
APPEND_AND_PUBLISH: Final = (
    f"WITH written AS ({EVENTS}), owed AS (INSERT INTO backlog (positions, appended_at) "
    "SELECT coalesce(array_agg(notification_id ORDER BY notification_id), '{}'), %s::bigint "
    "FROM written RETURNING backlog_id) "
    f"SELECT originator_id, notification_id, NULL::bigint "
    "FROM written WHERE originator_version = 1 "
    "UNION ALL SELECT NULL, NULL, backlog_id FROM owed"
)
APPENDS: Final = frozenset(call_of(sql).text for sql in (APPEND, APPEND_AND_PUBLISH))
"""They answer with originator and place of each new saga's first entry, and the backlog id."""
INDEX: Final = (
    "INSERT INTO saga_index SELECT coalesce(r.position, (SELECT notification_id "
    "FROM stored_events WHERE originator_id = r.saga_id AND originator_version = 1)), "
    "r.saga_id, r.definition, r.definition_version, r.key, r.status, r.started_at, r.updated_at, "
    "r.waiting_for, r.reason, r.version FROM unnest(%s::bigint[], %s::uuid[], %s::text[], "
    "%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], "
    "%s::bigint[]) AS r (position, saga_id, definition, definition_version, key, status, "
    "started_at, updated_at, waiting_for, reason, version) ON CONFLICT (position) DO UPDATE SET "
    "definition = excluded.definition, definition_version = excluded.definition_version, "
    "key = excluded.key, status = excluded.status, started_at = excluded.started_at, "
    "updated_at = excluded.updated_at, waiting_for = excluded.waiting_for, "
    "reason = excluded.reason, version = excluded.version"
)
ARM: Final = (
    "INSERT INTO timers SELECT * FROM unnest(%s::text[], %s::uuid[], %s::bigint[]) "
    "ON CONFLICT (timer_id) DO UPDATE SET saga_id = excluded.saga_id, due_at = excluded.due_at"
)
CLEAR: Final = "DELETE FROM timers WHERE timer_id = ANY(%s::text[])"
KEEP_UNHANDLED: Final = (
    'INSERT INTO parked (kind, reason, message, topic, partition, "offset", key, value, headers, '
    "timestamp, kept_at, saga_id) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], "
    "%s::text[], %s::bigint[], %s::bigint[], %s::bytea[], %s::bytea[], %s::bytea[], %s::bigint[], "
    "%s::bigint[], %s::uuid[])"
)
REMOVE_HANDLED: Final = "DELETE FROM parked WHERE record_id = ANY(%s::bigint[])"
RELAYED: Final = "DELETE FROM backlog WHERE backlog_id = ANY(%s::bigint[])"
LANDED: Final = (
    "SELECT count(*) FROM unnest(%s::uuid[], %s::bigint[], %s::text[], %s::bytea[]) "
    "AS r (id, version, topic, state) WHERE (SELECT e.topic = r.topic AND e.state = r.state "
    "FROM stored_events AS e WHERE e.originator_id = r.id AND e.originator_version = r.version)"
)
REACHED: Final = (
    "SELECT count(*) FROM unnest(%s::text[], %s::bigint[]) AS r (name, id) "
    "WHERE (SELECT notification_id = r.id FROM notification_tracking "
    "WHERE application_name = r.name)"
)
UNHANDLED: Final = (
    "SELECT count(*) FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[]) "
    "AS r (topic, partition, place, at) WHERE EXISTS (SELECT 1 FROM parked AS p "
    "WHERE p.topic = r.topic AND p.partition = r.partition "
    'AND p."offset" = r.place AND p.kept_at = r.at)'
)
OWED: Final = (
    "SELECT backlog_id FROM backlog WHERE positions @> (SELECT ARRAY[notification_id] "
    "FROM stored_events WHERE originator_id = ANY(%s::uuid[]) AND originator_version = %s::bigint)"
)
VERSIONS: Final = (
    "SELECT replace(r.id::text, '-', ''), (SELECT max(originator_version) FROM stored_events "
    "WHERE originator_id = r.id) FROM unnest(%s::uuid[]) AS r (id)"
)
LAST_PLACE: Final = "SELECT last_value FROM stored_events_notification_id_seq WHERE is_called"
_WRITERS: Final = (
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND classid = ({}::bigint & 4294967295)::oid AND objid = ({}::bigint & 4294967295)::oid "
    "AND objsubid = 2 AND mode = 'ShareLock'"
)


def share_lock(key: tuple[int, int]) -> str:
    """The statement that says that this transaction is about to take places in the log."""
    return "SELECT pg_advisory_xact_lock_shared({}, {})".format(*key)


def writers(key: tuple[int, int]) -> str:
    """The question for the transactions that have taken places in the log, or are about to."""
    return _WRITERS.format(*key)


def calls_of(
    batch: Batch, rows: Sequence[TurnRow], known: KnownSagas, *, at: Instant, lock: str
) -> list[Call]:
    """The statements that write *batch*, in order; *rows* are its turns, history by history.

    They refuse it with the codes above. The one that tells what was written is that of `APPENDS`.
    """
    calls: list[Call] = []
    if batch.positions:
        calls.append(call_of(ADVANCE, *_trackings(batch), len(batch.positions)))
    unsure = known.unsure(batch)
    if unsure:
        ids, versions = zip(*unsure, strict=True)
        calls.append(call_of(PREDECESSORS, len(unsure), Uuids(ids), Bigints(versions)))
    if rows:
        calls.append(call_of(lock))
    if batch.outgoing:
        calls.append(call_of(APPEND_AND_PUBLISH, *event_columns(rows), int(at)))
    elif rows:
        calls.append(call_of(APPEND, *event_columns(rows)))
    if batch.summaries:
        calls.append(call_of(INDEX, *_index_columns(batch, known)))
    if batch.timers_armed:
        calls.append(call_of(ARM, *_timer_columns(batch)))
    if batch.timers_cleared:
        calls.append(call_of(CLEAR, Texts(sorted(batch.timers_cleared))))
    if batch.unhandled:
        calls.append(call_of(KEEP_UNHANDLED, *_unhandled_columns(batch)))
    if batch.handled:
        calls.append(call_of(REMOVE_HANDLED, Bigints(sorted(batch.handled))))
    if batch.relayed:
        calls.append(call_of(RELAYED, Bigints(sorted(batch.relayed))))
    return calls


def proof_of(batch: Batch, rows: Sequence[TurnRow]) -> tuple[Question, int] | None:
    """A question, with its answer where *batch* is stored; None where it may be written twice."""
    if rows:
        return (LANDED, event_columns(rows)), len(rows)
    if batch.positions:
        return (REACHED, _trackings(batch)), len(batch.positions)
    if batch.unhandled:
        columns = (
            Texts(each.position.topic for each in batch.unhandled),
            Bigints(each.position.partition for each in batch.unhandled),
            Bigints(each.position.offset for each in batch.unhandled),
            Bigints(each.kept_at for each in batch.unhandled),
        )
        return (UNHANDLED, columns), len(batch.unhandled)
    return None


def event_columns(rows: Sequence[TurnRow]) -> tuple[Array, ...]:
    """The parameters of `EVENTS`."""
    return (
        Uuids(row[0] for row in rows),
        Bigints(row[1] for row in rows),
        Texts(row[2] for row in rows),
        Blobs(row[3] for row in rows),
    )


def _trackings(batch: Batch) -> tuple[Array, Array]:
    rows = sorted((tracking_name(source), offset) for source, offset in batch.positions.items())
    return Texts(name for name, _ in rows), Bigints(offset for _, offset in rows)


def _index_columns(batch: Batch, known: KnownSagas) -> tuple[Array, ...]:
    rows = {each.saga_id: each for each in batch.summaries}.values()
    return (
        Bigints(_place(known, each.saga_id) for each in rows),
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


def _place(known: KnownSagas, saga_id: SagaId) -> int | None:
    saga = known.get(saga_id)
    return None if saga is None else saga[1]


def _timer_columns(batch: Batch) -> tuple[Array, ...]:
    rows = {each.timer_id: each for each in batch.timers_armed}.values()
    return (
        Texts(each.timer_id for each in rows),
        Uuids(originator_of(each.saga_id) for each in rows),
        Bigints(each.due_at for each in rows),
    )


def _unhandled_columns(batch: Batch) -> tuple[Array, ...]:
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
