"""Connections to PostgreSQL with the settings that durable work of many processes needs.

An address says where the database is and may override what concerns the way there; what a session
may do, and for how long, is ours to say. A password is never part of a name or an error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from zlib import crc32

import psycopg
from eventsourcing.postgres import ConnectionPool, PostgresDatastore
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row, tuple_row
from psycopg.sql import SQL

from saga.adapters.postgres.arrays import register_arrays
from saga.adapters.postgres.pipeline import Backend, Session
from saga.errors import SettingsError

CONNECT_TIMEOUT_S: Final = 5
LOCK_TIMEOUT_S: Final = 4
"""Longer than the server's deadlock_timeout, so that a deadlock is found out as one."""
IDLE_IN_TRANSACTION_TIMEOUT_S: Final = 5
LIBRARY_CONNECTIONS_MAX: Final = 4

_WAY_THERE: Final = {
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "application_name": "saga",
    # A server that went away without a word is noticed within some twenty seconds.
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_SESSION: Final = SQL(
    "SELECT pg_backend_pid(), current_setting('server_encoding'), "
    "(SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()), "
    "set_config('search_path', quote_ident({schema}), false), "
    "set_config('lock_timeout', {lock_timeout}, false), "
    "set_config('idle_in_transaction_session_timeout', {idle_timeout}, false), "
    "CASE WHEN current_setting('synchronous_commit') = 'off' "
    "THEN set_config('synchronous_commit', 'on', false) END, "
    # Statements are the same few all day, their rows are found by key, and statistics of tables
    # that grow from nothing are behind: without these a plan that reads whole tables would stay.
    "set_config('plan_cache_mode', 'force_generic_plan', false), "
    "set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)"
)


class Address:
    """Which database and schema, and how to get there.

    Args:
        conninfo: a URL `postgresql://USER[:PASSWORD]@HOST[:PORT]/DB[?OPTIONS]` or libpq's own form.
        schema: where the tables are; it exists.
        password: asked at each connect, where the address has none.
        setting: what to name where the address is wrong.

    Raises:
        SettingsError: the address cannot be read.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str = "public",
        password: Callable[[], str] | None = None,
        setting: str = "SAGA_STORE",
    ) -> None:
        try:
            given = conninfo_to_dict(conninfo)
        except psycopg.Error:
            # Without libpq's own words, which quote parts of the address and so of the password.
            expected = "postgresql://USER[:PASSWORD]@HOST[:PORT]/DB[?OPTIONS]"
            raise SettingsError(setting, f"cannot be read; expected {expected}") from None
        self.schema = schema
        self.name = _name(given)
        self._password = password if given.get("password") is None else None
        self.conninfo = make_conninfo("", **{**_WAY_THERE, **given, "client_encoding": "UTF8"})
        self.session = _SESSION.format(
            schema=schema,
            lock_timeout=f"{LOCK_TIMEOUT_S}s",
            idle_timeout=f"{IDLE_IN_TRANSACTION_TIMEOUT_S}s",
        )

    def __repr__(self) -> str:
        return f"Address({self.name!r}, schema={self.schema!r})"

    def lock_key(self, purpose: str) -> tuple[int, int]:
        """The pair of numbers that stands for *purpose* among the database's advisory locks."""
        return _signed(crc32(f"saga {purpose}".encode())), _signed(crc32(self.schema.encode()))

    def parameters(self) -> dict[str, Any]:
        """What to call `connect` with, beside `conninfo`."""
        secret = {} if self._password is None else {"password": self._password()}
        return {"autocommit": True, **secret}

    def connect(self) -> Connection[tuple[Any, ...]]:
        """A connection in autocommit mode that blocks its thread."""
        connection = psycopg.connect(self.conninfo, row_factory=tuple_row, **self.parameters())
        try:
            self._check(connection.execute(self.session).fetchone())
            register_arrays(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    async def connect_async(self) -> Session:
        """A connection in autocommit mode for the event loop."""
        connection = await Session.connect(
            self.conninfo, row_factory=tuple_row, **self.parameters()
        )
        try:
            await self.configure(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def configure(self, connection: Session) -> None:
        """Give a new connection its settings."""
        connection.prepare_threshold = 0
        connection.prepared_max = 256
        cursor = await connection.execute(self.session, prepare=False)
        connection.backend = self._check(await cursor.fetchone())
        connection.prepared = {}
        register_arrays(connection)

    def _check(self, row: tuple[Any, ...] | None) -> Backend:
        assert row is not None
        pid, encoding, started, *_ = row
        if encoding != "UTF8":
            # Said as the server says what it cannot do, so that it is translated like it.
            raise psycopg.OperationalError(
                f"the database has the encoding {encoding}, which cannot keep all text: "
                "make one with `createdb --encoding UTF8 --template template0`"
            )
        return Backend(pid, started)


class SagaDatastore(PostgresDatastore):
    """The library's datastore over our connections, for its own tools and for the schema.

    It connects when it is first used, and not before.
    """

    def __init__(self, address: Address) -> None:
        super().__init__(
            "",
            "",
            "",
            "",
            "",
            lock_timeout=LOCK_TIMEOUT_S,
            idle_in_transaction_session_timeout=IDLE_IN_TRANSACTION_TIMEOUT_S,
            schema=address.schema,
            single_row_tracking=True,
            originator_id_type="uuid",
            enable_db_functions=False,
        )
        session = address.session

        def configure(connection: Connection[Any]) -> None:
            connection.execute(session, prepare=False)
            register_arrays(connection)

        self.pool = ConnectionPool(
            address.conninfo,
            connection_class=Connection[dict[str, Any]],
            kwargs=lambda: {**address.parameters(), "row_factory": dict_row},
            min_size=0,
            max_size=LIBRARY_CONNECTIONS_MAX,
            open=False,
            configure=configure,
            timeout=CONNECT_TIMEOUT_S,
            reconnect_timeout=CONNECT_TIMEOUT_S,
            name=f"library's connections to {address.name}",
        )

    def register_type_adapters(self) -> None:
        """Do nothing: our statements take arrays of plain types, and this would connect."""

    def close(self) -> None:
        """Close what is open; the library's own may raise where nothing was ever opened."""
        with suppress(AttributeError):
            self.pool.close()


def _name(given: dict[str, Any]) -> str:
    host = given.get("host") or given.get("hostaddr") or ""
    port = f":{given['port']}" if given.get("port") else ""
    user = f"{given['user']}@" if given.get("user") else ""
    return f"postgresql://{user}{host}{port}/{given.get('dbname') or ''}"


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number
