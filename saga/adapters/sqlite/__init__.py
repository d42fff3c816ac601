"""The embedded default: stores and a bus in SQLite files, with nothing to install."""

from saga.adapters.sqlite.bus import LocalBus
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.effects import SqliteEffectsStore
from saga.adapters.sqlite.statistics import SqliteStatistics
from saga.adapters.sqlite.store import SqliteCatalogue, SqliteEventStore

__all__ = [
    "LocalBus",
    "SqliteCatalogue",
    "SqliteDatabase",
    "SqliteEffectsStore",
    "SqliteEventStore",
    "SqliteStatistics",
]
