"""Connections of eventsourcing's pool, with the settings that durable and fast work needs.

The library's own pool prepares each statement anew (`cached_statements=True` is a cache of one) and
leaves the rest to SQLite's defaults; here every option that matters is said.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from eventsourcing.persistence import InterfaceError
from eventsourcing.sqlite import SQLiteConnection, SQLiteConnectionPool, SQLiteDatastore

from saga.adapters.sqlite.failures import translated

BUSY_TIMEOUT_S: Final = 5
STATEMENTS_CACHED: Final = 256
CACHE_KIB: Final = 32_768
MMAP_BYTES: Final = 256 * 1024 * 1024
POOL_CONNECTIONS: Final = 5

_SETTINGS: Final = (
    "PRAGMA synchronous=FULL",
    # Checkpoints are made by a thread of their own (see checkpoints.py), never by a commit.
    "PRAGMA wal_autocheckpoint=0",
    f"PRAGMA cache_size=-{CACHE_KIB}",
    f"PRAGMA mmap_size={MMAP_BYTES}",
    "PRAGMA temp_store=MEMORY",
    # Some builds of SQLite overwrite whatever is deleted, which is for secrets.
    "PRAGMA secure_delete=OFF",
)


def connect(path: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """A connection in autocommit mode, to be used by one thread at a time.

    Raises:
        StoreUnavailable: the file cannot be opened or is no database.
    """
    with translated(path):
        return _connect(path, busy_timeout_s=busy_timeout_s)


def connect_to_read(path: str) -> sqlite3.Connection:
    """A connection to a file that this user may not write, and whose folder neither.

    Raises:
        StoreUnavailable: it cannot be read, or not all of it: what was written last may still be in
            a file beside it, which is not read without writing.
    """
    uri = Path(path).as_uri()
    with translated(path):
        try:
            return _connect(f"{uri}?mode=ro", is_uri=True)
        except sqlite3.OperationalError:
            beside = Path(f"{path}-wal")
            if beside.exists() and beside.stat().st_size:
                raise
            # Nobody has it open, or the file beside it would be there: it is all there is.
            return _connect(f"{uri}?mode=ro&immutable=1", is_uri=True)


def _connect(
    path: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S, is_uri: bool = False
) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        uri=is_uri,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_CACHED,
        timeout=busy_timeout_s,
    )
    try:
        for setting in _SETTINGS:
            connection.execute(setting)
        if is_uri:  # whether it can be read is not known before
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


class SagaConnectionPool(SQLiteConnectionPool):
    """The library's pool, over connections with our settings."""

    def _create_connection(self) -> SQLiteConnection:
        try:
            connection = connect(self.db_name)
        except sqlite3.Error as error:
            raise InterfaceError(error) from error
        connection.row_factory = sqlite3.Row
        return SQLiteConnection(sqlite_conn=connection, max_age=self.max_age)


class SagaDatastore(SQLiteDatastore):
    """The library's datastore over our pool. The file is in WAL mode before this is made."""

    def __init__(self, path: str) -> None:
        super().__init__(
            path,
            lock_timeout=BUSY_TIMEOUT_S,
            pool_size=POOL_CONNECTIONS,
            single_row_tracking=True,
            originator_id_type="uuid",
        )
        self.pool.close()
        self.pool = SagaConnectionPool(
            db_name=path, lock_timeout=BUSY_TIMEOUT_S, pool_size=POOL_CONNECTIONS
        )
