"""The inbox table of effect services in SQLite: its schema and the statements on it.

An index entry begins with the saga's id, so that the steps of one saga stand on one page whatever
services do them: a commit writes whole pages, and random keys would cost one each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from saga.adapters.sqlite.statements import ManyRows
from saga.core.events import ReplyOutcome
from saga.errors import StoreTooNew
from saga.ports.effects_store import InboxRow, InboxWrite

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS saga_effects_schema (version INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS saga_inbox (
        service TEXT NOT NULL,
        key TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        contract TEXT,
        payload TEXT,
        code TEXT,
        message TEXT,
        digest BLOB,
        handled_at INTEGER NOT NULL,
        undone INTEGER NOT NULL,
        UNIQUE (key, service))""",
)
_COLUMNS: Final = (
    "service, key, attempt, outcome, contract, payload, code, message, digest, handled_at, undone"
)
_INSERT: Final = ManyRows(
    f"INSERT INTO saga_inbox ({_COLUMNS}) VALUES {{values}} ON CONFLICT DO NOTHING",
    columns=len(InboxRow._fields),
)
_SELECT: Final = ManyRows(
    "SELECT "
    + ", ".join(f"inbox.{column}" for column in InboxRow._fields)
    # CROSS JOIN fixes the order: look up each wanted key, never scan the inbox.
    + " FROM {rows} AS wanted CROSS JOIN saga_inbox AS inbox"
    " ON inbox.key = wanted.column1 AND inbox.service = wanted.column2",
    columns=2,
)
_VALUES: Final = ", ".join("?" * len(InboxRow._fields))
_REPLACE: Final = f"""UPDATE saga_inbox SET ({_COLUMNS}) = ({_VALUES})
    WHERE key = ? AND service = ? AND attempt = ? AND outcome = ? AND undone = ?"""


def create_inbox(connection: sqlite3.Connection, path: str) -> None:
    """Make the table where there is none.

    Raises:
        StoreTooNew: the file has a later schema.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA:
            connection.execute(statement)
        found = connection.execute("SELECT max(version) FROM saga_effects_schema").fetchone()[0]
        if found is None:
            connection.execute("INSERT INTO saga_effects_schema VALUES (?)", (SCHEMA_VERSION,))
        elif found > SCHEMA_VERSION:
            raise StoreTooNew(
                f"{path}: its inbox has schema {found}, this saga knows {SCHEMA_VERSION}:"
                " upgrade saga"
            )
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def select_rows(cursor: sqlite3.Cursor, service: str, keys: Iterable[str]) -> dict[str, InboxRow]:
    """The rows of *keys*, by key."""
    found = _SELECT.fetch(cursor, [(key, service) for key in keys])
    return {row[1]: _row(row) for row in found}


def insert_rows(cursor: sqlite3.Cursor, rows: Sequence[InboxRow]) -> int:
    """Insert the rows whose key is free and return how many those were."""
    return _INSERT.execute(cursor, rows)


def write_row(cursor: sqlite3.Cursor, write: InboxWrite) -> bool:
    """Insert or replace one row; False where something else is in its place by now."""
    replaced = write.replaces
    if replaced is None:
        return insert_rows(cursor, [write.row]) == 1
    expected = (
        replaced.key,
        replaced.service,
        replaced.attempt,
        replaced.outcome,
        replaced.undone,
    )
    return cursor.execute(_REPLACE, (*write.row, *expected)).rowcount == 1


def _row(columns: tuple[object, ...]) -> InboxRow:
    row = InboxRow._make(columns)
    return row._replace(outcome=ReplyOutcome(row.outcome), undone=bool(row.undone))
