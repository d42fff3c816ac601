"""The inbox table of effect services in SQLite: its schema and the statements on it.

Sagas are numbered in the order they appear, so that the rows of those that run at the same time
share pages: a commit writes whole ones, and keys in no order would cost one each.

There may be a second inbox, in another file: of a key that is in both, the newer row counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from operator import attrgetter, itemgetter, methodcaller
from typing import Any, Final, TypeVar

from saga.adapters.rows import inbox_read
from saga.adapters.sqlite.connection import is_refusal
from saga.adapters.sqlite.statements import ManyRows
from saga.core.events import ReplyOutcome
from saga.core.texts import described
from saga.ports.effects_store import InboxRow, InboxWrite, Kept, NotKept, Unit

COMPONENT: Final = "effects"
Elsewhere = Kept[tuple[str, str]]
"""What another inbox has, by service and key."""
Ended = tuple[Unit, Sequence[InboxWrite]]
"""A unit that has written nothing but these rows."""
K = TypeVar("K")
_key: Final = attrgetter("key")
_saga: Final = itemgetter(0)
_split: Final = methodcaller("partition", "/")
"""Of an idempotency key the saga, and behind a slash the step and its direction."""

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
_NUMBER_OF: Final = "(SELECT number FROM saga_inbox_sagas WHERE saga_id = ?)"
_NUMBER_NEW: Final = ManyRows(
    "INSERT INTO saga_inbox_sagas (saga_id) VALUES {values} ON CONFLICT DO NOTHING", 1
)
_INSERT: Final = ManyRows(
    f"INSERT INTO saga_inbox (saga, step, service, {_REST}) VALUES {{values}} "
    "ON CONFLICT DO NOTHING",
    columns=12,
    row=f"({_NUMBER_OF}{',?' * 11})",
)
_SELECT_ONE: Final = f"""SELECT {_REST} FROM saga_inbox
    WHERE saga = {_NUMBER_OF} AND step = ? AND service = ?"""
_IS_EMPTY: Final = "SELECT NOT EXISTS (SELECT 1 FROM saga_inbox)"
_SELECT: Final = ManyRows(
    "SELECT wanted.column4, "
    + ", ".join(f"inbox.{column}" for column in _REST.split(", "))
    # CROSS JOIN fixes the order: look up each wanted key, never scan the inbox.
    + " FROM {rows} AS wanted CROSS JOIN saga_inbox_sagas AS sagas"
    " ON sagas.saga_id = wanted.column1 CROSS JOIN saga_inbox AS inbox"
    " ON inbox.saga = sagas.number AND inbox.step = wanted.column2"
    " AND inbox.service = wanted.column3",
    columns=4,
)
_REPLACE: Final = f"""UPDATE saga_inbox SET ({_REST}) = ({", ".join("?" * 9)})
    WHERE saga = {_NUMBER_OF} AND step = ? AND service = ?
    AND attempt = ? AND outcome = ? AND undone = ?"""
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
    """Make the tables, or bring over an old inbox keyed by text."""
    is_old = cursor.execute(
        "SELECT count(*) FROM sqlite_master WHERE name = 'saga_effects_schema'"
    ).fetchone()[0]
    for statement in _FROM_VERSION_1 if is_old else _TABLES:
        cursor.execute(statement)


def rows_may_be_elsewhere(_: sqlite3.Cursor) -> None:
    """Version 2 may have rows in the bus's file: who knows version 1 would not look there."""


MIGRATIONS: Final = (create_tables, rows_may_be_elsewhere)


def select_rows(service: str, keys: Sequence[str], cursor: sqlite3.Cursor) -> Kept[str]:
    if len(keys) == 1:
        saga, _, step = _split(keys[0])
        columns = cursor.execute(_SELECT_ONE, (saga, step, service)).fetchone()
        found = [] if columns is None else [(keys[0], columns)]
    elif cursor.execute(_IS_EMPTY).fetchone()[0]:  # as that beside the one that is used mostly
        found = []
    else:
        places = zip(keys, map(_split, keys), strict=True)
        wanted = [(saga, step, service, key) for key, (saga, _, step) in places]
        found = [(key, columns) for key, *columns in _SELECT.fetch(cursor, wanted)]
    return inbox_read(found, partial(_row, service)) if found else Kept()


def select_written(writes: Iterable[InboxWrite], cursor: sqlite3.Cursor) -> Elsewhere:
    """The rows of the keys of *writes*."""
    keys: dict[str, list[str]] = {}
    for row, _ in writes:
        keys.setdefault(row.service, []).append(row.key)
    found = Elsewhere()
    for service, wanted in keys.items():
        kept = select_rows(service, wanted, cursor)
        found.update(((service, key), row) for key, row in kept.items())
        found.damaged |= {(service, key): what for key, what in kept.damaged.items()}
    return found


def take_newer(kept: Kept[K], others: Kept[K]) -> None:
    """Have in *kept* what *others* have in addition, or newer."""
    for key, other in others.items():
        own = kept.get(key)
        if own is None or _age(other) > _age(own):
            kept[key] = other
    kept.damaged |= others.damaged


