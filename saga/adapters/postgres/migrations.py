"""How the tables of an event store become those of the next version.

It runs in one transaction while no worker runs; what it cannot read it keeps as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import orjson
from psycopg import Cursor
from psycopg.sql import SQL, Identifier

from saga.adapters.first_layout import OldRow, turns_of
from saga.adapters.postgres.statements import OriginatorIds
from saga.core.identity import Instant, SagaId
from saga.ports.store import UnhandledKind

SAGAS_A_PAGE: Final = 1_000
KEEP_RUNS: Final = (
    "CREATE TABLE IF NOT EXISTS saga_runs (originator_id uuid PRIMARY KEY, turn bigint NOT NULL)"
)

KEEP_SNAPSHOTS: Final = (  # each row may be removed at any time
    "CREATE TABLE IF NOT EXISTS saga_snapshots (originator_id uuid PRIMARY KEY, "
    "definition text NOT NULL, definition_version integer NOT NULL, code text NOT NULL, "
    "turns bigint NOT NULL, version bigint NOT NULL, state bytea NOT NULL, proof bytea NOT NULL)"
)

_BEGINNINGS: Final = (
    "SELECT notification_id, originator_id::text, state FROM stored_events_1 "
    "WHERE originator_version = 1 AND notification_id > %s ORDER BY notification_id LIMIT %s"
)
_WITHOUT_BEGINNING: Final = (
    "SELECT DISTINCT originator_id::text FROM stored_events_1 AS e "
    "WHERE NOT EXISTS (SELECT 1 FROM saga_ids WHERE saga_id = e.originator_id)"
)
_ENTRIES: Final = (
    "SELECT originator_id::text, originator_version, topic, state, notification_id "
    "FROM stored_events_1 WHERE originator_id = ANY(%s::uuid[]) "
    "ORDER BY originator_id, originator_version"
)
_SAGA_COLUMNS: Final = (
    "saga_id, definition, definition_version, key, status, started_at, updated_at, waiting_for, "
    "reason, version"
)
_SAGA_INDEX: Final = (
    f"INSERT INTO saga_index (originator_id, {_SAGA_COLUMNS}) SELECT originator_id, "
    f"{_SAGA_COLUMNS} FROM saga_index_1 JOIN saga_ids USING (saga_id) ORDER BY originator_id"
)
# A timer's id is its saga's, a slash and its name.
_TIMERS: Final = (
    "INSERT INTO timers SELECT originator_id, substr(timer_id, 38), due_at "
    "FROM timers_1 JOIN saga_ids USING (saga_id) ORDER BY originator_id"
)
_UNHANDLED_RECORDS: Final = (
    "INSERT INTO unhandled OVERRIDING SYSTEM VALUE SELECT parked_id, "
    f"CASE kind WHEN 'held' THEN '{UnhandledKind.DEFERRED.value}' ELSE kind END, "
    "CASE reason WHEN 'behind_held' THEN 'behind_deferred' ELSE reason END, "
    'message, topic, partition, "offset", key, value, headers, timestamp, parked_at, saga_id '
    "FROM parked_1 ORDER BY parked_id"
)
# The library has marked the new table as its own.
_POSITIONS: Final = (
    "INSERT INTO notification_tracking (application_name, notification_id) "
    "SELECT application_name, notification_id FROM notification_tracking_1 "
    "WHERE application_name <> ALL (SELECT application_name FROM notification_tracking)"
)
_BACKLOG: Final = (
    "INSERT INTO backlog OVERRIDING SYSTEM VALUE SELECT backlog_id, ARRAY(SELECT place "
    "FROM unnest(positions) AS place WHERE EXISTS (SELECT 1 FROM stored_events "
    "WHERE notification_id = place) ORDER BY place), appended_at FROM backlog_1 "
    "ORDER BY backlog_id"
)
_INBOX: Final = (
    (
        "INSERT INTO saga_inbox_sagas (saga_id) SELECT split_part(key, '/', 1) "
        "FROM saga_inbox_1 GROUP BY 1 ORDER BY min(handled_at)"
    ),
    (
        "INSERT INTO saga_inbox SELECT s.number, substr(key, length(s.saga_id) + 1), service, "
        "attempt, outcome, contract, payload, code, message, digest, handled_at, undone "
        "FROM saga_inbox_1 JOIN saga_inbox_sagas AS s ON s.saga_id = split_part(key, '/', 1) "
        "ORDER BY s.number"
    ),
    "DROP TABLE saga_inbox_1",
)
_SEQUENCES: Final = {
    "stored_events_notification_id_seq": "stored_events_notification_id_seq_1",
    "unhandled_record_id_seq": "parked_parked_id_seq_1",
    "backlog_backlog_id_seq": "backlog_backlog_id_seq_1",
}
KNOW_OF_PAUSES: Final = (
    (
        "CREATE INDEX IF NOT EXISTS saga_index_paused ON saga_index (definition, originator_id) "
        "WHERE paused IS NOT NULL"
    ),
    (
        "CREATE TABLE IF NOT EXISTS paused_definitions (definition text PRIMARY KEY, "
        "changes bigint NOT NULL, told text NOT NULL)"
    ),
)
"""Which sagas and definitions are paused."""
_OLD_TABLES: Final = (
    "stored_events",
    "notification_tracking",
    "saga_index",
    "timers",
    "parked",
    "backlog",
)
_SEQUENCES_OF: Final = (
    "SELECT c.relname FROM pg_class AS c JOIN pg_depend AS d ON d.objid = c.oid "
    "WHERE d.refobjid = quote_ident(%s)::regclass AND c.relkind = 'S' AND d.deptype IN ('a', 'i')"
)
_INDEXES_OF: Final = (
    "SELECT c.relname FROM pg_class AS c JOIN pg_index AS i ON i.indexrelid = c.oid "
    "WHERE i.indrelid = quote_ident(%s)::regclass"
)


def keep_turns(rows: Cursor[Any], make: Callable[[Cursor[Any]], None]) -> None:
    """From a row for each entry to one for each turn, in its first entry's place in the log."""
    for table in _OLD_TABLES:
        _set_apart(rows, table)
    make(rows)
    ids = OriginatorIds()
    for page in _pages(rows):
        _copy_histories(rows, {saga_id: ids.draw(at) for saga_id, at in page})
    for statement in (_POSITIONS, _SAGA_INDEX, _TIMERS, _UNHANDLED_RECORDS, _BACKLOG):
        rows.execute(statement)
    for new, old in _SEQUENCES.items():
        value = SQL("SELECT setval({}, last_value, is_called) FROM {}")
        rows.execute(value.format(new, Identifier(old)))
    for table in _OLD_TABLES:
        rows.execute(SQL("DROP TABLE {}").format(Identifier(f"{table}_1")))
    rows.execute("ANALYZE saga_ids, saga_index, stored_events")


