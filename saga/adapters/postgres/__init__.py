"""Stores in PostgreSQL, for any number of processes; needs `pip install saga[postgres]`."""

from saga.adapters.postgres.database import Address, PostgresDatabase
from saga.adapters.postgres.effects import PostgresEffectsStore
from saga.adapters.postgres.inbox import INBOX
from saga.adapters.postgres.schema import (
    EVENT_STORE,
    Component,
    migrate,
    stored_version,
)
from saga.adapters.postgres.store import PostgresCatalogue, PostgresEventStore, PostgresStatistics

__all__ = [
    "EVENT_STORE",
    "INBOX",
    "Address",
    "Component",
    "PostgresCatalogue",
    "PostgresDatabase",
    "PostgresEffectsStore",
    "PostgresEventStore",
    "PostgresStatistics",
    "migrate",
    "stored_version",
]
