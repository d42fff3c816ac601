"""Whose store a database has: the tables of facts, and what they say."""

from __future__ import annotations

from typing import Any, Final

from psycopg import Connection

from saga.adapters.postgres.database import Address, translated
from saga.adapters.whose import Serves, refuse_others, served_by, stored_in

STORE_FACTS: Final = "store_facts"
INBOX_FACTS: Final = "saga_inbox_facts"
_THERE: Final = "SELECT to_regclass(quote_ident(%s)) IS NOT NULL"
_TABLE: Final = "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, value text NOT NULL)"


def settle_whose(address: Address, table: str, serves: Serves) -> None:
    """Have the store remember whom it serves; blocks.

    Raises:
        StoreForeign: it serves somebody else.
        StoreUnavailable: the database cannot be used.
    """
    with translated(address.name), address.connect() as connection, connection.transaction():
        stored = _whose(connection, table)
        earlier: set[Serves] = set()
        if stored is None and table == STORE_FACTS:
            rows = connection.execute("SELECT application_name FROM notification_tracking")
            earlier = served_by(name for (name,) in rows.fetchall())
        refuse_others(address.name, serves, stored, earlier)
        if stored is None:
            # Of two that are first at the same time one is refused.
            connection.execute(
                "SELECT pg_advisory_xact_lock(%s, %s)", address.lock_key("migration")
            )
            refuse_others(address.name, serves, _whose(connection, table))
            _write(connection, table, serves)


def adopt(address: Address, table: str, serves: Serves) -> None:
    """Have the store serve *serves* from now on, whomever it has served; blocks.

    Raises:
        StoreUnavailable: the database cannot be used.
    """
    with translated(address.name), address.connect() as connection, connection.transaction():
        _write(connection, table, serves)


def whose(address: Address, table: str) -> Serves | None:
    """Whom the store serves; None where it does not say; blocks.

    Raises:
        StoreUnavailable: the database cannot be used.
    """
    with translated(address.name), address.connect() as connection:
        return _whose(connection, table)


def _whose(connection: Connection[Any], table: str) -> Serves | None:
    if connection.execute(_THERE, (table,)).fetchone() != (True,):
        return None
    return stored_in(dict(connection.execute(f"SELECT name, value FROM {table}").fetchall()))


def _write(connection: Connection[Any], table: str, serves: Serves) -> None:
    if connection.execute(_THERE, (table,)).fetchone() != (True,):
        connection.execute(_TABLE.format(table))
    for row in serves.facts():
        connection.execute(
            f"INSERT INTO {table} VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            row,
        )
