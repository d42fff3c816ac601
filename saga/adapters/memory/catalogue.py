"""The read side of the event store in memory."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from operator import itemgetter

from saga.adapters.memory.event_store import MemoryEventStore
from saga.core.history import Entry
from saga.core.identity import SagaId
from saga.core.status import SagaStatus
from saga.ports.store import DueTimer, SagaSummary, UnhandledKind, UnhandledRecord


class MemoryCatalogue:
    """The catalogue of a `MemoryEventStore`."""

    def __init__(self, store: MemoryEventStore) -> None:
        self._store = store

    async def sagas(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        after: SagaId | None = None,
        limit: int = 100,
    ) -> Sequence[SagaSummary]:
        """Summaries in order of start, beginning after the saga *after*."""
        ids = list(self._store.summaries)
        start = ids.index(after) + 1 if after in self._store.summaries else 0
        found = (self._store.summaries[saga_id] for saga_id in ids[start:])
        matching = (
            summary
            for summary in found
            if status in {None, summary.status} and definition in {None, summary.definition}
        )
        return list(islice(matching, limit))

    async def summaries(self, saga_ids: Sequence[SagaId]) -> Sequence[SagaSummary]:
        """The summaries of these sagas, in their order; one that does not exist is left out."""
        known = self._store.summaries
        return [known[saga_id] for saga_id in dict.fromkeys(saga_ids) if saga_id in known]

    async def unhandled(
        self,
        *,
        kind: UnhandledKind | None = None,
        saga_id: SagaId | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[UnhandledRecord]:
        """Parked records in the order they were parked, beginning after the id *after*."""
        matching = (
            record
            for record in self._store.unhandled.values()
            if record.record_id > after
            and kind in {None, record.kind}
            and saga_id in {None, record.saga_id}
        )
        return list(islice(matching, limit))

    async def timers(self, *, limit: int = 100) -> Sequence[DueTimer]:
        """Armed timers, the earliest first."""
        return self._store.timers(limit)

    async def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        """Every entry of every saga with its place in the log, in commit order."""
        log = self._store.log
        for place, entry in log[bisect_right(log, after, key=itemgetter(0)) :]:
            yield place, entry
        await asyncio.sleep(0)
