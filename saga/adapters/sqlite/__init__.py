"""The embedded default: an event store and a bus in SQLite files, with nothing to install."""

from saga.adapters.sqlite.catalogue import SqliteCatalogue
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.event_store import SqliteEventStore
from saga.adapters.sqlite.local_bus import LocalBus

__all__ = ["LocalBus", "SqliteCatalogue", "SqliteDatabase", "SqliteEventStore"]