def write_units(cursor: sqlite3.Cursor, units: Sequence[Ended], elsewhere: Elsewhere) -> NotKept:
    """Write the rows; where the file refuses one of them, unit by unit."""
    if len(units) == 1 and len(units[0][1]) == 1:
        return _write_alone(cursor, *units[0], elsewhere)
    cursor.execute("SAVEPOINT rows")
    try:
        not_kept = _write_together(cursor, units, elsewhere)
    except Exception as error:
        if not is_refusal(error):
            raise
        cursor.execute("ROLLBACK TO rows")
        not_kept = _write_one_by_one(cursor, units, elsewhere)
    cursor.execute("RELEASE rows")
    return not_kept


def write_rows(cursor: sqlite3.Cursor, writes: Sequence[InboxWrite], elsewhere: Elsewhere) -> bool:
    """False where a row is no longer as expected; the caller undoes what was written before it."""
    return all(_write(cursor, write, elsewhere) for write in writes)


def _write_alone(
    cursor: sqlite3.Cursor, unit: Unit, writes: Sequence[InboxWrite], elsewhere: Elsewhere
) -> NotKept:
    """Of one row that is refused only the number of its saga stays, which does no harm."""
    try:
        return NotKept(() if _write(cursor, writes[0], elsewhere) else (unit,))
    except Exception as error:
        if not is_refusal(error):
            raise
        return NotKept(refused={unit: described(error)})


def _write_together(
    cursor: sqlite3.Cursor, units: Sequence[Ended], elsewhere: Elsewhere
) -> NotKept:
    if len(units) > 1:
        new: list[InboxRow] = []
        others: list[Ended] = []
        taken = elsewhere.keys() | elsewhere.damaged.keys()
        for unit, writes in units:
            row, replaced = writes[0]
            is_new = replaced is None and not (taken and (row.service, row.key) in taken)
            if is_new and len(writes) == 1:
                new.append(row)
            else:
                others.append((unit, writes))
        if _insert_all_or_none(cursor, new):
            units = others
    return NotKept(
        unit for unit, writes in units if not _write_all_or_none(cursor, writes, elsewhere)
    )


def _write_one_by_one(
    cursor: sqlite3.Cursor, units: Sequence[Ended], elsewhere: Elsewhere
) -> NotKept:
    not_kept = NotKept()
    for unit, writes in units:
        cursor.execute("SAVEPOINT one")
        try:
            if not _write_all_or_none(cursor, writes, elsewhere):
                not_kept.add(unit)
        except Exception as error:
            if not is_refusal(error):
                raise
            cursor.execute("ROLLBACK TO one")
            not_kept.refused[unit] = described(error)
        cursor.execute("RELEASE one")
    return not_kept


def _write_all_or_none(
    cursor: sqlite3.Cursor, writes: Sequence[InboxWrite], elsewhere: Elsewhere
) -> bool:
    """False, and nothing is written, where a row is no longer as expected."""
    if len(writes) == 1:
        return _write(cursor, writes[0], elsewhere)
    cursor.execute("SAVEPOINT inbox")
    is_kept = write_rows(cursor, writes, elsewhere)
    if not is_kept:
        cursor.execute("ROLLBACK TO inbox")
    cursor.execute("RELEASE inbox")
    return is_kept


def _insert_all_or_none(cursor: sqlite3.Cursor, rows: Sequence[InboxRow]) -> bool:
    """False, and nothing is written, where a key is not free."""
    cursor.execute("SAVEPOINT inbox")
    is_kept = _insert(cursor, rows) == len(rows)
    if not is_kept:
        cursor.execute("ROLLBACK TO inbox")
    cursor.execute("RELEASE inbox")
    return is_kept


def _write(cursor: sqlite3.Cursor, write: InboxWrite, elsewhere: Elsewhere) -> bool:
    row, replaced = write
    if elsewhere or elsewhere.damaged:
        place = (row.service, row.key)
        if place in elsewhere.damaged:
            return False
        if (other := elsewhere.get(place)) is not None:
            own = select_rows(row.service, [row.key], cursor).get(row.key)
            if own is None or _age(other) > _age(own):
                if replaced is None or _state(other) != _state(replaced):
                    return False
                replaced = own  # what is here is older, and gives way
    if replaced is None:
        return _insert(cursor, [row]) == 1
    saga, _, step = _split(replaced.key)
    expected = (replaced.service, replaced.attempt, replaced.outcome, replaced.undone)
    cursor.execute(_REPLACE, (*row[2:], saga, step, *expected))
    return cursor.rowcount == 1


def _age(row: InboxRow) -> tuple[int, bool]:
    """What grows with each row that takes the place of another."""
    return row.attempt, row.undone


def _state(row: InboxRow) -> tuple[int, ReplyOutcome, bool]:
    return row.attempt, row.outcome, row.undone


def _insert(cursor: sqlite3.Cursor, rows: Sequence[InboxRow]) -> int:
    places = zip(rows, map(_split, map(_key, rows)), strict=True)
    placed = [(saga, step, row.service, *row[2:]) for row, (saga, _, step) in places]
    sagas = dict.fromkeys(map(_saga, placed))
    _NUMBER_NEW.execute(cursor, [(saga,) for saga in sagas])
    return _INSERT.execute(cursor, placed)


def _row(service: str, key: str, *columns: Any) -> InboxRow:
    row = InboxRow._make((service, key, *columns))
    return row._replace(outcome=ReplyOutcome(row.outcome), undone=bool(row.undone))
