"""The event store's statements: one for each table and batch, with an array for each column.

Keys are looked up in subqueries, as the plan of a join might read the whole table, and stay. Rows
bear an originator id, which grows with time, so that sagas that run at the same time share pages.

No table is locked, so places in the log are not in the order of commits, but for those of one saga:

* Who reads the log notes the last place given, waits for all writers that hold a shared advisory
  lock, which each takes before its places, and reads up to there: what is missing never comes.
* The backlog is a set of rows: there is no mark that could pass a row that is still to appear.
* Rows are locked in one order (positions by name, then turns by originator and number), so that no
  two transactions wait for each other.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Final

from saga.adapters.mapper import TURN
from saga.adapters.postgres.pipeline import Call, ManyRows, call_of, ints, uuids
from saga.adapters.rows import (
    PAUSE_COLUMNS,
    SUMMARY_COLUMNS,
    SUMMARY_SHOWN,
    UNHANDLED_COLUMNS,
    KnownSagas,
    apart,
    from_pause,
    from_summary,
    from_summary_shown,
    from_unhandled,
    show_anything,
    skipped_name,
    timer_name,
    tracking_name,
    turns_of,
)
from saga.adapters.snapshot_rows import SNAPSHOT_COLUMNS
from saga.core.identity import Instant, SagaId
from saga.core.status import ENDED
from saga.ports.store import Batch

Originators = Mapping[SagaId, str]
"""The originator ids of sagas, each as 32 hex digits."""

ALREADY_RECORDED: Final = "SG001"
HISTORY_CONFLICT: Final = "SG002"
PAUSES_CHANGED: Final = "SG003"

ADVANCE: Final = ManyRows(
    "WITH r (name, id) AS (SELECT * FROM {rows}), moved AS (INSERT INTO notification_tracking "
    "(application_name, notification_id) SELECT * FROM r ON CONFLICT (application_name) DO UPDATE "
    "SET notification_id = excluded.notification_id "
    "WHERE notification_tracking.notification_id < excluded.notification_id RETURNING 1) "
    "SELECT saga_expect((SELECT count(*) FROM moved), (SELECT count(*) FROM r), "
    f"'{ALREADY_RECORDED}')",
    "text bigint",
)
_PLACE: Final = (
    "INSERT INTO notification_tracking AS t "
    "(application_name, notification_id, topic_id, cluster_id) SELECT * FROM {rows} "
    "ON CONFLICT (application_name) DO UPDATE SET "
)
ADOPT: Final = ManyRows(
    _PLACE + "topic_id = CASE WHEN t.notification_id < 0 THEN excluded.topic_id "
    "ELSE coalesce(t.topic_id, excluded.topic_id) END, "
    "cluster_id = CASE WHEN t.notification_id < 0 THEN excluded.cluster_id "
    "ELSE coalesce(t.cluster_id, excluded.cluster_id) END",
    "text bigint text text",
)
REBASE: Final = ManyRows(
    _PLACE + "notification_id = excluded.notification_id, topic_id = excluded.topic_id, "
    "cluster_id = excluded.cluster_id",
    "text bigint text text",
)
FACT: Final = ManyRows("INSERT INTO store_facts SELECT * FROM {rows}", "text text")
FACT_KEPT: Final = "SELECT count(*) > 0 FROM store_facts WHERE name = %s::text"
PREDECESSORS: Final = ManyRows(
    "SELECT saga_expect(count(*) FILTER (WHERE (SELECT true FROM stored_events "
    "WHERE originator_id = r.id AND originator_version = r.version)), count(*), "
    f"'{HISTORY_CONFLICT}') FROM {{rows}} AS r (id, version)",
    "uuid bigint",
)
BEGIN_SAGAS: Final = ManyRows("INSERT INTO saga_ids SELECT * FROM {rows}", "uuid uuid")
_EVENTS: Final = (
    "INSERT INTO stored_events "
    "(originator_id, originator_version, topic, state, notification_id) "
    "SELECT id, version, topic, state, place FROM ("
    "SELECT *, nextval('stored_events_notification_id_seq') AS place "
    "FROM {rows} AS r (id, version, topic, state)) AS placed ORDER BY id, version"
)
EVENTS: Final = ManyRows(_EVENTS, "uuid bigint text bytea")
EVENTS_AND_BACKLOG: Final = ManyRows(
    f"WITH written AS ({_EVENTS} RETURNING notification_id) "
    "INSERT INTO backlog (positions, appended_at) "
    "SELECT coalesce(array_agg(notification_id ORDER BY notification_id), '{}'), %s::bigint "
    "FROM written RETURNING backlog_id",
    "uuid bigint text bytea",
)
_INDEX_TYPES: Final = "uuid uuid text bigint text text bigint bigint text text bigint text"
_INDEX_CHANGED: Final = (
    "ON CONFLICT (originator_id) DO UPDATE SET "
    "definition = excluded.definition, definition_version = excluded.definition_version, "
    "key = excluded.key, status = excluded.status, started_at = excluded.started_at, "
    "updated_at = excluded.updated_at, waiting_for = excluded.waiting_for, "
    "reason = excluded.reason, version = excluded.version, paused = excluded.paused"
)
INDEX: Final = ManyRows(
    f"INSERT INTO saga_index (originator_id, {SUMMARY_COLUMNS}) SELECT * FROM {{rows}} "
    + _INDEX_CHANGED,
    _INDEX_TYPES,
)
_SHOWN: Final = (
    f"INSERT INTO saga_index AS i (originator_id, {SUMMARY_SHOWN}) "
    f"SELECT originator_id, {SUMMARY_COLUMNS}, shown::jsonb "
    f"FROM {{rows}} AS r (originator_id, {SUMMARY_SHOWN}) "
    f"{_INDEX_CHANGED}, shown = coalesce(excluded.shown, i.shown)"
)
INDEX_SHOWN: Final = ManyRows(_SHOWN, f"{_INDEX_TYPES} text")
# Of sagas whose histories stay as they are: another worker may have taken one on meanwhile.
INDEX_FOUND: Final = ManyRows(
    f"{_SHOWN} WHERE i.version <= excluded.version", f"{_INDEX_TYPES} text"
)
PUT_OFF: Final = ManyRows(
    "UPDATE timers AS t SET due_at = r.due_at FROM {rows} AS r (id, name, found, due_at) "
    "WHERE t.originator_id = r.id AND t.name = r.name AND t.due_at = r.found",
    "uuid text bigint bigint",
)
ARM: Final = ManyRows(
    "INSERT INTO timers SELECT * FROM {rows} "
    "ON CONFLICT (originator_id, name) DO UPDATE SET due_at = excluded.due_at",
    "uuid text bigint",
)
CLEAR: Final = ManyRows(
    "DELETE FROM timers WHERE ctid = ANY(ARRAY(SELECT (SELECT t.ctid FROM timers AS t "
    "WHERE t.originator_id = r.id AND t.name = r.name) FROM {rows} AS r (id, name)))",
    "uuid text",
)
RUNS: Final = ManyRows(
    "INSERT INTO saga_runs SELECT * FROM {rows} "
    "ON CONFLICT (originator_id) DO UPDATE SET turn = excluded.turn",
    "uuid bigint",
)
# The last turn that each covers is looked at here: it may be another one by then, or none.
KEEP_SNAPSHOTS: Final = ManyRows(
    f"INSERT INTO saga_snapshots (originator_id, {SNAPSHOT_COLUMNS}, proof) "
    "SELECT e.originator_id, r.definition, r.definition_version, r.code, r.turns, r.version, "
    "r.state, sha256(e.state || r.state) "
    f"FROM {{rows}} AS r (saga_id, {SNAPSHOT_COLUMNS}) "
    "JOIN saga_ids AS s ON s.saga_id = r.saga_id "
    "JOIN saga_index AS i ON i.originator_id = s.originator_id "
    f"AND i.status NOT IN ({', '.join(f'{each.value!r}' for each in ENDED)}) "
    "JOIN stored_events AS e ON e.originator_id = s.originator_id "
    "AND e.originator_version = r.turns ORDER BY e.originator_id "
    f"ON CONFLICT (originator_id) DO UPDATE SET ({SNAPSHOT_COLUMNS}, proof) = "
    f"({', '.join(f'excluded.{each}' for each in SNAPSHOT_COLUMNS.split(', '))}, excluded.proof)",
    "uuid text bigint text bigint bigint bytea",
)
SNAPSHOTS: Final = (
    f"SELECT s.saga_id::text, {SNAPSHOT_COLUMNS}, proof FROM saga_ids AS s "
    "JOIN saga_snapshots AS p USING (originator_id) WHERE s.saga_id = ANY(%s::uuid[])"
)
SNAPSHOT_COUNTS: Final = (
    "SELECT definition, definition_version, code, count(*) FROM saga_snapshots GROUP BY 1, 2, 3"
)
DROP_SNAPSHOTS: Final = (
    "DELETE FROM saga_snapshots WHERE originator_id = ANY(ARRAY(SELECT originator_id "
    "FROM saga_ids WHERE saga_id = ANY(%s::uuid[])))"
)
KEEP_UNHANDLED: Final = ManyRows(
    f"INSERT INTO unhandled ({UNHANDLED_COLUMNS}) SELECT * FROM {{rows}}",
    "text text text text bigint bigint bytea bytea bytea bigint bigint uuid",
)
SKIPPED: Final = ManyRows(
    "INSERT INTO store_facts SELECT * FROM {rows} ON CONFLICT (name) DO UPDATE SET value = "
    "(CASE WHEN store_facts.value ~ '^[0-9]+$' THEN store_facts.value::bigint ELSE 0 END "
    "+ excluded.value::bigint)::text",
    "text text",
)
PAUSES: Final = f"SELECT {PAUSE_COLUMNS} FROM paused_definitions"
EXPECT_PAUSES: Final = (
    "SELECT saga_expect((SELECT coalesce(sum(changes), 0)::bigint FROM paused_definitions), "
    f"%s::bigint, '{PAUSES_CHANGED}')"
)
PAUSE: Final = ManyRows(
    "INSERT INTO paused_definitions SELECT * FROM {rows} ON CONFLICT (definition) DO UPDATE SET "
    "changes = excluded.changes, told = excluded.told",
    "text bigint text",
)
REMOVE_HANDLED: Final = "DELETE FROM unhandled WHERE record_id = ANY(%s::bigint[])"
RELAYED: Final = "DELETE FROM backlog WHERE backlog_id = ANY(%s::bigint[])"
# Of each of these the answer is whether all rows are there.
LANDED: Final = ManyRows(
    "SELECT count(*) = count(*) FILTER (WHERE (SELECT originator_id FROM saga_ids "
    "WHERE saga_id = r.saga_id) = r.id AND (SELECT e.state = r.state FROM stored_events AS e "
    "WHERE e.originator_id = r.id AND e.originator_version = r.version)) "
    "FROM {rows} AS r (saga_id, id, version, state)",
    "uuid uuid bigint bytea",
)
REACHED: Final = ManyRows(
    "SELECT count(*) = count(*) FILTER (WHERE (SELECT notification_id = r.id "
    "FROM notification_tracking WHERE application_name = r.name)) FROM {rows} AS r (name, id)",
    "text bigint",
)
UNHANDLED: Final = ManyRows(
    "SELECT bool_and(EXISTS (SELECT 1 FROM unhandled AS p WHERE p.topic = r.topic "
    'AND p.partition = r.partition AND p."offset" = r.place AND p.kept_at = r.at)) '
    "FROM {rows} AS r (topic, partition, place, at)",
    "text bigint bigint bigint",
)
BACKLOG_OF: Final = (
    "SELECT backlog_id FROM backlog WHERE positions @> (SELECT ARRAY[notification_id] "
    "FROM stored_events WHERE originator_id = %s::uuid AND originator_version = %s::bigint)"
)
TURNS: Final = (
    "SELECT s.saga_id::text, (SELECT max(originator_version) FROM stored_events "
    "WHERE originator_id = s.originator_id) FROM saga_ids AS s WHERE s.saga_id = ANY(%s::uuid[])"
)
ORIGINATORS: Final = (
    "SELECT saga_id::text, originator_id::text FROM saga_ids WHERE saga_id = ANY(%s::uuid[])"
)
LAST_PLACE: Final = "SELECT last_value FROM stored_events_notification_id_seq WHERE is_called"
_WRITERS: Final = (
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND classid = ({}::bigint & 4294967295)::oid AND objid = ({}::bigint & 4294967295)::oid "
    "AND objsubid = 2 AND mode = 'ShareLock'"
)


class OriginatorIds:
    """Draws originator ids: UUIDs of version 7, each larger than those drawn before."""

    def __init__(self) -> None:
        self._last_us = 0
        self._random = secrets.randbits(62)
        """Tells this process from others that draw in the same microsecond."""

    def draw(self, at: Instant) -> str:
        """32 hex digits, which grow with *at*."""
        self._last_us = max(self._last_us + 1, at)
        ms, us = divmod(self._last_us, 1_000)
        return f"{ms << 80 | 7 << 76 | us << 64 | 2 << 62 | self._random:032x}"


def share_lock(key: tuple[int, int]) -> str:
    """Says that this transaction is about to take places in the log."""
    return "SELECT pg_advisory_xact_lock_shared({}, {})".format(*key)


def writers(key: tuple[int, int]) -> str:
    """Finds the transactions that have taken places in the log, or are about to."""
    return _WRITERS.format(*key)


def sagas_written(batch: Batch) -> dict[SagaId, None]:
    sagas = dict.fromkeys(each.saga_id for each in batch.histories)
    sagas |= dict.fromkeys(each.saga_id for each in batch.summaries)
    return sagas | dict.fromkeys(each.saga_id for each in batch.timers_armed)


def calls_of(
    batch: Batch,
    originators: Originators,
    new: Iterable[SagaId],
    known: KnownSagas[tuple[int, str]],
    *,
    at: Instant,
    lock: str,
) -> list[Call]:
    """Write *batch* or refuse it with the codes above; `EVENTS_AND_BACKLOG` answers the backlog id.

    *new* are those of its sagas that the store does not have.
    """
    turns = [(originators[saga], number, TURN, state) for saga, number, state in turns_of(batch)]
    are_shown = show_anything(batch)
    index, row_of = (INDEX_SHOWN, from_summary_shown) if are_shown else (INDEX, from_summary)
    of_turns, found = apart(batch)
    timers = {each.timer_id: each for each in batch.timers_armed}.values()
    armed = [(originators[t.saga_id], timer_name(t.timer_id)[1], t.due_at) for t in timers]
    put_off = [
        (originators[timer.saga_id], timer_name(timer.timer_id)[1], timer.due_at, off.due_at)
        for off in batch.timers_put_off
        if (timer := off.found).saga_id in originators
    ]
    cleared = map(timer_name, batch.timers_cleared)
    seen = batch.pauses_seen
    return [
        *([] if seen is None else [call_of(EXPECT_PAUSES, seen)]),
        *ADVANCE.calls(_trackings(batch)),
        *PREDECESSORS.calls(_unsure(batch, originators, known)),
        *([call_of(lock)] if turns else []),
        *BEGIN_SAGAS.calls([(saga_id, originators[saga_id]) for saga_id in sorted(new)]),
        *([EVENTS_AND_BACKLOG.call(turns, at)] if batch.outgoing else EVENTS.calls(turns)),
        *index.calls(sorted((originators[saga], *row_of(each)) for saga, each in of_turns.items())),
        *INDEX_FOUND.calls(
            sorted((originators[saga], *from_summary_shown(each)) for saga, each in found.items())
        ),
        *RUNS.calls(sorted((originators[saga_id], turn) for saga_id, turn in batch.runs.items())),
        *([call_of(DROP_SNAPSHOTS, uuids(over))] if (over := batch.snapshots_over) else []),
        *PUT_OFF.calls(sorted(put_off)),
        *ARM.calls(armed),
        *CLEAR.calls([(originators[saga], name) for saga, name in cleared if saga in originators]),
        *KEEP_UNHANDLED.calls([from_unhandled(record) for record in batch.unhandled]),
        *([call_of(REMOVE_HANDLED, ints(sorted(batch.handled)))] if batch.handled else []),
        *([call_of(RELAYED, ints(sorted(batch.relayed)))] if batch.relayed else []),
        *SKIPPED.calls(sorted((skipped_name(skip), str(n)) for skip, n in batch.skipped.items())),
        *PAUSE.calls([from_pause(pause) for pause in batch.pauses]),
    ]


def proof_of(batch: Batch, originators: Originators) -> Call | None:
    """Asks whether *batch* is stored; None where it may as well be written twice."""
    if batch.histories:
        turns = turns_of(batch)
        return LANDED.call([(saga, originators[saga], *rest) for saga, *rest in turns])
    if batch.positions:
        return REACHED.call(_trackings(batch))
    if batch.unhandled:
        return UNHANDLED.call([(*each.position, each.kept_at) for each in batch.unhandled])
    return None


def _unsure(
    batch: Batch, originators: Originators, known: KnownSagas[tuple[int, str]]
) -> list[tuple[str, int]]:
    """Sagas and expected turns to look for; the insert tells whether a turn follows them."""
    unsure = []
    for history in batch.histories:
        there = known.get(history.saga_id)
        if (there[0] if there else 0) < history.expected_turns:
            unsure.append((originators[history.saga_id], history.expected_turns))
    return unsure


def _trackings(batch: Batch) -> list[tuple[str, int]]:
    return sorted((tracking_name(source), offset) for source, offset in batch.positions.items())
