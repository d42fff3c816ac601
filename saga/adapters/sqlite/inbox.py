"""The inbox table of effect services in SQLite: its schema and the statements on it.

A saga has a number here, in order of its first appearance, and its rows are found by that number:
an index entry stands at the end, beside those of the sagas that run at the same time. A commit
writes whole pages, and keys in no order would cost one each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from saga.adapters.sqlite.statements import ManyRows
from saga.core.events import ReplyOutcome
from saga.ports.effects_store import InboxRow, InboxWrite

COMPONENT: Final = "effects"
NUMBERS_KNOWN_MAX: Final = 65_536

_TABLES: Final = (
    """CREATE TABLE saga_inbox_sagas (
        number INTEGER PRIMARY KEY,
        saga_id TEXT NOT NULL UNIQUE)""",
    """CREATE TABLE saga_inbox (
        saga INTEGER NOT NULL,
        step TEXT NOT NULL,
        service TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        contract TEXT,
        payload TEXT,
        code TEXT,
        message TEXT,
        digest BLOB,
        handled_at INTEGER NOT NULL,
        undone INTEGER NOT NULL,
        UNIQUE (saga, step, service))""",
)
_REST: Final = "attempt, outcome, contract, payload, code, message, digest, handled_at, undone"
_INSERT: Final = ManyRows(
    f"INSERT INTO saga_inbox (saga, step, service, {_REST}) VALUES {{values}} "
    "ON CONFLICT DO NOTHING",
    columns=12,
)
_SELECT: Final = ManyRows(
    "SELECT wanted.column3, inbox.service, "
    + ", ".join(f"inbox.{column}" for column in _REST.split(", "))
    # CROSS JOIN fixes the order: look up each wanted key, never scan the inbox.
    + " FROM {rows} AS wanted CROSS JOIN saga_inbox_sagas AS sagas"
    " ON sagas.saga_id = wanted.column1 CROSS JOIN saga_inbox AS inbox"
    " ON inbox.saga = sagas.number AND inbox.step = wanted.column2"
    " AND inbox.service = wanted.column4",
    columns=4,
)
_REPLACE: Final = f"""UPDATE saga_inbox SET ({_REST}) = ({", ".join("?" * 9)})
    WHERE saga = ? AND step = ? AND service = ? AND attempt = ? AND outcome = ? AND undone = ?"""
_NUMBER_NEW: Final = ManyRows(
    "INSERT INTO saga_inbox_sagas (saga_id) VALUES {values} ON CONFLICT DO NOTHING", 1
)
_NUMBERS: Final = ManyRows(
    "SELECT saga_id, number FROM saga_inbox_sagas WHERE saga_id IN {rows}", 1
)
_FROM_VERSION_1: Final = (
    "ALTER TABLE saga_inbox RENAME TO saga_inbox_by_key",
    *_TABLES,
    """INSERT INTO saga_inbox_sagas (saga_id) SELECT saga_id FROM (
        SELECT substr(key, 1, instr(key || '/', '/') - 1) AS saga_id, min(rowid) AS first
        FROM saga_inbox_by_key GROUP BY saga_id) ORDER BY first""",
    f"""INSERT INTO saga_inbox (saga, step, service, {_REST})
        SELECT sagas.number, substr(key, length(sagas.saga_id) + 2), service, {_REST}
        FROM saga_inbox_by_key AS old JOIN saga_inbox_sagas AS sagas
        ON sagas.saga_id = substr(old.key, 1, instr(old.key || '/', '/') - 1)
        ORDER BY old.rowid""",
    "DROP TABLE saga_inbox_by_key",
    "DROP TABLE saga_effects_schema",
)


def create_tables(cursor: sqlite3.Cursor) -> None:
    """Make the tables, or bring those of before over: an inbox keyed by text."""
    is_old = cursor.execute(
        "SELECT count(*) FROM sqlite_master WHERE name = 'saga_effects_schema'"
    ).fetchone()[0]
    for statement in _FROM_VERSION_1 if is_old else _TABLES:
        cursor.execute(statement)


class Inbox:
    """The statements of one store, and the numbers of sagas that it has met lately."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._uncommitted: dict[str, int] = {}

    def select(
        self, cursor: sqlite3.Cursor, service: str, keys: Iterable[str]
    ) -> dict[str, InboxRow]:
        """The rows of *keys*, by key."""
        wanted = [(*_split(key), key, service) for key in keys]
        rows = [_row(columns) for columns in _SELECT.fetch(cursor, wanted)]
        return {row.key: row for row in rows}

    def insert(self, cursor: sqlite3.Cursor, rows: Sequence[InboxRow]) -> int:
        """Insert the rows whose key is free and return how many those were."""
        places = [_split(row.key) for row in rows]
        numbers = self._numbers_of(cursor, [saga for saga, _ in places])
        return _INSERT.execute(
            cursor,
            [
                (numbers[saga], step, row.service, *row[2:])
                for (saga, step), row in zip(places, rows, strict=True)
            ],
        )

    def write(self, cursor: sqlite3.Cursor, write: InboxWrite) -> bool:
        """Insert or replace one row; False where something else is in its place by now."""
        replaced = write.replaces
        if replaced is None:
            return self.insert(cursor, [write.row]) == 1
        saga, step = _split(replaced.key)
        number = self._numbers_of(cursor, [saga])[saga]
        expected = (replaced.service, replaced.attempt, replaced.outcome, replaced.undone)
        cursor.execute(_REPLACE, (*write.row[2:], number, step, *expected))
        return cursor.rowcount == 1

    def committed(self) -> None:
        """The numbers given in the transaction that has ended are good."""
        if len(self._numbers) + len(self._uncommitted) > NUMBERS_KNOWN_MAX:
            self._numbers.clear()
        self._numbers.update(self._uncommitted)
        self._uncommitted.clear()

    def rolled_back(self) -> None:
        """The numbers given in the transaction that has ended are nobody's."""
        self._uncommitted.clear()

    def _numbers_of(self, cursor: sqlite3.Cursor, sagas: Sequence[str]) -> dict[str, int]:
        """The numbers of these sagas, which those that are new are given here."""
        numbers: dict[str, int] = {}
        unknown: dict[str, None] = {}
        for saga in sagas:
            number = self._numbers.get(saga) or self._uncommitted.get(saga)
            if number is None:
                unknown[saga] = None
            else:
                numbers[saga] = number
        if unknown:
            rows = [(saga,) for saga in unknown]
            _NUMBER_NEW.execute(cursor, rows)
            for saga, number in _NUMBERS.fetch(cursor, rows):
                self._uncommitted[saga] = numbers[saga] = number
        return numbers


def _split(key: str) -> tuple[str, str]:
    """The saga in an idempotency key, and what follows it: the step and its direction."""
    saga, _, step = key.partition("/")
    return saga, step


def _row(columns: Sequence[object]) -> InboxRow:
    key, service, *rest = columns
    row = InboxRow._make((service, key, *rest))
    return row._replace(outcome=ReplyOutcome(row.outcome), undone=bool(row.undone))
