"""The event store and the effects store in PostgreSQL, for any number of processes.

Needs psycopg (`pip install saga[postgres]`); import it only where it is wanted.
"""

from saga.adapters.postgres.database import Address, PostgresDatabase
from saga.adapters.postgres.effects import PostgresEffectsStore
from saga.adapters.postgres.inbox import INBOX
from saga.adapters.postgres.schema import (
    Component,
    event_store_tables,
    migrate,
    stored_version,
)
from saga.adapters.postgres.store import PostgresCatalogue, PostgresEventStore, PostgresStatistics

__all__ = [
    "INBOX",
    "Address",
    "Component",
    "PostgresCatalogue",
    "PostgresDatabase",
    "PostgresEffectsStore",
    "PostgresEventStore",
    "PostgresStatistics",
    "event_store_tables",
    "migrate",
    "stored_version",
]
