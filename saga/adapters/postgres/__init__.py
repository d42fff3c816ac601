"""The production stores: an event store and an effects store in PostgreSQL, for any number of
processes.

Needs psycopg (`pip install saga[postgres]`); import it only where it is wanted.
"""

from saga.adapters.postgres.catalogue import PostgresCatalogue
from saga.adapters.postgres.connections import Address
from saga.adapters.postgres.database import PostgresDatabase
from saga.adapters.postgres.effects_inbox import INBOX
from saga.adapters.postgres.effects_store import PostgresEffectsStore
from saga.adapters.postgres.event_store import PostgresEventStore, components
from saga.adapters.postgres.schema import Component, migrate, stored_version

__all__ = [
    "INBOX",
    "Address",
    "Component",
    "PostgresCatalogue",
    "PostgresDatabase",
    "PostgresEffectsStore",
    "PostgresEventStore",
    "components",
    "migrate",
    "stored_version",
]
