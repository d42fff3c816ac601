"""Which tables a database has, and how they become those that the code at hand needs.

The table `saga_schema` has the version of each component (event store, effects store, outbox). All
migrations of one run are one transaction, under an advisory lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from psycopg import Connection, Cursor

from saga.adapters.postgres._eventsourcing import create_library_tables
from saga.adapters.postgres.database import SCHEMA, Address, translated
from saga.adapters.postgres.migrations import (
    KEEP_RUNS,
    KEEP_SNAPSHOTS,
    KNOW_OF_PAUSES,
    keep_runs,
    keep_turns,
    know_of_pauses,
    show_fields,
)
from saga.adapters.postgres.whose import STORE_FACTS
from saga.adapters.schemas import difference
from saga.core.values import value
from saga.errors import SchemaDiffers, StoreTooNew, StoreUnavailable

Make = Callable[[Cursor[Any]], None]
Migration = Callable[[Cursor[Any], Make], None]
"""Brings tables to the next version; gets what makes those of the newest."""

_COLUMNS: Final = (
    "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
    "WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0 AND NOT attisdropped"
)
MIGRATION_LOCK_TIMEOUT_S: Final = 60
_SCHEMA_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS saga_schema (component text PRIMARY KEY, version integer NOT NULL)"
)

_TABLES: Final = (
    # Refuses the whole transaction with a code of ours.
    (
        "CREATE OR REPLACE FUNCTION saga_expect(counted bigint, expected bigint, code text) "
        "RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF counted <> expected THEN "
        "RAISE EXCEPTION 'found %, expected %', counted, expected USING ERRCODE = code; "
        "END IF; END $$"
    ),
    # The one index by a saga's own id: a second saga of that id is refused here.
    "CREATE TABLE saga_ids (saga_id uuid PRIMARY KEY, originator_id uuid NOT NULL)",
    # Room on each page for the next version of its rows: updates then touch no index.
    # settled_at is kept free for when all that an ended saga has published was seen.
    (
        "CREATE TABLE saga_index (originator_id uuid PRIMARY KEY, saga_id uuid NOT NULL, "
        "definition text NOT NULL, definition_version integer NOT NULL, key text NOT NULL, "
        "status text NOT NULL, started_at bigint NOT NULL, updated_at bigint NOT NULL, "
        "waiting_for text, reason text, version bigint NOT NULL, settled_at bigint, paused text, "
        "shown jsonb) "
        "WITH (fillfactor = 60, "
        "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000)"
    ),
    # Nearly all sagas are completed, and finding those needs no index.
    (
        "CREATE INDEX saga_index_by_status ON saga_index (status, originator_id) "
        "WHERE status <> 'completed'"
    ),
    *KNOW_OF_PAUSES,
    # What comes and goes with every saga is small and must be kept so.
    (
        "CREATE TABLE timers (originator_id uuid NOT NULL, name text NOT NULL, "
        "due_at bigint NOT NULL, PRIMARY KEY (originator_id, name)) "
        "WITH (autovacuum_vacuum_scale_factor = 0.02, "
        "autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0)"
    ),
    "CREATE INDEX timers_by_due_at ON timers (due_at)",
    (
        "CREATE TABLE unhandled ("
        "record_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "kind text NOT NULL, reason text NOT NULL, message text NOT NULL, topic text NOT NULL, "
        'partition integer NOT NULL, "offset" bigint NOT NULL, key bytea, value bytea, '
        "headers bytea NOT NULL, timestamp bigint NOT NULL, kept_at bigint NOT NULL, "
        "saga_id uuid)"
    ),
    ("CREATE INDEX unhandled_by_saga ON unhandled (saga_id) WHERE saga_id IS NOT NULL"),
    (
        "CREATE TABLE backlog (backlog_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "positions bigint[] NOT NULL, appended_at bigint NOT NULL) WITH ("
        "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, "
        "autovacuum_vacuum_cost_delay = 0)"
    ),
    # One row a partition, written with every batch; the library switches its vacuum all but off.
    (
        "ALTER TABLE notification_tracking SET (fillfactor = 50, "
        "autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 500, "
        "autovacuum_vacuum_cost_delay = 0)"
    ),
    # Which topic of which cluster a position belongs to: one made anew has another id.
    ("ALTER TABLE notification_tracking ADD COLUMN topic_id text, ADD COLUMN cluster_id text"),
    # What the store serves, and what operators have accepted.
    "CREATE TABLE store_facts (name text PRIMARY KEY, value text NOT NULL)",
    KEEP_RUNS,
)


@value(kw_only=True)
class Component:
    """A set of tables.

    Args:
        landmark: one of them; if `saga_schema` does not know of it, another program has made it.
        make: makes those of the newest version.
        tables: of each its columns, as `name type, …`.
        facts: the table of what it remembers of itself.
        migrations: the first leads from version 1 to 2.
        added: of tables that came later, without a version of their own, the statement that makes
            them: workers of older releases go on without, so that both run side by side.
    """

    name: str
    landmark: str
    make: Make
    tables: Mapping[str, str]
    facts: str = ""
    migrations: Sequence[Migration] = ()
    added: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The version this code needs."""
        return len(self.migrations) + 1


