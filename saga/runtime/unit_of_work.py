"""A unit of work: one batch of turns, and what they lead to, committed in one transaction.

Nothing is decided here. `InboundBatch` is what the turns are about; `UnitOfWork` collects what they
lead to, saga by saga, and makes the store's batch of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from saga.core.durations import SECOND_US
from saga.core.events import TimerFired
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.intents import Intent, TimerArmed, TimerCancelled
from saga.core.status import SagaStatus
from saga.ports import (
    Batch,
    DueTimer,
    HistoryAppend,
    Inbound,
    Record,
    SagaSummary,
    Source,
    UnhandledRecord,
)
from saga.ports.store import DeferralReason
from saga.runtime.router import Delivery, Rejected
from saga.runtime.saga_cache import LoadedSaga, UnloadableSaga, summary_of, summary_of_unloadable
from saga.runtime.unhandled import dead_letter, deferred

POSTPONED_S = 30
"""How long a due timer is left alone whose saga stands still."""


@dataclass(slots=True)
class InboundBatch:
    """What a unit of work is about.

    *records* are in order per partition; *revisits* are sagas whose deferred records may go on.
    """

    records: list[Inbound] = field(default_factory=list)
    due: list[DueTimer] = field(default_factory=list)
    revisits: list[SagaId] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.due or self.revisits)

    def positions(self) -> dict[Source, int]:
        """Of each source the highest offset in this batch."""
        highest: dict[Source, int] = {}
        for record in self.records:
            source = Source(record.topic, record.partition)
            if record.offset > highest.get(source, -1):
                highest[source] = record.offset
        return highest


@dataclass(slots=True)
class ChangedSaga:
    """A loaded saga, and the turns that this unit of work adds to its history."""

    saga: LoadedSaga
    turns_before: int
    turns: list[Sequence[Entry]] = field(default_factory=list)


@dataclass(slots=True)
class TimerChanges:
    """What is to change in the due-index."""

    armed: dict[TimerId, DueTimer] = field(default_factory=dict)
    postponed: dict[TimerId, DueTimer] = field(default_factory=dict)
    cleared: list[TimerId] = field(default_factory=list)

    def note(self, saga_id: SagaId, intents: Sequence[Intent]) -> None:
        """Take up what a turn has decided about timers."""
        for intent in intents:
            if isinstance(intent, TimerArmed):
                self.armed[intent.timer_id] = DueTimer(intent.timer_id, saga_id, intent.due_at)
            elif (
                isinstance(intent, TimerCancelled) and self.armed.pop(intent.timer_id, None) is None
            ):
                self.cleared.append(intent.timer_id)

    def rows(self) -> list[DueTimer]:
        """The rows to write; a timer that was cleared later is not postponed."""
        cleared = set(self.cleared)
        postponed = [timer for name, timer in self.postponed.items() if name not in cleared]
        return [*self.armed.values(), *postponed]


@dataclass(slots=True)
class UnhandledChanges:
    """Records that become dead letters or are deferred, and those that were and are handled now.

    *deferred_behind* are the sagas that wait with records behind them, be they new ones or not.
    """

    dead_letters: list[UnhandledRecord] = field(default_factory=list)
    deferred: list[UnhandledRecord] = field(default_factory=list)
    deferred_behind: set[SagaId] = field(default_factory=set)
    handled: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Measures:
    """What is told to people and decides nothing.

    By definition: sagas that *started*, *reached* a status, and how many seconds they *took* until
    they ended. *append_s* is how long the store took.
    """

    started: Counter[str] = field(default_factory=Counter)
    reached: Counter[tuple[str, SagaStatus]] = field(default_factory=Counter)
    took: list[tuple[str, float]] = field(default_factory=list)
    append_s: float = 0.0


@dataclass(slots=True)
class UnitOfWork:
    """Everything that one batch has decided so far.

    Attributes:
        at: the moment of all its turns.
        remembered: the sagas that were in memory.
        loaded: all sagas that it has worked with.
        changed: those with new entries.
        unloadable: those whose history cannot be brought to life here.
        corrupt: index rows of histories that cannot be read.
        outgoing: the records to publish.
        revisits: sagas whose deferred records may go on after this.
        counts: what was done, in words; told to people, decides nothing.
    """

    at: Instant
    remembered: frozenset[SagaId] = frozenset()
    loaded: list[LoadedSaga] = field(default_factory=list)
    changed: dict[SagaId, ChangedSaga] = field(default_factory=dict)
    unloadable: dict[SagaId, UnloadableSaga] = field(default_factory=dict)
    corrupt: list[SagaSummary] = field(default_factory=list)
    timers: TimerChanges = field(default_factory=TimerChanges)
    unhandled: UnhandledChanges = field(default_factory=UnhandledChanges)
    outgoing: list[Record] = field(default_factory=list)
    revisits: set[SagaId] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    measures: Measures = field(default_factory=Measures)

    def change(self, saga: LoadedSaga) -> ChangedSaga:
        """The additions to the saga's history, begun now if they were not."""
        changed = self.changed.get(saga.saga_id)
        if changed is None:
            changed = self.changed[saga.saga_id] = ChangedSaga(saga, saga.turns)
        return changed

    def defer(self, delivery: Delivery, reason: DeferralReason, message: str) -> None:
        """Keep a record, in order, behind its saga. A timer is looked at again later."""
        if delivery.inbound is None:
            self._postpone(delivery)
            return
        self.unhandled.deferred_behind.add(delivery.saga_id)
        if delivery.deferred_id:
            return  # it is deferred already, in its place
        self.counts["deferred"] += 1
        self.unhandled.deferred.append(
            deferred(delivery.inbound, reason, message, self.at, delivery.saga_id)
        )

    def reject(self, rejected: Rejected) -> None:
        """Make a record a dead letter."""
        self.counts["dead"] += 1
        self.unhandled.dead_letters.append(
            dead_letter(rejected.inbound, rejected.reason, rejected.message, self.at)
        )
        if rejected.deferred_id:
            self.unhandled.handled.append(rejected.deferred_id)

    def clear_timer(self, delivery: Delivery) -> None:
        """Nothing is to come of the timer that *delivery* is about, if it is about one."""
        fact = delivery.event.fact
        if isinstance(fact, TimerFired) and fact.timer_id not in self.timers.armed:
            self.timers.cleared.append(fact.timer_id)

    def count_change(self, saga: LoadedSaga, *, has_started: bool, before: SagaStatus) -> None:
        """Count what became of a saga with a turn of it."""
        name, status = saga.decider.name, saga.state.status
        if has_started:
            self.counts["started"] += 1
            self.measures.started[name] += 1
        if status is before:
            return
        self.counts[status.value] += 1
        self.measures.reached[name, status] += 1
        if status.is_ended:
            self.measures.took.append((name, (self.at - saga.started_at) / SECOND_US))

    @property
    def possibly_unpublished(self) -> list[LoadedSaga]:
        """Changed sagas of which another process may have entries that are not published."""
        sagas = (changed.saga for changed in self.changed.values())
        return [saga for saga in sagas if saga.is_possibly_unpublished]

    def batch(self, positions: dict[Source, int], relayed: list[int]) -> Batch:
        """The transaction."""
        return Batch(
            histories=[
                HistoryAppend(saga_id, changed.turns_before, changed.turns)
                for saga_id, changed in self.changed.items()
            ],
            positions=positions,
            timers_armed=self.timers.rows(),
            timers_cleared=self.timers.cleared,
            summaries=self._summaries(),
            unhandled=[*self.unhandled.dead_letters, *self.unhandled.deferred],
            handled=self.unhandled.handled,
            outgoing=self.outgoing,
            relayed=relayed,
        )

    def _postpone(self, delivery: Delivery) -> None:
        fact = delivery.event.fact
        assert isinstance(fact, TimerFired), fact
        due_at = Instant(self.at + POSTPONED_S * SECOND_US)
        self.timers.postponed[fact.timer_id] = DueTimer(fact.timer_id, delivery.saga_id, due_at)

    def _summaries(self) -> list[SagaSummary]:
        summaries = [summary_of(changed.saga, self.at) for changed in self.changed.values()]
        summaries += self.corrupt
        for unloadable in self.unloadable.values():
            summary = summary_of_unloadable(unloadable, self.at)
            if summary is not None:
                summaries.append(summary)
        return summaries
