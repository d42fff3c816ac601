"""What a batch of turns wants to commit, gathered saga by saga."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from saga.core.durations import SECOND_US
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.intents import Intent, TimerArmed, TimerCancelled
from saga.core.status import SagaStatus
from saga.ports import (
    Batch,
    DueTimer,
    HistoryAppend,
    Record,
    SagaSummary,
    Source,
    UnhandledRecord,
)
from saga.runtime.saga_cache import LoadedSaga, UnloadableSaga, summary_of, summary_of_unloadable


@dataclass(slots=True)
class Touched:
    """A loaded saga and the turns that this batch adds to its history."""

    live: LoadedSaga
    turns_before: int
    turns: list[Sequence[Entry]] = field(default_factory=list)


@dataclass(slots=True)
class UnitOfWork:
    """Everything that one batch has decided so far.

    *remembered* are the sagas that were in memory, *visited* all that the batch has worked with,
    *holding* those behind which it holds records; *corrupt* are index rows of unreadable histories.
    *counts* to *append_s* are told to people and decide nothing: sagas that *started*, *reached* a
    status, and how many seconds they *took* until they ended, by definition.
    """

    at: Instant
    remembered: frozenset[SagaId] = frozenset()
    visited: list[LoadedSaga] = field(default_factory=list)
    touched: dict[SagaId, Touched] = field(default_factory=dict)
    unloadable: dict[SagaId, UnloadableSaga] = field(default_factory=dict)
    armed: dict[TimerId, DueTimer] = field(default_factory=dict)
    postponed: dict[TimerId, DueTimer] = field(default_factory=dict)
    cleared: list[TimerId] = field(default_factory=list)
    dead: list[UnhandledRecord] = field(default_factory=list)
    corrupt: list[SagaSummary] = field(default_factory=list)
    held: list[UnhandledRecord] = field(default_factory=list)
    holding: set[SagaId] = field(default_factory=set)
    handled: list[int] = field(default_factory=list)
    outgoing: list[Record] = field(default_factory=list)
    revisits: set[SagaId] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    started: Counter[str] = field(default_factory=Counter)
    reached: Counter[tuple[str, SagaStatus]] = field(default_factory=Counter)
    took: list[tuple[str, float]] = field(default_factory=list)
    append_s: float = 0.0

    def note_change(self, live: LoadedSaga, *, has_started: bool, before: SagaStatus) -> None:
        """Count what became of a saga with a turn of it."""
        name, status = live.decider.name, live.state.status
        if has_started:
            self.counts["started"] += 1
            self.started[name] += 1
        if status is before:
            return
        self.counts[status.value] += 1
        self.reached[name, status] += 1
        if status.is_ended:
            self.took.append((name, (self.at - live.started_at) / SECOND_US))

    def touch(self, live: LoadedSaga) -> Touched:
        """The additions to *live*'s history, begun now if they were not."""
        touched = self.touched.get(live.saga_id)
        if touched is None:
            touched = self.touched[live.saga_id] = Touched(live, live.turns)
        return touched

    @property
    def strangers(self) -> list[LoadedSaga]:
        """Sagas with new entries of which another process may still have records to publish."""
        lives = (touched.live for touched in self.touched.values())
        return [live for live in lives if live.has_unknown_past]

    def note_timers(self, saga_id: SagaId, intents: Sequence[Intent]) -> None:
        """Bring the due-index up to date with what a turn has decided."""
        for intent in intents:
            if isinstance(intent, TimerArmed):
                self.armed[intent.timer_id] = DueTimer(intent.timer_id, saga_id, intent.due_at)
            elif (
                isinstance(intent, TimerCancelled) and self.armed.pop(intent.timer_id, None) is None
            ):
                self.cleared.append(intent.timer_id)

    def batch(self, positions: dict[Source, int], relayed: list[int]) -> Batch:
        """The transaction."""
        return Batch(
            histories=[
                HistoryAppend(saga_id, touched.turns_before, touched.turns)
                for saga_id, touched in self.touched.items()
                if touched.turns
            ],
            positions=positions,
            timers_armed=[*self.armed.values(), *self._still_postponed()],
            timers_cleared=self.cleared,
            summaries=self._summaries(),
            unhandled=[*self.dead, *self.held],
            handled=self.handled,
            outgoing=self.outgoing,
            relayed=relayed,
        )

    def _still_postponed(self) -> list[DueTimer]:
        cleared = set(self.cleared)
        return [timer for timer in self.postponed.values() if timer.timer_id not in cleared]

    def _summaries(self) -> list[SagaSummary]:
        summaries = [
            summary_of(touched.live, self.at) for touched in self.touched.values() if touched.turns
        ]
        summaries += self.corrupt
        for unloadable in self.unloadable.values():
            summary = summary_of_unloadable(unloadable, self.at)
            if summary is not None:
                summaries.append(summary)
        return summaries
