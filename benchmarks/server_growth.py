"""Growth on PostgreSQL: what a second costs while things wait, and a saga beside all of a store.

The curves are those of `benchmarks.growth_waiting`. A cost is what the server has touched: pages of
tables and indexes, rows and their places in indexes, as its statistics tell.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg
from typing_extensions import override

from benchmarks import growth_waiting
from benchmarks.growth import Points
from benchmarks.growth_waiting import STEPS_MAX, CurveOfStore
from saga.adapters.postgres import (
    Address,
    PostgresCatalogue,
    PostgresDatabase,
    PostgresEventStore,
)
from saga.adapters.postgres.pipeline import Session
from saga.ports import Catalogue, EventStore

SIZES: Final = growth_waiting.SIZES
POLL_S: Final = 0.001
T = TypeVar("T")
CurveOnServer = Callable[[Sequence[int], str], Points]

_FLUSH: Final = "SELECT pg_stat_force_next_flush()"
_TOUCHED: Final = (
    "SELECT ((SELECT sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read, 0) "
    "+ coalesce(idx_blks_hit, 0)) FROM pg_statio_user_tables) "
    "+ (SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables) "
    "+ (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes))::bigint"
)
_TABLES: Final = "SELECT relname FROM pg_stat_user_tables"


class OnServer:
    """A store in a database of its own on the server at *address*, dropped at the end."""

    def __init__(self, address: str) -> None:
        self._server = address
        self._name = f"bench_{secrets.token_hex(6)}"
        self._on_server(f"CREATE DATABASE {self._name} TEMPLATE template0")
        own = urlunsplit(urlsplit(address)._replace(path=f"/{self._name}"))
        self.loop = asyncio.new_event_loop()
        self._database = _Watched(Address(own))
        self.store: EventStore = _Timeless(self._database)
        self.catalogue: Catalogue = PostgresCatalogue(self._database)
        self._own = psycopg.connect(own, autocommit=True)

    def run(self, act: Awaitable[T]) -> T:
        return self.loop.run_until_complete(_awaited(act))

    def cost(self, act: Callable[[], Awaitable[object]]) -> int:
        """Pages and rows that *act* touches."""
        before = self._touched()
        self.run(act())
        return self._touched() - before

    async def settle(self) -> None:
        for _ in range(STEPS_MAX):
            await asyncio.sleep(0)
            while self._database.borrowed:  # noqa: ASYNC110  # answers take what they take
                await asyncio.sleep(POLL_S)

    def filled(self) -> None:
        """What the server does by itself, it does now and not while something is counted."""
        for (table,) in self._own.execute(_TABLES).fetchall():
            self._own.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
        self._own.execute("VACUUM (ANALYZE)")
        self._own.execute(_FLUSH)

    def forget(self) -> None:
        self.store = _Timeless(self._database)

    def close(self) -> None:
        self.run(self._database.close())
        self.loop.close()
        self._own.close()
        self._on_server(f"DROP DATABASE {self._name} WITH (FORCE)")

    def _touched(self) -> int:
        """By all sessions so far; that of the store first tells what it has not told yet."""
        self.run(self._database.fetch(_FLUSH))
        row = self._own.execute(_TOUCHED).fetchone()
        assert row is not None
        return int(row[0])

    def _on_server(self, statement: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(statement.encode())


class _Watched(PostgresDatabase):
    """A database of one session, and whether that is in use."""

    def __init__(self, address: Address) -> None:
        super().__init__(address, connections_max=1)
        self.borrowed = 0

    @override
    async def borrow(self) -> Session:
        self.borrowed += 1
        try:
            return await super().borrow()
        except BaseException:
            self.borrowed -= 1
            raise

    @override
    async def give_back(self, session: Session) -> None:
        await super().give_back(session)
        self.borrowed -= 1


class _Timeless(PostgresEventStore):
    """One that leaves the time to the clock of its worker."""

    @override
    async def now(self) -> Any:
        return None


def _on_server(curve: CurveOfStore) -> CurveOnServer:
    def points(sizes: Sequence[int], address: str) -> Points:
        return curve(sizes, partial(OnServer, address))

    return points


async def _awaited(act: Awaitable[T]) -> T:
    return await act


CURVES: Final[dict[str, CurveOnServer]] = {
    name: _on_server(curve) for name, curve in growth_waiting.CURVES.items()
}
