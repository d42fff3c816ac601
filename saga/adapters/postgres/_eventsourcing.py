"""Everything of `eventsourcing` that this adapter touches and the library does not promise.

The library's `stored_events` and `notification_tracking` keep their layout, so that its own tools
read them; `notification_id` is the place in the log. The event store sends statements of its own.
The recorder here is the library's way to the same tables: it makes them, and its methods, which
block their thread, work beside the store.

**No table lock.** The library locks `stored_events` for each insert until its commit, so that ids
become visible in their order. Here no writer waits for a commit that does not concern it. Each
writer holds a shared advisory lock from before it takes ids until its end. A reader of the log
notes the last id given, waits for those who held the lock then, and reads up to there: what is
missing will never come.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from eventsourcing.persistence import Notification, StoredEvent
from eventsourcing.postgres import (
    ConnectionPool,
    PostgresApplicationRecorder,
    PostgresDatastore,
    PostgresProcessRecorder,
)
from psycopg import Connection, Cursor
from psycopg.errors import DuplicateObject
from psycopg.rows import dict_row
from psycopg.sql import SQL
from typing_extensions import override

from saga.adapters import versions
from saga.adapters.postgres import statements as sql
from saga.adapters.postgres.database import (
    CONNECT_TIMEOUT_S,
    IDLE_IN_TRANSACTION_TIMEOUT_S,
    LOCK_TIMEOUT_S,
    Address,
)
from saga.adapters.postgres.pipeline import register_arrays

AT_LEAST: Final = "9.5.6"
BELOW: Final = "9.6"
LIBRARY_CONNECTIONS_MAX: Final = 4
SETTLE_POLL_S: Final = 0.005
SETTLE_TIMEOUT_S: Final = 10.0


def create_library_tables(cursor: Cursor[dict[str, Any]], address: Address) -> None:
    """Make the library's tables in the transaction of *cursor*.

    Raises:
        SettingsError: the library's version is not known.
    """
    versions.check_version("eventsourcing", at_least=AT_LEAST, below=BELOW, setting="SAGA_STORE")
    SagaProcessRecorder(SagaDatastore(address), address).create_tables(cursor)


class SagaDatastore(PostgresDatastore):
    """The library's datastore over our connections; it connects when it is first used."""

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

        def configure(connection: Connection[Any]) -> None:
            connection.execute(address.session, prepare=False)
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

    @override
    def register_type_adapters(self) -> None:
        pass  # our statements take arrays of plain types, and this would connect

    @override
    def close(self) -> None:
        with suppress(AttributeError):  # the library's own may raise where nothing was ever opened
            self.pool.close()


class SagaProcessRecorder(PostgresProcessRecorder):
    """The library's recorder of events and trackings, with our order of ids and our statements."""

    def __init__(self, datastore: SagaDatastore, address: Address) -> None:
        super().__init__(datastore)
        self.writers = sql.writers(address.lock_key("append"))
        self.lock_table_statements = [SQL(sql.share_lock(address.lock_key("append")))]
        # It would insert without tracking and other rows (POSTGRES_ENABLE_DB_FUNCTIONS): not here.
        self.sql_create_statements.remove(self.sql_create_pg_function_insert_events)
        assert self.channel_name == sql.CHANNEL, self.channel_name

    def create_tables(self, cursor: Cursor[dict[str, Any]]) -> None:
        """Make the library's tables in the transaction of *cursor*."""
        for statement in self.sql_create_statements:
            if "CREATE TYPE" in statement.as_string():
                with suppress(DuplicateObject), cursor.connection.transaction():
                    cursor.execute(statement)
        self._create_table(cursor)

    @override
    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        # Without the library's retries: they turn an unclear commit into a conflict.
        once: Any = PostgresApplicationRecorder.insert_events
        ids: Sequence[int] | None = once.__wrapped__(self, stored_events, **kwargs)
        return ids

    @override
    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        settled = self._settled_place()
        notifications: Sequence[Notification] = super().select_notifications(
            start,
            limit,
            settled if stop is None else min(stop, settled),
            topics,
            inclusive_of_start=inclusive_of_start,
        )
        return notifications

    @override
    def _insert_stored_events(
        self, curs: Cursor[dict[str, Any]], stored_events: Sequence[StoredEvent], **_: Any
    ) -> None:
        self._lock_table(curs)
        self._notify_channel(curs)
        rows = [
            (_hex(event.originator_id), event.originator_version, event.topic, event.state)
            for event in stored_events
        ]
        curs.execute(f"{sql.EVENTS} RETURNING notification_id", sql.event_columns(rows))

    @override
    def _fetch_ids_after_insert_events(
        self, curs: Cursor[dict[str, Any]], stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        ids = super()._fetch_ids_after_insert_events(curs, stored_events, **kwargs)
        # They come in the order of the rows' keys, and were given in the order of the rows.
        return None if ids is None else sorted(ids)

    def _settled_place(self) -> int:
        with self.datastore.get_connection() as connection:
            row = connection.execute(sql.LAST_PLACE).fetchone()
            last = int(row["last_value"]) if row else 0
            waiting = {each["virtualtransaction"] for each in connection.execute(self.writers)}
            deadline = time.monotonic() + SETTLE_TIMEOUT_S
            while waiting and time.monotonic() < deadline:
                time.sleep(SETTLE_POLL_S)
                waiting &= {each["virtualtransaction"] for each in connection.execute(self.writers)}
        if waiting:
            raise TimeoutError("a transaction that writes turns does not end")
        return last


def _hex(originator_id: UUID | str) -> str:
    return originator_id.hex if isinstance(originator_id, UUID) else originator_id
