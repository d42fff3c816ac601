"""What the engine needs from the world, as protocols; `saga.testing` has the contract suites."""

from saga.core.history import History
from saga.ports.bus import Bus, Consumer, Inbound, Position, Record, Source, TopicSpec
from saga.ports.clock import Clock
from saga.ports.store import (
    Appended,
    Backlog,
    Batch,
    Catalogue,
    DueTimer,
    EventStore,
    HistoryAppend,
    PutOffTimer,
    SagaSummary,
    Snapshot,
    SnapshotAndTail,
    SnapshotsOf,
    SnapshotStore,
    Store,
    UnhandledRecord,
)

__all__ = [
    "Appended",
    "Backlog",
    "Batch",
    "Bus",
    "Catalogue",
    "Clock",
    "Consumer",
    "DueTimer",
    "EventStore",
    "History",
    "HistoryAppend",
    "Inbound",
    "Position",
    "PutOffTimer",
    "Record",
    "SagaSummary",
    "Snapshot",
    "SnapshotAndTail",
    "SnapshotStore",
    "SnapshotsOf",
    "Source",
    "Store",
    "TopicSpec",
    "UnhandledRecord",
]
