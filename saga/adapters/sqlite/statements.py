"""Statements over many rows at once.

`executemany` takes the interpreter's lock once a row, which stalls whenever another thread is busy.
Statements come in a few sizes, so that the prepared ones are used again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

ROWS_MAX: Final = 256


class ManyRows:
    """A *template* over any number of rows, in as many statements as it takes.

    In inserts `{values}` stands for them, each written as *row*. `{rows}` stands for a table with
    the columns column1, column2, …; column1 must not be null.
    """

    def __init__(self, template: str, columns: int, *, row: str | None = None) -> None:
        self._template = template
        self._columns = columns
        self._row = row or f"({','.join('?' * columns)})"
        self._is_insert = "{values}" in template
        self._statements: dict[int, str] = {}

    def execute(self, cursor: sqlite3.Cursor, rows: Sequence[Sequence[Any]]) -> int:
        """Returns how many rows of the table were changed."""
        if len(rows) == 1:
            cursor.execute(self._statements.get(1) or self._statement(1), rows[0])
            return cursor.rowcount
        changed = start = 0
        while start < len(rows):
            start = self._execute_some(cursor, rows, start)
            changed += cursor.rowcount
        return changed

    def fetch(self, cursor: sqlite3.Cursor, rows: Sequence[Sequence[Any]]) -> list[Any]:
        fetched: list[Any] = []
        start = 0
        while start < len(rows):
            start = self._execute_some(cursor, rows, start)
            fetched += cursor.fetchall()
        return fetched

    def _execute_some(
        self, cursor: sqlite3.Cursor, rows: Sequence[Sequence[Any]], start: int
    ) -> int:
        """Run one statement from row *start* on; returns where it ended."""
        left = min(len(rows) - start, ROWS_MAX)
        # The table in a query can be filled up with nulls, an insert cannot.
        size = 1 << ((left if self._is_insert else 2 * left - 1).bit_length() - 1)
        end = min(start + size, len(rows))
        values = [*chain.from_iterable(rows[start:end])]
        values += (None,) * (size * self._columns - len(values))
        cursor.execute(self._statements.get(size) or self._statement(size), values)
        return end

    def _statement(self, size: int) -> str:
        rows = ",".join([self._row] * size)
        table = f"(SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL)"
        text = self._template.replace("{values}", rows).replace("{rows}", table)
        self._statements[size] = text
        return text
