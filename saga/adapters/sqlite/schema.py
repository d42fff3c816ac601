"""How the event store's tables come to be, and how those of earlier versions are brought over.

Version 1 had one event an entry, under the saga's own id; version 2 has one a turn, under ids by
number; version 3 knows of pauses, version 4 what sagas show; version 6 keeps snapshots. The order
of the log is kept. An entry that cannot be read stays as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from eventsourcing.sqlite import SQLiteDatastore, SQLiteProcessRecorder

from saga.adapters.first_layout import OldRow, turns_of
from saga.adapters.mapper import saga_id_of
from saga.adapters.rows import originator_of_number
from saga.adapters.sqlite.connection import connect, translated
from saga.adapters.sqlite.database import (
    Migration,
    SqliteDatabase,
    check_tables,
    stored_version,
)

COMPONENT: Final = "event store"
ROWS_TOGETHER: Final = 500

_TABLES: Final = (
    # settled_at is kept free for: when everything of an ended saga was published and seen.
    (
        "CREATE TABLE saga_index (number INTEGER PRIMARY KEY, saga_id TEXT NOT NULL UNIQUE, "
        "definition TEXT NOT NULL, definition_version INTEGER NOT NULL, key TEXT NOT NULL, "
        "status TEXT NOT NULL, started_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, "
        "waiting_for TEXT, reason TEXT, version INTEGER NOT NULL, settled_at INTEGER)"
    ),
    # Nearly all sagas are completed, and finding those needs no index.
    "CREATE INDEX saga_index_by_status ON saga_index (status) WHERE status <> 'completed'",
    (
        "CREATE TABLE timers (saga INTEGER NOT NULL, name TEXT NOT NULL, "
        "due_at INTEGER NOT NULL, PRIMARY KEY (saga, name)) WITHOUT ROWID"
    ),
    "CREATE INDEX timers_by_due_at ON timers (due_at)",
    # Ids are never given twice, so that a late order for an old one does not hit a new one.
    (
        "CREATE TABLE unhandled (record_id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, "
        "reason TEXT NOT NULL, message TEXT NOT NULL, topic TEXT NOT NULL, "
        'partition INTEGER NOT NULL, "offset" INTEGER NOT NULL, key BLOB, value BLOB, '
        "headers BLOB NOT NULL, timestamp INTEGER NOT NULL, kept_at INTEGER NOT NULL, "
        "saga_id TEXT)"
    ),
    "CREATE INDEX unhandled_by_saga ON unhandled (saga_id) WHERE saga_id IS NOT NULL",
    (
        "CREATE TABLE backlog (backlog_id INTEGER PRIMARY KEY AUTOINCREMENT, "
        "first_position INTEGER NOT NULL, last_position INTEGER NOT NULL, "
        "appended_at INTEGER NOT NULL)"
    ),
    # Of a source that `tracking` names, which topic of which cluster its position belongs to.
    "CREATE TABLE sources (name TEXT PRIMARY KEY, topic_id TEXT, cluster_id TEXT) WITHOUT ROWID",
    # Of the store: what it serves, and what operators have accepted.
    "CREATE TABLE store_facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)

_PAUSES: Final = (
    "ALTER TABLE saga_index ADD COLUMN paused TEXT",
    "CREATE INDEX saga_index_paused ON saga_index (definition) WHERE paused IS NOT NULL",
    (
        "CREATE TABLE paused_definitions (definition TEXT PRIMARY KEY, changes INTEGER NOT NULL, "
        "told TEXT NOT NULL) WITHOUT ROWID"
    ),
)

_OLD: Final = ("stored_events", "saga_index", "timers", "backlog")
_SAGA_COLUMNS: Final = (
    "saga_id, definition, definition_version, key, status, started_at, updated_at, waiting_for, "
    "reason, version"
)
_NUMBER_SAGAS: Final = (
    f"INSERT INTO saga_index ({_SAGA_COLUMNS}) SELECT {_SAGA_COLUMNS} FROM old_saga_index "
    "ORDER BY position"
)
_INSERT_TURNS: Final = (
    "INSERT INTO stored_events (rowid, originator_id, originator_version, topic, state) "
    "VALUES (?, ?, ?, ?, ?)"
)
_TIMERS: Final = (
    "INSERT INTO timers SELECT i.number, substr(t.timer_id, length(i.saga_id) + 2), t.due_at "
    "FROM old_timers AS t JOIN saga_index AS i ON i.saga_id = t.saga_id"
)
_UNHANDLED: Final = (
    "INSERT INTO unhandled SELECT parked_id, replace(kind, 'held', 'deferred'), "
    "replace(reason, 'behind_held', 'behind_deferred'), message, topic, partition, "
    '"offset", key, value, headers, timestamp, parked_at, saga_id FROM parked ORDER BY parked_id'
)


def create_tables(cursor: sqlite3.Cursor) -> None:
    """Make the library's tables as its own recorder makes them, then ours."""
    datastore = SQLiteDatastore(":memory:", single_row_tracking=True, originator_id_type="uuid")
    library = SQLiteProcessRecorder(datastore).construct_create_table_statements()
    datastore.close()
    for statement in (*library, *_TABLES):
        cursor.execute(statement)


