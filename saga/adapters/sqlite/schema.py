"""How the event store's tables come to be, and how those of earlier versions are brought over.

Version 1 had one event an entry; now it is one event a turn, in one transaction.

Version 1 had saga ids as originator ids and rows of the index and of timers in other places. The
order of the log is kept, and so are backlog, positions and unhandled records. An entry that cannot
be read is kept as it is: its saga stays corrupt, and is named.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
from eventsourcing.sqlite import SQLiteDatastore, SQLiteProcessRecorder

from saga.adapters.mapper import TURN
from saga.adapters.rows import originator_of_number
from saga.adapters.sqlite.connection import connect, translated
from saga.adapters.sqlite.database import Migration, SqliteDatabase, stored_version
from saga.core import history as registry
from saga.core.history import FACTS, NAMES

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
    # Ids are never given twice: what is said late of an old one must not hit a new one.
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
    # Kept free for what is known to come. Of a source that `tracking` names, the topic's id and the
    # cluster's; of the store, facts as `environment` and `namespace`.
    "CREATE TABLE sources (name TEXT PRIMARY KEY, topic_id TEXT, cluster_id TEXT) WITHOUT ROWID",
    "CREATE TABLE store_facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)

_OLD: Final = ("stored_events", "saga_index", "timers", "backlog")
_FACT_NAMES: Final = frozenset(name for name, kind in NAMES.items() if kind in FACTS)
_SAGA_COLUMNS: Final = (
    "saga_id, definition, definition_version, key, status, started_at, updated_at, waiting_for, "
    "reason, version"
)
_NUMBER_SAGAS: Final = (
    f"INSERT INTO saga_index ({_SAGA_COLUMNS}) SELECT {_SAGA_COLUMNS} FROM old_saga_index "
    "ORDER BY position"
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


class _Turn(NamedTuple):
    """The entries of one turn, as rows of version 1: their places and topics and states."""

    originator_id: str
    rows: list[tuple[int, int, str, bytes]]


def create_tables(cursor: sqlite3.Cursor) -> None:
    """Make the library's tables as its own recorder makes them, then ours."""
    datastore = SQLiteDatastore(":memory:", single_row_tracking=True, originator_id_type="uuid")
    library = SQLiteProcessRecorder(datastore).construct_create_table_statements()
    datastore.close()
    for statement in (*library, *_TABLES):
        cursor.execute(statement)


def stored_store_version(path: str) -> int:
    """The version of the event store's tables in the file at *path*; 0 where there are none.

    Raises:
        StoreTooNew: a newer version of saga wrote the file.
        StoreUnavailable: it cannot be read.
    """
    if not Path(path).exists():
        return 0
    connection = connect(path)
    try:
        with translated(path):
            return stored_version(connection.cursor(), path, COMPONENT, STORE_VERSION)
    finally:
        connection.close()


def migrate_store(path: str) -> int:
    """Bring the file at *path* to the version that is needed; the one that was there before.

    One transaction: if it ends early, the file is as it was. What still uses the file must be
    stopped first, or it finds its tables changed.

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
    """Rewrite tables of version 1; nothing where they were made new."""
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
    backlog = cursor.execute("SELECT * FROM old_backlog ORDER BY backlog_id").fetchall()
    places = _write_turns(
        cursor, numbers, {row[1] for row in backlog} | {row[2] for row in backlog}
    )
    for backlog_id, first, last, appended_at in backlog:
        row = (backlog_id, places[first], places[last], appended_at)
        cursor.execute("INSERT INTO backlog VALUES (?, ?, ?, ?)", row)
    _keep_sequence(cursor, "backlog", "old_backlog")
    cursor.execute(_TIMERS)
    cursor.execute(_UNHANDLED)
    _keep_sequence(cursor, "unhandled", "parked")
    for table in (*(f"old_{table}" for table in _OLD), "parked"):
        cursor.execute(f"DROP TABLE {table}")


def _write_turns(
    cursor: sqlite3.Cursor, numbers: Mapping[str, int], wanted: set[int]
) -> dict[int, int]:
    """Write all turns in order of the log; the new places of the *wanted* old ones."""
    places: dict[int, int] = {}
    turns_of: dict[str, int] = {}
    reader = cursor.connection.cursor()
    reader.execute(
        "SELECT rowid, originator_id, originator_version, topic, state FROM old_stored_events "
        "ORDER BY rowid"
    )
    rows: list[tuple[str, int, str, bytes]] = []
    for place, turn in enumerate(_turns(reader), 1):
        places.update((row[0], place) for row in turn.rows if row[0] in wanted)
        number = turns_of[turn.originator_id] = turns_of.get(turn.originator_id, 0) + 1
        originator_id = originator_of_number(numbers[turn.originator_id])
        rows.append((originator_id, number, TURN, _state_of(turn, is_first=number == 1)))
        if len(rows) == ROWS_TOGETHER:
            cursor.executemany("INSERT INTO stored_events VALUES (?, ?, ?, ?)", rows)
            rows.clear()
    cursor.executemany("INSERT INTO stored_events VALUES (?, ?, ?, ?)", rows)
    return places


def _turns(rows: Iterable[tuple[int, str, int, str, bytes]]) -> Iterator[_Turn]:
    """The entries of the log, turn by turn: each begins with a fact."""
    turn: _Turn | None = None
    for place, originator_id, version, topic, state in rows:
        begins = topic in _FACT_NAMES or turn is None or turn.originator_id != originator_id
        if begins:
            if turn is not None:
                yield turn
            turn = _Turn(originator_id, [])
        assert turn is not None
        turn.rows.append((place, version, topic, state))
    if turn is not None:
        yield turn


def _state_of(turn: _Turn, *, is_first: bool) -> bytes:
    first = turn.rows[0][1]
    try:
        plain_entries = [orjson.loads(state) for _, _, _, state in turn.rows]
        shared = [(plain.pop("at"), plain.pop("cause")) for plain in plain_entries]
        entries = [
            _upgraded(topic, plain)
            for (_, _, topic, _), plain in zip(turn.rows, plain_entries, strict=True)
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return b"\n".join(state for _, _, _, state in turn.rows)
    at, cause = shared[0]
    state: dict[str, Any] = {"at": at, "cause": cause, "entries": entries, "first": first}
    if is_first:
        digits = turn.originator_id
        state["saga"] = "-".join(
            (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        )
    return orjson.dumps(state, option=orjson.OPT_SORT_KEYS)


def _upgraded(name: str, plain: dict[str, Any]) -> dict[str, Any]:
    """The plain form that stands for an entry of version 1 today."""
    upgrade = getattr(registry, "upgrade_plain", None)
    if upgrade is not None:
        name, plain = upgrade(name, plain)
    plain["type"] = name
    return plain


def _keep_sequence(cursor: sqlite3.Cursor, table: str, old_table: str) -> None:
    """Have *table* give no id that *old_table* has given."""
    row = cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (old_table,)).fetchone()
    if row is not None:
        cursor.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        cursor.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, row[0]))


MIGRATIONS: Final[tuple[Migration, ...]] = (create_tables, from_entries_to_turns)
STORE_VERSION: Final = len(MIGRATIONS)