def know_of_pauses(rows: Cursor[Any], _: Callable[[Cursor[Any]], None]) -> None:
    """Add which sagas and definitions are paused, where the step before has not made it."""
    rows.execute("ALTER TABLE saga_index ADD COLUMN IF NOT EXISTS paused text")
    for statement in KNOW_OF_PAUSES:
        rows.execute(statement)


def show_fields(rows: Cursor[Any], _: Callable[[Cursor[Any]], None]) -> None:
    """Make room for what sagas show."""
    rows.execute("ALTER TABLE saga_index ADD COLUMN IF NOT EXISTS shown jsonb")


def keep_runs(rows: Cursor[Any], _: Callable[[Cursor[Any]], None]) -> None:
    """Have a place for where the last run of a saga begins, of those that have several."""
    rows.execute(KEEP_RUNS)


def number_sagas(rows: Cursor[Any], make: Callable[[Cursor[Any]], None]) -> None:
    """From an inbox by key to one by the saga's number and the step."""
    _set_apart(rows, "saga_inbox")
    make(rows)
    for statement in _INBOX:
        rows.execute(statement)


def _set_apart(rows: Cursor[Any], table: str) -> None:
    """Rename *table* and what belongs to it, so that a new one can have its name."""
    found = {"SEQUENCE": _SEQUENCES_OF, "INDEX": _INDEXES_OF}
    renamed = [("TABLE", table)]
    for kind, query in found.items():
        renamed += [(kind, name) for (name,) in rows.execute(query, (table,))]
    for kind, name in reversed(renamed):
        rename = SQL(f"ALTER {kind} {{}} RENAME TO {{}}")
        rows.execute(rename.format(Identifier(name), Identifier(f"{name}_1")))


def _pages(rows: Cursor[Any]) -> Iterator[Sequence[tuple[SagaId, Instant]]]:
    """All sagas with when they began, in order of their beginning; last those without one."""
    place = 0
    while beginnings := rows.execute(_BEGINNINGS, (place, SAGAS_A_PAGE)).fetchall():
        yield [(SagaId(saga_id), _at(state)) for _, saga_id, state in beginnings]
        place = beginnings[-1][0]
    rest = [(SagaId(saga_id), Instant(0)) for (saga_id,) in rows.execute(_WITHOUT_BEGINNING)]
    for first in range(0, len(rest), SAGAS_A_PAGE):
        yield rest[first : first + SAGAS_A_PAGE]


def _copy_histories(rows: Cursor[Any], originators: dict[SagaId, str]) -> None:
    entries = rows.execute(_ENTRIES, (list(originators),)).fetchall()
    histories = {
        SagaId(name): list(turns_of(SagaId(name), (OldRow(*entry[1:]) for entry in history)))
        for name, history in groupby(entries, key=itemgetter(0))
    }
    with rows.copy("COPY saga_ids FROM STDIN") as copy:
        for saga_id, originator in sorted(originators.items()):
            copy.write_row((saga_id, originator))
    with rows.copy(
        "COPY stored_events (originator_id, originator_version, topic, state, notification_id) "
        "FROM STDIN"
    ) as copy:
        for saga_id, originator in originators.items():
            for number, turn in enumerate(histories[saga_id], 1):
                copy.write_row((originator, number, *turn))


def _at(state: bytes) -> Instant:
    try:
        return Instant(int(orjson.loads(state)["at"]))
    except (ValueError, KeyError, TypeError):
        return Instant(0)
