"""Publishing events from any Python program.

`Publisher` and `SyncPublisher` return once events are durable; an `Outbox` writes them within the
program's own PostgreSQL transaction, and an `OutboxRelay` publishes them from there;
`saga.publishing.faststream` publishes through the broker of a FastStream service.
"""

from saga.publishing.outbox import Outbox, OutboxRelay
from saga.publishing.publisher import Publisher, SyncPublisher
from saga.publishing.writer import EventWriter, PublishOptions, WrittenEvent

__all__ = [
    "EventWriter",
    "Outbox",
    "OutboxRelay",
    "PublishOptions",
    "Publisher",
    "SyncPublisher",
    "WrittenEvent",
]
