"""A statistics of the event store in memory."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from saga.adapters.memory.event_store import MemoryEventStore
from saga.core.identity import Instant
from saga.ports.store import UNFINISHED, UNHANDLED_COUNTED_MAX, StoreStatistics

EVER = 10**9


class MemoryStatistics:
    """Counts what is in a `MemoryEventStore`."""

    def __init__(self, store: MemoryEventStore) -> None:
        self._store = store

    async def take(self, *, at: Instant) -> StoreStatistics:
        """Count, with *at* as the present."""
        store = self._store
        sagas = (one for one in store.summaries.values() if one.status in UNFINISHED)
        unhandled = islice(store.unhandled.values(), UNHANDLED_COUNTED_MAX)
        backlog = await store.backlog(limit=EVER)
        due = await store.due_timers(until=at, limit=EVER)
        return StoreStatistics(
            sagas=Counter((one.definition, one.status) for one in sagas),
            unhandled=Counter((one.kind, one.reason) for one in unhandled),
            backlog=len(backlog),
            backlog_since=min((one.appended_at for one in backlog), default=None),
            timers_due=len(due),
            timers_due_since=due[0].due_at if due else None,
        )
