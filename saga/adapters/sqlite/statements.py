"""Statements over many rows at once.

`executemany` takes the interpreter's lock once a row, which stalls whenever another thread is busy;
one statement with all rows takes it once. Statements come in a few sizes, so that the prepared ones
are used again; the places left over hold nulls and are filtered out by SQLite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

ROWS_MAX: Final = 256


class ManyRows:
    """A statement over up to any number of rows; `{values}` or `{rows}` in *template* stands for
    them.

    `{values}` is for inserts: `VALUES {values}`, in as many statements as it takes. `{rows}` is a
    table of all rows with columns named column1, column2, …; the first one must not be null.
    """

    def __init__(self, template: str, columns: int) -> None:
        self._template = template
        self._columns = columns
        self._is_insert = "{values}" in template

    def execute(self, cursor: sqlite3.Cursor, rows: Sequence[Iterable[Any]]) -> int:
        """Run it over *rows* and return how many rows of the table were changed."""
        if self._is_insert:
            return self._insert(cursor, rows)
        if len(rows) <= ROWS_MAX:
            return self._execute_some(cursor, rows)
        return sum(
            self._execute_some(cursor, rows[start : start + ROWS_MAX])
            for start in range(0, len(rows), ROWS_MAX)
        )

    def fetch(self, cursor: sqlite3.Cursor, rows: Sequence[Iterable[Any]]) -> list[Any]:
        """Run it as a query and return all it finds."""
        fetched: list[Any] = []
        for start in range(0, len(rows), ROWS_MAX):
            self._execute_some(cursor, rows[start : start + ROWS_MAX])
            fetched += cursor.fetchall()
        return fetched

    def _insert(self, cursor: sqlite3.Cursor, rows: Sequence[Iterable[Any]]) -> int:
        changed = start = 0
        left = len(rows)
        while left:
            size = min(ROWS_MAX, 1 << (left.bit_length() - 1))
            some = rows if size == len(rows) else rows[start : start + size]
            cursor.execute(
                _insert(self._template, self._columns, size), [*chain.from_iterable(some)]
            )
            changed += cursor.rowcount
            start += size
            left -= size
        return changed

    def _execute_some(self, cursor: sqlite3.Cursor, rows: Sequence[Iterable[Any]]) -> int:
        if not rows:
            return 0
        size = 1 << (len(rows) - 1).bit_length()
        values = [*chain.from_iterable(rows)]
        missing = size * self._columns - len(values)
        if missing:
            values += (None,) * missing
        cursor.execute(_statement(self._template, self._columns, size), values)
        return cursor.rowcount


@lru_cache(maxsize=512)
def _insert(template: str, columns: int, size: int) -> str:
    return template.replace("{values}", _values(columns, size))


@lru_cache(maxsize=512)
def _statement(template: str, columns: int, size: int) -> str:
    return template.replace(
        "{rows}",
        f"(SELECT * FROM (VALUES {_values(columns, size)}) WHERE column1 IS NOT NULL)",
    )


def _values(columns: int, size: int) -> str:
    return ",".join([f"({','.join('?' * columns)})"] * size)
