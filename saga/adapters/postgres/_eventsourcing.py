"""What this adapter uses of `eventsourcing` and the library does not promise.

The library's two tables keep their layout, so that its own tools can read them; `notification_id`
is the place in the log.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from eventsourcing.postgres import PostgresDatastore, PostgresProcessRecorder
from psycopg import Cursor
from psycopg.errors import DuplicateObject
from typing_extensions import override

from saga.adapters.versions import check_version

CHANNEL: Final = "stored_events"
"""The library's name for where appends are notified."""


def create_library_tables(cursor: Cursor[Any], schema: str) -> None:
    """Raises SettingsError where the library's version is not known."""
    check_version("eventsourcing", setting="SAGA_STORE")
    _Recorder(_Datastore("", "", "", "", "", schema=schema)).create_tables(cursor)


class _Datastore(PostgresDatastore):
    @override
    def register_type_adapters(self) -> None:
        pass  # it would connect


class _Recorder(PostgresProcessRecorder):
    def create_tables(self, cursor: Cursor[Any]) -> None:
        assert self.channel_name == CHANNEL, self.channel_name
        # It would insert without tracking and other rows (POSTGRES_ENABLE_DB_FUNCTIONS): not here.
        self.sql_create_statements.remove(self.sql_create_pg_function_insert_events)
        for statement in self.sql_create_statements:
            if "CREATE TYPE" in statement.as_string():
                with suppress(DuplicateObject), cursor.connection.transaction():
                    cursor.execute(statement)
        self._create_table(cursor)
