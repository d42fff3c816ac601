"""
Statements over many rows at once.

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
    """
    A statement over up to any number of rows; `{rows}` in *template* stands for them.

    The first column of a row must not be null. *template* sees columns named column1, column2, …
    """

    def __init__(self, template: str, columns: int) -> None:
        self._template = template
        self._columns = columns

    def execute(self, cursor: sqlite3.Cursor, rows: Sequence[Iterable[Any]]) -> int:
        """
        Run it over *rows* and return how many rows of the table were changed.
        """
        if len(rows) <= ROWS_MAX:
            return self._execute_some(cursor, rows)
        return sum(
            self._execute_some(cursor, rows[start : start + ROWS_MAX])
            for start in range(0, len(rows), ROWS_MAX)
        )

    def fetch(self, cursor: sqlite3.Cursor, rows: Sequence[Iterable[Any]]) -> list[Any]:
        """
        Run it as a query and return all it finds.
        """
        found: list[Any] = []
        for start in range(0, len(rows), ROWS_MAX):
            self._execute_some(cursor, rows[start : start + ROWS_MAX])
            found += cursor.fetchall()
        return found

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
def _statement(template: str, columns: int, size: int) -> str:
    row = f"({','.join('?' * columns)})"
    values = ",".join([row] * size)
    return template.replace(
        "{rows}", f"(SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL)"
    )
