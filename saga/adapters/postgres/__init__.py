"""
The production store: an event store in PostgreSQL, for any number of processes.

Needs psycopg (`pip install saga[postgres]`); import it only where it is wanted.
"""

from saga.adapters.postgres.catalogue import PostgresCatalogue
from saga.adapters.postgres.connections import Address
from saga.adapters.postgres.database import PostgresDatabase
from saga.adapters.postgres.event_store import PostgresEventStore, components
from saga.adapters.postgres.schema import Component, migrate, stored_version

__all__ = [
    "Address",
    "Component",
    "PostgresCatalogue",
    "PostgresDatabase",
    "PostgresEventStore",
    "components",
    "migrate",
    "stored_version",
]