def stored_store_version(path: str) -> int:
    """0 where there is no file, or no event store in it.

    Raises:
        StoreTooNew: a newer version of saga wrote the file.
        StoreUnavailable: it cannot be read.
    """
    return component_version(path, COMPONENT, STORE_VERSION)


def component_version(path: str, component: str, known: int = 10**6) -> int:
    """0 where there is no file, or no such tables in it; raises as `stored_store_version`."""
    if not Path(path).exists():
        return 0
    connection = connect(path)
    try:
        with translated(path):
            stored = stored_version(path, component, known, connection.cursor())
            if component == COMPONENT and stored == STORE_VERSION:
                check_tables(path, component, MIGRATIONS, connection.cursor())
            return stored
    finally:
        connection.close()


def migrate_store(path: str) -> int:
    """Migrate the file at *path* in one transaction; returns the version it had.

    Whatever uses the file must be stopped first.

    Raises:
        StoreTooNew: a newer version of saga wrote the file.
        StoreUnavailable: it cannot be read or written.
    """
    before = stored_store_version(path)
    database = SqliteDatabase(path)
    try:
        database.migrate(COMPONENT, MIGRATIONS)
    finally:
        database.abandon()
    return before


def from_entries_to_turns(cursor: sqlite3.Cursor) -> None:
    """Rewrite tables of version 1; does nothing where they were made new."""
    columns = {row[1] for row in cursor.execute("PRAGMA table_info(saga_index)").fetchall()}
    if "position" not in columns:
        return
    for index in ("saga_index_by_status", "timers_by_due_at"):
        cursor.execute(f"DROP INDEX {index}")
    for table in _OLD:
        cursor.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    create_tables(cursor)
    cursor.execute(_NUMBER_SAGAS)
    numbers = {
        saga_id.replace("-", ""): number
        for saga_id, number in cursor.execute("SELECT saga_id, number FROM saga_index")
    }
    _write_turns(cursor, numbers)
    cursor.execute("INSERT INTO backlog SELECT * FROM old_backlog")
    _keep_sequence(cursor, "backlog", "old_backlog")
    cursor.execute(_TIMERS)
    cursor.execute(_UNHANDLED)
    _keep_sequence(cursor, "unhandled", "parked")
    for table in (*(f"old_{table}" for table in _OLD), "parked"):
        cursor.execute(f"DROP TABLE {table}")


def know_of_pauses(cursor: sqlite3.Cursor) -> None:
    """Add which sagas and definitions are paused."""
    for statement in _PAUSES:
        cursor.execute(statement)


def show_fields(cursor: sqlite3.Cursor) -> None:
    """Make room for what sagas show."""
    cursor.execute("ALTER TABLE saga_index ADD COLUMN shown TEXT")


def _write_turns(cursor: sqlite3.Cursor, numbers: Mapping[str, int]) -> None:
    """Write in order of the log; each turn takes the place of its first entry."""
    reader = cursor.connection.cursor()
    reader.execute(
        "SELECT originator_id, originator_version, topic, state, rowid FROM old_stored_events "
        "ORDER BY rowid"
    )
    turns_before: dict[str, int] = {}
    rows: list[tuple[int, str, int, str, bytes]] = []
    for old_originator, entries in groupby(reader, key=itemgetter(0)):
        originator_id = originator_of_number(numbers[old_originator])
        turns = turns_of(saga_id_of(old_originator), (OldRow(*entry[1:]) for entry in entries))
        number = turns_before.get(old_originator, 0)
        for number, turn in enumerate(turns, number + 1):  # noqa: B020 - goes on counting
            rows.append((turn.place, originator_id, number, turn.topic, turn.state))
        turns_before[old_originator] = number
        if len(rows) >= ROWS_TOGETHER:
            cursor.executemany(_INSERT_TURNS, rows)
            rows.clear()
    cursor.executemany(_INSERT_TURNS, rows)


def _keep_sequence(cursor: sqlite3.Cursor, table: str, old_table: str) -> None:
    """Have *table* give no id that *old_table* has given."""
    row = cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (old_table,)).fetchone()
    if row is not None:
        cursor.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        cursor.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, row[0]))


def keep_runs(cursor: sqlite3.Cursor) -> None:
    """Have a place for where the last run of a saga begins, of those that have several."""
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS saga_runs (saga INTEGER PRIMARY KEY, turn INTEGER NOT NULL)"
    )


def keep_snapshots(cursor: sqlite3.Cursor) -> None:
    """Have a place for what long sagas have come to: each row may be removed at any time."""
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS saga_snapshots (saga INTEGER PRIMARY KEY, "
        "definition TEXT NOT NULL, definition_version INTEGER NOT NULL, code TEXT NOT NULL, "
        "turns INTEGER NOT NULL, version INTEGER NOT NULL, state BLOB NOT NULL, "
        "proof BLOB NOT NULL)"
    )


MIGRATIONS: Final[tuple[Migration, ...]] = (
    create_tables,
    from_entries_to_turns,
    know_of_pauses,
    show_fields,
    keep_runs,
    keep_snapshots,
)
STORE_VERSION: Final = len(MIGRATIONS)