def _make_event_store(cursor: Cursor[Any]) -> None:
    create_library_tables(cursor, SCHEMA)
    for statement in _TABLES:
        cursor.execute(statement)


EVENT_STORE: Final = Component(
    name="event store",
    landmark="stored_events",
    make=_make_event_store,
    tables={
        "stored_events": "originator_id uuid, originator_version bigint, topic text, state bytea, "
        "notification_id bigint",
        "notification_tracking": "application_name text, notification_id bigint, topic_id text, "
        "cluster_id text",
        "saga_ids": "saga_id uuid, originator_id uuid",
        "saga_index": "originator_id uuid, saga_id uuid, definition text, "
        "definition_version integer, key text, status text, started_at bigint, updated_at bigint, "
        "waiting_for text, reason text, version bigint, paused text, "
        "shown jsonb",
        "paused_definitions": "definition text, changes bigint, told text",
        "timers": "originator_id uuid, name text, due_at bigint",
        "unhandled": "record_id bigint, kind text, reason text, message text, topic text, "
        "partition integer, offset bigint, key bytea, value bytea, headers bytea, "
        "timestamp bigint, kept_at bigint, saga_id uuid",
        "backlog": "backlog_id bigint, positions bigint[], appended_at bigint",
        "store_facts": "name text, value text",
        "saga_runs": "originator_id uuid, turn bigint",
        "saga_snapshots": "originator_id uuid, definition text, definition_version integer, "
        "code text, turns bigint, version bigint, state bytea, proof bytea",
    },
    facts=STORE_FACTS,
    migrations=[keep_turns, know_of_pauses, show_fields, keep_runs],
    added={"saga_snapshots": KEEP_SNAPSHOTS},
)


def stored_version(address: Address, component: Component) -> int:
    """The version of *component* in the database, 0 where it has none; blocks.

    Raises:
        StoreTooNew: a newer version of saga wrote it.
        StoreUnavailable: the database cannot be read.
    """
    with translated(address.name), address.connect() as connection:
        return _version(connection, address, component)


