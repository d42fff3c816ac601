"""The outbox table of a program's own database, as its relay sees it.

Events of transactions that followed each other are published in that order; a program that needs an
order has its transactions follow each other, by a lock on what they change. One relay at a time
publishes: it holds an advisory lock, which ends with its session.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection, Cursor
from psycopg.errors import UndefinedTable

from saga.adapters.headers import UNREADABLE, decode_headers
from saga.adapters.postgres.database import Address, translated
from saga.adapters.postgres.schema import Component
from saga.errors import StoreUnavailable
from saga.ports.bus import Record

OUTBOX_TABLE: Final = (
    "CREATE TABLE saga_outbox (outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
    "message_id text NOT NULL UNIQUE, topic text NOT NULL, key bytea NOT NULL, "
    "value bytea NOT NULL, headers text NOT NULL, "
    "added_at timestamptz NOT NULL DEFAULT clock_timestamp(), problem text) "
    "WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, "
    "autovacuum_vacuum_cost_delay = 0)"
)

_WAITING: Final = (
    "SELECT outbox_id, message_id, topic, key, value, headers FROM ("
    "SELECT *, sum(length(value)) OVER (ORDER BY outbox_id) - length(value) AS bytes_before FROM ("
    "SELECT * FROM saga_outbox WHERE problem IS NULL AND topic <> ALL (%s) "
    "ORDER BY outbox_id LIMIT %s) AS first_rows) AS counted WHERE bytes_before < %s "
    "ORDER BY outbox_id"
)
_STATUS: Final = (
    "SELECT count(*) FILTER (WHERE problem IS NULL), count(*) FILTER (WHERE problem IS NOT NULL), "
    "coalesce(extract(epoch FROM clock_timestamp() - min(added_at) FILTER "
    "(WHERE problem IS NULL)), 0)::float8 FROM saga_outbox"
)


def _make(cursor: Cursor[Any]) -> None:
    cursor.execute(OUTBOX_TABLE)


OUTBOX: Final = Component(
    name="outbox",
    landmark="saga_outbox",
    make=_make,
    tables={
        "saga_outbox": "outbox_id bigint, message_id text, topic text, key bytea, value bytea, "
        "headers text, added_at timestamp with time zone, problem text"
    },
)


class OutboxRow(NamedTuple):
    outbox_id: int
    message_id: str
    record: Record


class DamagedEvent(NamedTuple):
    """A row that cannot be read, and why."""

    outbox_id: int
    message_id: str
    problem: str


class OutboxStatus(NamedTuple):
    """How many events wait, how many the bus refused, and how long the first one waits."""

    waiting: int
    refused: int
    oldest_s: float


LEAD_IDLE_S: Final = 15
"""How long a session may say nothing before the server ends it, and with it its lead."""
_MORTAL: Final = (
    "SELECT set_config('tcp_keepalives_idle', '5', false), "
    "set_config('tcp_keepalives_interval', '3', false), "
    "set_config('tcp_keepalives_count', '3', false), "
    "set_config('tcp_user_timeout', '15000', false), "
    # Whoever is frozen still has a machine that answers for it.
    "CASE WHEN current_setting('server_version_num')::int >= 140000 "
    "THEN set_config('idle_session_timeout', %s, false) END"
)


class OutboxSession:
    """All methods raise StoreUnavailable where the database cannot be reached or has ended it."""

    def __init__(self, address: Address, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        self._address = address
        self._connection = connection

    @classmethod
    async def open(cls, address: Address) -> OutboxSession:
        with translated(address.name):
            connection = await address.connect_async()
            try:
                await connection.execute(_MORTAL, (f"{LEAD_IDLE_S}s",))
            except BaseException:
                await connection.close()
                raise
            return cls(address, connection)

    async def lead(self) -> bool:
        """Become the one session that publishes; False while another one is."""
        [[leads]] = await self._rows(
            "SELECT pg_try_advisory_lock(%s, %s)", self._address.lock_key("outbox relay")
        )
        return bool(leads)

    async def stay(self) -> None:
        """Keep the session from being ended as one of a relay that is frozen."""
        await self._rows("SELECT 1", ())

    async def waiting(
        self, *, limit: int, bytes_max: int, without: Collection[str] = ()
    ) -> tuple[list[OutboxRow], list[DamagedEvent]]:
        """The next events, up to *limit* and about *bytes_max* bytes, none on topics *without*.

        Those among them that cannot be read stand apart.
        """
        events: list[OutboxRow] = []
        damaged: list[DamagedEvent] = []
        for row in await self._rows(_WAITING, (list(without), limit, bytes_max)):
            outbox_id, message_id, topic, key, value, text = row
            try:
                headers = decode_headers(text.encode())
            except UNREADABLE as error:
                problem = f"saga_outbox, row {outbox_id}: its headers cannot be read: {error}"
                damaged.append(DamagedEvent(outbox_id, message_id, problem))
            else:
                record = Record(topic, key, value, headers)
                events.append(OutboxRow(outbox_id, message_id, record))
        return events, damaged

    async def remove(self, outbox_ids: Sequence[int]) -> None:
        await self._do("DELETE FROM saga_outbox WHERE outbox_id = ANY(%s)", (list(outbox_ids),))

    async def refuse(self, outbox_id: int, problem: str) -> None:
        """Mark an event that cannot be published; those behind it go on."""
        await self._do(
            "UPDATE saga_outbox SET problem = %s WHERE outbox_id = %s", (problem, outbox_id)
        )

    async def put_back(self) -> int:
        """Have refused events tried again; returns how many there were."""
        return await self._do("UPDATE saga_outbox SET problem = NULL WHERE problem IS NOT NULL", ())

    async def refused(self, *, limit: int) -> list[tuple[str, str, str]]:
        """Message id, topic and problem of refused events."""
        return await self._rows(
            "SELECT message_id, topic, problem FROM saga_outbox WHERE problem IS NOT NULL "
            "ORDER BY outbox_id LIMIT %s",
            (limit,),
        )

    async def status(self) -> OutboxStatus:
        [[waiting, refused, oldest_s]] = await self._rows(_STATUS, ())
        return OutboxStatus(waiting, refused, oldest_s)

    async def close(self) -> None:
        """Disconnect, so that another session may lead."""
        await self._connection.close()

    async def _rows(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._translated():
            cursor = await self._connection.execute(sql, values)
            return await cursor.fetchall()

    async def _do(self, sql: str, values: tuple[Any, ...]) -> int:
        with self._translated():
            return (await self._connection.execute(sql, values)).rowcount

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self._address.name):
                yield
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, UndefinedTable):
                raise
            advice = "there is no outbox in it: make one with `saga outbox migrate`"
            failure = StoreUnavailable(f"{self._address.name}: {advice}")
            failure.passes = False
            raise failure from error.__cause__
