"""Publishing events from any Python program: async, blocking, or with the program's own
transaction.

`Publisher` and `SyncPublisher` send what they are given and return once it is durable. An `Outbox`
writes events into a table of the program's own PostgreSQL database instead, within its transaction;
an `OutboxRelay` publishes them from there. `saga.publishing.faststream` publishes through the
broker of a FastStream service.
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
