"""Store and bus in memory, with the same meaning as the durable ones: for tests and simulated
worlds.
"""

from saga.adapters.memory.bus import MemoryBus
from saga.adapters.memory.catalogue import MemoryCatalogue
from saga.adapters.memory.event_store import MemoryEventStore

__all__ = ["MemoryBus", "MemoryCatalogue", "MemoryEventStore"]
