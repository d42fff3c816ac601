"""The event store of a world: the one in memory, which also watches what is appended to it."""

from __future__ import annotations

from collections.abc import Iterable

from saga.adapters.memory import MemoryEventStore
from saga.core.events import TimerFired
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.intents import TimerArmed, TimerCancelled, TimerPurpose
from saga.ports import Appended, Batch
from saga.testing.world.broker import SimulatedBus
from saga.testing.world.process import Surroundings


class WorldStore(MemoryEventStore):
    """See `saga.ports.store.EventStore`.

    *stored_at* says when each entry was stored; it stays empty where the store publishes by itself,
    in the very transaction. *problems* are what was wrong with a batch the moment it was committed.
    """

    def __init__(self, surroundings: Surroundings, publish_through: SimulatedBus | None) -> None:
        super().__init__(publish_through=publish_through)
        self.stored_at: dict[tuple[SagaId, int], int] = {}
        self.problems: list[str] = []
        self._is_noting = publish_through is None
        self._surroundings = surroundings
        self._armed: dict[SagaId, set[TimerId]] = {}

    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        """Record the whole batch, or nothing of it."""
        appended = await super().append(batch, at=at)
        number = self._surroundings.next_number()
        touched = {timer.saga_id for timer in batch.timers_armed}
        touched |= {SagaId(timer_id.split("/", 1)[0]) for timer_id in batch.timers_cleared}
        for history in batch.histories:
            touched.add(history.saga_id)
            self._note_timers(history.saga_id, history.entries)
            if self._is_noting:
                for entry in history.entries:
                    self.stored_at[entry.saga_id, entry.version] = number
        self._compare_timers(touched)
        return appended

    def deadline_of(self, intent_id: str) -> Instant | None:
        """Until when a reply to this attempt is waited for; None where there is no limit."""
        timer = self._timers.get(TimerId(f"{intent_id}/{TimerPurpose.DEADLINE}"))
        return None if timer is None else timer.due_at

    def _note_timers(self, saga_id: SagaId, entries: Iterable[Entry]) -> None:
        armed = self._armed.setdefault(saga_id, set())
        for entry in entries:
            body = entry.body
            if isinstance(body, TimerArmed):
                armed.add(body.timer_id)
            elif isinstance(body, TimerCancelled | TimerFired):
                armed.discard(body.timer_id)

    def _compare_timers(self, saga_ids: set[SagaId]) -> None:
        """The due-index is a projection: it never differs from the histories."""
        indexed: dict[SagaId, set[TimerId]] = {}
        for timer in self._timers.values():
            indexed.setdefault(timer.saga_id, set()).add(timer.timer_id)
        for saga_id in sorted(saga_ids):
            armed, rows = self._armed.get(saga_id, set()), indexed.get(saga_id, set())
            if armed != rows:
                self.problems.append(
                    f"the due-index has {sorted(rows - armed)} too many and "
                    f"{sorted(armed - rows)} too few"
                )
