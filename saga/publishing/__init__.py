"""Publishing events from any Python program: async, blocking, or with the program's own
transaction.

`Publisher` and `SyncPublisher` send what they are given and return once it is durable. An `Outbox`
writes events into a table of the program's own PostgreSQL database instead, within its transaction;
an `OutboxRelay` publishes them from there. `saga.publishing.faststream` publishes through the
broker of a FastStream service.
"""

from saga.publishing.blocking import SyncPublisher
from saga.publishing.outbox import Outbox
from saga.publishing.outbox_relay import OutboxRelay
from saga.publishing.publisher import Publisher
from saga.publishing.writer import EventWriter, WrittenEvent

__all__ = [
    "EventWriter",
    "Outbox",
    "OutboxRelay",
    "Publisher",
    "SyncPublisher",
    "WrittenEvent",
]
