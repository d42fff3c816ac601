"""The tally of a demo: what became of its sagas, folded from the log as it grows."""

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
"""
A longer silence in the log is time in which nothing was running; it is not counted as work. What a
killed worker costs until another has its partitions is far less, and is counted.
"""


@dataclass(frozen=True, slots=True, order=True)
class Ending:
    """A way in which sagas ended."""

    status: str
    reason: str
    failed_step: str


@dataclass(slots=True)
class Tally:
    """Everything the demo tells of its sagas. *names* are their `definition/key`."""

    entries: int = 0
    undone_steps: int = 0
    working_us: int = 0
    endings: Counter[Ending] = field(default_factory=Counter)
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
        """Take in what was logged since the last time; how many entries that is."""
        before = self.entries
        async for position, entry in catalogue.log(after=self._position):
            self._position = position
            self._take(entry)
        return self.entries - before

    def latency_ms(self, share: float) -> float:
        """What *share* of the sagas took at most, from trigger to end, in milliseconds."""
        ordered = sorted(self.latencies_us)
        if not ordered:
            return 0.0
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1_000

    def _take(self, entry: Entry) -> None:
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
                self._ended(entry, Ending(SagaStatus.COMPLETED.value, "", ""))
            case SagaRolledBack():
                self._rolled_back(entry, body)
            case SagaAbandoned(reason=reason):
                self._ended(entry, Ending(SagaStatus.ABANDONED.value, reason, ""))
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
        clean = SagaStatus.ROLLED_BACK
        status = SagaStatus.ROLLED_BACK_WITH_RESIDUE if body.residue else clean
        self._ended(entry, Ending(status.value, body.code or body.reason, body.failed_step or ""))

    def _ended(self, entry: Entry, ending: Ending) -> None:
        saga = entry.saga_id
        self.ended.add(saga)
        self.parked.discard(saga)
        self.endings[ending] += 1
        began = self.begun.get(saga)
        if began is not None:
            self.latencies_us.append(entry.at - began)
        name = self._names.pop(saga, None)
        if name is not None:
            self.examples.setdefault(ending.status, name)
