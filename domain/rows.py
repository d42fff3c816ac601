"""Tables with their first rows, and many rows in few statements, for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from saga.effects import Database

STATEMENT_ROWS_MAX: Final = 250
Row = Sequence[str | int]


async def open_tables(
    db: Database,
    statements: Sequence[str],
    table: str,
    columns: Sequence[str],
    first_rows: Callable[[], Sequence[Row]],
) -> None:
    """Make tables by *statements*, and fill *table* with *first_rows* the first time."""
    for statement in statements:
        await db.execute(statement)
    if not await db.fetch(f"SELECT 1 AS one FROM {table} LIMIT 1"):  # noqa: S608  # a name of ours
        await insert_rows(db, table, columns, first_rows(), unless_there=True)


async def insert_rows(
    db: Database,
    table: str,
    columns: Sequence[str],
    rows: Sequence[Row],
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
