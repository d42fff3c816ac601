"""The event store in memory: the same promises, for as long as the object lives.

No threads and no chance: the same calls in the same order leave the same state.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from saga.adapters.memory.bus import MemoryBus
from saga.adapters.rows import check_new_sagas, covered
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.errors import AlreadyRecorded, CorruptHistory, HistoryConflict
from saga.ports.bus import Source
from saga.ports.store import (
    Appended,
    Backlog,
    Batch,
    DueTimer,
    History,
    SagaSummary,
    UnhandledRecord,
)


class MemoryEventStore:
    """Histories in dictionaries.

    Args:
        publish_through: a bus in memory, which gets what a batch publishes as part of the append;
            without one the batch goes to the relay's backlog.
    """

    def __init__(self, *, publish_through: MemoryBus | None = None) -> None:
        self._bus = publish_through
        self._histories: dict[SagaId, History] = {}
        self._positions: dict[Source, int] = {}
        self._timers: dict[TimerId, DueTimer] = {}
        self._due: list[tuple[Instant, TimerId]] = []
        self._backlog: dict[int, Backlog] = {}
        self._parked_given = 0
        self._backlog_given = 0
        self._last_place = 0
        # For the catalogue.
        self.log: list[tuple[int, Entry]] = []
        self.summaries: dict[SagaId, SagaSummary] = {}
        self.unhandled: dict[int, UnhandledRecord] = {}

    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        """Record the whole batch, or nothing of it.

        Raises:
            AlreadyRecorded: a position is not beyond the stored one of its source.
            HistoryConflict: another writer was first on some history.
            MessageTooLarge: the bus refuses a record of *outgoing*; nothing was recorded.
            TopicMissing: a topic of *outgoing* does not exist; nothing was recorded.
        """
        await asyncio.sleep(0)
        self._check(batch)
        if self._bus is not None:
            self._bus.append(batch.outgoing)
        self._apply(batch)
        if self._bus is not None or not batch.outgoing:
            return Appended(None)
        self._backlog_given += 1
        entries = [entry for history in batch.histories for entry in history.entries]
        self._backlog[self._backlog_given] = Backlog(self._backlog_given, at, entries)
        return Appended(self._backlog_given)

    async def load(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, History | CorruptHistory]:
        """The whole histories, in order of version; a saga without one is left out."""
        await asyncio.sleep(0)
        return {
            saga_id: History(self._histories[saga_id], turns=self._histories[saga_id].turns)
            for saga_id in saga_ids
            if saga_id in self._histories
        }

    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        """The highest offset accounted for of each source; a source never seen is left out."""
        return {source: self._positions[source] for source in sources if source in self._positions}

    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        """Timers due at or before *until*, the earliest first."""
        return [timer for timer in self.timers(limit) if timer.due_at <= until]

    async def backlog(self, *, limit: int, after: int = 0) -> Sequence[Backlog]:
        """Batches with something to publish that nobody has said to be published, the oldest
        first.
        """
        later = (batch for batch in self._backlog.values() if batch.backlog_id > after)
        return list(islice(later, limit))

    def history(self, saga_id: SagaId) -> list[Entry]:
        """The whole history, now; empty where there is none."""
        return list(self._histories.get(saga_id, ()))

    def timers(self, limit: int) -> list[DueTimer]:
        """Armed timers, the earliest first."""
        return [self._timers[timer_id] for _, timer_id in self._due[:limit]]

    def _check(self, batch: Batch) -> None:
        check_new_sagas(batch)
        reached = covered(batch.positions, self._positions)
        if reached:
            raise AlreadyRecorded(reached)
        moved = [
            history.saga_id
            for history in batch.histories
            if self._turns(history.saga_id) != history.expected_turns
        ]
        if moved:
            raise HistoryConflict(tuple(moved))

    def _apply(self, batch: Batch) -> None:
        for history in batch.histories:
            stored = self._histories.setdefault(history.saga_id, History((), turns=0))
            for turn in history.turns:
                stored.extend(turn)
                stored.turns += 1
                self._last_place += 1
                self.log.extend((self._last_place, entry) for entry in turn)
        self._positions.update(batch.positions)
        for summary in batch.summaries:
            self.summaries[summary.saga_id] = summary
        for timer in batch.timers_armed:
            self._clear(timer.timer_id)
            self._timers[timer.timer_id] = timer
            insort(self._due, (timer.due_at, timer.timer_id))
        for timer_id in batch.timers_cleared:
            self._clear(timer_id)
        for record in batch.unhandled:
            self._parked_given += 1
            self.unhandled[self._parked_given] = replace(record, record_id=self._parked_given)
        for record_id in batch.handled:
            self.unhandled.pop(record_id, None)
        for backlog_id in batch.relayed:
            self._backlog.pop(backlog_id, None)

    def _turns(self, saga_id: SagaId) -> int:
        history = self._histories.get(saga_id)
        return 0 if history is None else history.turns

    def _clear(self, timer_id: TimerId) -> None:
        timer = self._timers.pop(timer_id, None)
        if timer is not None:
            self._due.remove((timer.due_at, timer_id))
