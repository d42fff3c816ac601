"""Whose store a file has: the tables of facts, and what they say."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Final

from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.whose import Serves, refuse_others, served_by, stored_in

STORE_FACTS: Final = "store_facts"
INBOX_FACTS: Final = "saga_inbox_facts"
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS {} (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
)


def settle_whose(database: SqliteDatabase, table: str, serves: Serves) -> None:
    """Have the store remember whom it serves, where it can be written; blocks.

    Raises:
        StoreForeign: it serves somebody else.
        StoreUnavailable: the file cannot be used.
    """
    work = partial(_settle, database.path, table, serves, may_write=database.can_write)
    if not database.can_write or database.read_now(partial(whose, table)) is not None:
        database.read_now(work)
    else:
        database.change(work)


def _settle(
    path: str, table: str, serves: Serves, cursor: sqlite3.Cursor, *, may_write: bool
) -> None:
    stored = whose(table, cursor)
    earlier: set[Serves] = set()
    if stored is None and table == STORE_FACTS:
        rows = cursor.execute("SELECT application_name FROM tracking").fetchall()
        earlier = served_by(name for (name,) in rows)
    refuse_others(path, serves, stored, earlier)
    if stored is None and may_write:
        adopt(table, serves, cursor)


def adopt_file(path: str, table: str, serves: Serves) -> None:
    """Have the store in a file that is there serve *serves* from now on; blocks."""
    database = SqliteDatabase(path, is_theirs=True)
    try:
        database.change(partial(adopt, table, serves))
    finally:
        database.abandon()


def whose_file(path: str, table: str) -> Serves | None:
    """Whom the store in a file serves; None where it does not say; blocks."""
    database = SqliteDatabase(path, is_to_write=False, is_theirs=True)
    try:
        return database.read_now(partial(whose, table))
    finally:
        database.abandon()


def adopt(table: str, serves: Serves, cursor: sqlite3.Cursor) -> None:
    """Have the store serve *serves* from now on, whomever it has served."""
    cursor.execute(_TABLE.format(table))
    cursor.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", serves.facts())


def whose(table: str, cursor: sqlite3.Cursor) -> Serves | None:
    """Whom the store serves; None where it does not say."""
    there = cursor.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if there == (0,):
        return None
    return stored_in(dict(cursor.execute(f"SELECT name, value FROM {table}").fetchall()))
