"""What became of a demo's sagas, folded from the log as it grows."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from saga.core.durations import SECOND_US
from saga.core.events import OperatorActed, ReplyOutcome, ReplyReceived, SagaStarted, TurnFailed
from saga.core.history import Entry
from saga.core.identity import Direction, Instant, SagaId, parse_intent_id
from saga.core.intents import (
    RollbackGoal,
    RollbackPlanned,
    SagaAbandoned,
    SagaCleanedUp,
    SagaCompleted,
    SagaParked,
    SagaRolledBack,
)
from saga.core.status import SagaStatus
from saga.ports import Catalogue

PAUSE_US: Final = 30 * SECOND_US
"""A longer silence in the log counts as time in which nothing was running.

A killed worker costs far less until another has its partitions, and that time is counted.
"""


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """A way in which sagas end."""

    status: str
    reason: str
    failed_step: str


@dataclass(slots=True)
class Tally:
    """All figures of a demo; *examples* has a `definition/key` for each status."""

    entries: int = 0
    undone_steps: int = 0
    working_us: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    latencies_us: array[int] = field(default_factory=lambda: array("q"))
    ended: set[SagaId] = field(default_factory=set)
    parked: set[SagaId] = field(default_factory=set)
    begun: dict[SagaId, Instant] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    _names: dict[SagaId, str] = field(default_factory=dict)
    _position: int = 0
    _seen_at: int = 0

    @property
    def settled(self) -> set[SagaId]:
        """The sagas that have ended, or wait for someone."""
        return self.ended | self.parked

    async def follow(self, catalogue: Catalogue) -> int:
        """Fold the entries logged since the last time; gives their number."""
        before = self.entries
        async for position, entry in catalogue.log(after=self._position):
            self._position = position
            self._fold(entry)
        return self.entries - before

    def latency_ms(self, share: float) -> float:
        """The latency that *share* of the sagas do not exceed, from first turn to end."""
        ordered = sorted(self.latencies_us)
        if not ordered:
            return 0.0
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1_000

    def _fold(self, entry: Entry) -> None:
        self.entries += 1
        if self._seen_at and entry.at > self._seen_at:
            pause_us = entry.at - self._seen_at
            self.working_us += pause_us if pause_us <= PAUSE_US else 0
        self._seen_at = max(self._seen_at, entry.at)
        saga, body = entry.saga_id, entry.body
        match body:
            case SagaStarted(definition=definition, key=key):
                self.begun[saga] = entry.at
                self._names[saga] = f"{definition}/{key}"
            case SagaCompleted():
                self._ended(entry, Outcome(SagaStatus.COMPLETED.value, "", ""))
            case SagaRolledBack():
                self._rolled_back(entry, body)
            case SagaAbandoned(reason=reason):
                self._ended(entry, Outcome(SagaStatus.ABANDONED.value, reason, ""))
            case SagaCleanedUp():
                self.ended.add(saga)
            case RollbackPlanned(goal=RollbackGoal.CLEANED_UP):
                self.ended.discard(saga)
            case SagaParked() | TurnFailed():
                self.parked.add(saga)
            case OperatorActed():
                self.parked.discard(saga)
            case ReplyReceived(outcome=ReplyOutcome.DONE, intent_id=intent_id):
                name = parse_intent_id(intent_id)
                if name is not None and name.direction is Direction.UNDO:
                    self.undone_steps += 1
            case _:
                pass

    def _rolled_back(self, entry: Entry, body: SagaRolledBack) -> None:
        status = SagaStatus.ROLLED_BACK
        if body.residue:
            status = SagaStatus.ROLLED_BACK_WITH_RESIDUE
        self._ended(entry, Outcome(status.value, body.code or body.reason, body.failed_step or ""))

    def _ended(self, entry: Entry, outcome: Outcome) -> None:
        saga = entry.saga_id
        self.ended.add(saga)
        self.parked.discard(saga)
        self.outcomes[outcome] += 1
        began = self.begun.get(saga)
        if began is not None:
            self.latencies_us.append(entry.at - began)
        name = self._names.pop(saga, None)
        if name is not None:
            self.examples.setdefault(outcome.status, name)
