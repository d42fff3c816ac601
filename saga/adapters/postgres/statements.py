"""The event store's statements: one per table and batch, with an array for each column.

What is looked for by key is looked for in subqueries that cannot become joins: the plan of a join
may be one that reads the whole table, and stay. `%` signs stand for parameters; see `arrays.py`.
"""

from __future__ import annotations

from typing import Final

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
PARK: Final = (
    'INSERT INTO parked (kind, reason, message, topic, partition, "offset", key, value, headers, '
    "timestamp, kept_at, saga_id) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], "
    "%s::text[], %s::bigint[], %s::bigint[], %s::bytea[], %s::bytea[], %s::bytea[], %s::bigint[], "
    "%s::bigint[], %s::uuid[])"
)
UNPARK: Final = "DELETE FROM parked WHERE record_id = ANY(%s::bigint[])"
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
SET_ASIDE: Final = (
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
WRITERS: Final = (
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND classid = ({}::bigint & 4294967295)::oid AND objid = ({}::bigint & 4294967295)::oid "
    "AND objsubid = 2 AND mode = 'ShareLock'"
)