def migrate(address: Address, component: Component) -> int:
    """Bring the tables of *component* to its version; returns the one there was; blocks.

    Raises:
        StoreTooNew: a newer version of saga wrote it.
        StoreUnavailable: the database cannot be reached, or what is there is not saga's.
    """
    with translated(address.name), address.connect() as connection, connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_TIMEOUT_S}s'")
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", address.lock_key("migration"))
        stored = _version(connection, address, component)
        if stored == component.version:
            _add(connection, component)
            return stored
        if stored == 0 and _exists(connection, component.landmark):
            raise _to_be_mended(
                f"{address.name}: it has a table {component.landmark!r} that saga did not make: "
                "name another database"
            )
        connection.execute(_SCHEMA_TABLE)
        with connection.cursor() as cursor:
            if stored:
                for step in component.migrations[stored - 1 :]:
                    step(cursor, component.make)
            else:
                component.make(cursor)
        connection.execute(
            "INSERT INTO saga_schema VALUES (%s, %s) "
            "ON CONFLICT (component) DO UPDATE SET version = excluded.version",
            (component.name, component.version),
        )
        _add(connection, component)
        return stored


def _add(connection: Connection[Any], component: Component) -> None:
    """Make the tables that came later; whoever lacks none needs no right to make any."""
    for table in _lacking(connection, component):
        connection.execute(component.added[table].encode())


def _lacking(connection: Connection[Any], component: Component) -> list[str]:
    return [table for table in component.added if not _exists(connection, table)]


def prepare(address: Address, component: Component, *, make: bool) -> None:
    """See that the tables of *component* are those this code needs; blocks.

    Older ones are left to `saga store migrate`: other workers may still run older code.

    Raises:
        StoreTooNew: a newer version of saga wrote it.
        StoreUnavailable: the database cannot be reached, or is to be migrated first.
    """
    with translated(address.name), address.connect() as connection:
        stored = _version(connection, address, component)
        lacking = _lacking(connection, component) if stored == component.version else []
    if (stored == 0 or lacking) and make:
        migrate(address, component)
    elif stored == 0:
        raise _to_be_mended(
            f"{address.name}: it has no {component.name} tables: nothing has run there yet. Start "
            "with `saga run`, or make them with `saga store migrate`"
        )
    elif stored < component.version:
        raise _to_be_mended(
            f"{address.name}: its {component.name} tables have version {stored}, this saga needs "
            f"{component.version}: run `saga store migrate`"
        )
    elif lacking:
        raise _to_be_mended(
            f"{address.name}: it has no table {lacking[0]!r}, which came with this release: run "
            "`saga store migrate`, also beside workers of the release before"
        )


def _to_be_mended(problem: str) -> StoreUnavailable:
    error = StoreUnavailable(problem)
    error.passes = False
    return error


def _version(connection: Connection[Any], address: Address, component: Component) -> int:
    if not _exists(connection, "saga_schema"):
        return 0
    _check_table(connection, address, "saga_schema", "component text, version integer")
    row = connection.execute(
        "SELECT version FROM saga_schema WHERE component = %s", (component.name,)
    ).fetchone()
    stored = int(row[0]) if row else 0
    if stored == component.version:
        lacking = _lacking(connection, component)
        for table in component.tables.keys() - lacking:
            _check_table(connection, address, table, component.tables[table])
    if stored > component.version:
        raise StoreTooNew(
            f"{address.name}: its {component.name} tables have version {stored}, this saga knows "
            f"up to {component.version}: upgrade saga, or name another database"
        )
    return stored


def _check_table(connection: Connection[Any], address: Address, table: str, columns: str) -> None:
    """Raise SchemaDiffers where a column is not there, or of another type; more are no harm."""
    pairs = (each.partition(" ") for each in columns.split(", "))
    expected = [(name, kind) for name, _, kind in pairs]
    found = connection.execute(_COLUMNS, (table,)).fetchall()
    known = [(name, kind) for name, kind in found if name in dict(expected)]
    if set(known) != set(expected):
        problem = difference(table, expected, known)
        raise SchemaDiffers(
            f"{address.name}: its tables are not those of this saga: {problem}: name another "
            "database, or restore this one from a backup"
        )


def _exists(connection: Connection[Any], table: str) -> bool:
    row = connection.execute("SELECT to_regclass(quote_ident(%s))", (table,)).fetchone()
    assert row is not None
    return row[0] is not None
