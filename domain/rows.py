"""Many rows in few statements, in the SQL that SQLite and PostgreSQL share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from saga.effects import Database

__all__ = ["insert_rows"]

STATEMENT_ROWS_MAX: Final = 250


async def insert_rows(
    db: Database,
    table: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | int]],
    *,
    unless_there: bool = False,
) -> int:
    """Insert *rows* and return how many are new; with *unless_there* existing keys are left alone.

    *table* and *columns* become part of the statement: never pass texts of messages.
    """
    inserted = 0
    for first in range(0, len(rows), STATEMENT_ROWS_MAX):
        chunk = rows[first : first + STATEMENT_ROWS_MAX]
        places = ", ".join(
            f"({', '.join(f':{column}_{number}' for column in columns)})"
            for number in range(len(chunk))
        )
        params = {
            f"{column}_{number}": value
            for number, row in enumerate(chunk)
            for column, value in zip(columns, row, strict=True)
        }
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES {places}"  # noqa: S608  # names of our own
        if unless_there:
            sql += " ON CONFLICT DO NOTHING"
        inserted += await db.execute(sql, **params)
    return inserted
