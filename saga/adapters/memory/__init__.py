"""Store and bus in memory, with the same meaning as the durable ones: for tests and worlds."""

from saga.adapters.memory.bus import MemoryBus
from saga.adapters.memory.store import MemoryCatalogue, MemoryEventStore, MemoryStatistics

__all__ = ["MemoryBus", "MemoryCatalogue", "MemoryEventStore", "MemoryStatistics"]
