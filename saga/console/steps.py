"""The steps of a saga, folded from its history alone: no application is needed to look at one.

One row for each step and direction, in the order in which they were first issued; both rows of a
step say where the step stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from saga.core.events import (
    Act,
    OperatorActed,
    ReplyOutcome,
    ReplyReceived,
    TimerFired,
)
from saga.core.history import Entry
from saga.core.identity import Direction, IntentId, StepId, TimerId, intent_id, parse_intent_id
from saga.core.intents import (
    IntentIssued,
    Noted,
    RollbackGoal,
    RollbackPlanned,
    SagaAbandoned,
    TimerArmed,
    TimerCancelled,
    TimerPurpose,
    UndoAppended,
    UndoStuck,
    Verdict,
)
from saga.core.replay import turns
from saga.core.status import StepStatus

_UNSETTLED = frozenset({StepStatus.ISSUED, StepStatus.IN_DOUBT, StepStatus.FAILED})
_BEING_UNDONE = frozenset({StepStatus.UNDOING, StepStatus.UNDO_STUCK})
_MAY_BE_UNDONE = _BEING_UNDONE | {StepStatus.SKIPPED}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One direction of one step; *intent_id* is that of the latest attempt."""

    step: StepId
    contract: str
    direction: Direction
    status: StepStatus
    attempts: int
    intent_id: IntentId


def steps_of(history: Sequence[Entry]) -> list[StepRow]:
    """The rows of a whole history, or of as much of it as is asked about."""
    fold = _Fold()
    for fact, decided in turns(history):
        fold.take(fact, decided)
    return [
        StepRow(
            step=step,
            contract=issued.contract,
            direction=direction,
            status=fold.statuses[step],
            attempts=issued.attempt,
            intent_id=intent_id(history[0].saga_id, step, direction, issued.attempt),
        )
        for (step, direction), issued in fold.issued.items()
    ]


@dataclass(slots=True)
class _Fold:
    statuses: dict[StepId, StepStatus] = field(default_factory=dict)
    issued: dict[tuple[StepId, Direction], IntentIssued] = field(default_factory=dict)
    timers: dict[TimerId, TimerArmed] = field(default_factory=dict)

    def take(self, fact: Entry, decided: Sequence[Entry]) -> None:
        """One turn: what the fact says of its step, then what was decided."""
        bodies = [entry.body for entry in decided]
        match fact.body:
            case ReplyReceived():
                self._reply(fact.body, bodies)
            case TimerFired(timer_id=timer_id):
                self._fired(timer_id, bodies)
            case OperatorActed(act=Act.SKIP, step=named) if not _is_refused(bodies):
                self._skip(named)
            case _:
                pass
        for body in bodies:
            self._decided(body)

    def _reply(self, fact: ReplyReceived, decided: Sequence[object]) -> None:
        name = parse_intent_id(fact.intent_id)
        if name is None or name.step not in self.statuses:
            return
        if _verdicts(decided) & {Verdict.SUPERSEDED, Verdict.CONFLICTING}:
            return
        step, status = name.step, self.statuses[name.step]
        if name.direction is Direction.UNDO:
            if fact.outcome is ReplyOutcome.DONE and status in _MAY_BE_UNDONE:
                self.statuses[step] = StepStatus.UNDONE
            return
        match fact.outcome:
            case ReplyOutcome.DONE if status in {*_UNSETTLED, StepStatus.REFUSED}:
                self.statuses[step] = StepStatus.DONE
            case ReplyOutcome.REFUSED if status in _UNSETTLED:
                self.statuses[step] = StepStatus.REFUSED
            case ReplyOutcome.FAILED if status is StepStatus.ISSUED:
                self._attempt_failed(step, StepStatus.FAILED, decided)
            case _:
                pass

    def _fired(self, timer_id: TimerId, decided: Sequence[object]) -> None:
        timer = self.timers.get(timer_id)
        if timer is None or timer.purpose is not TimerPurpose.DEADLINE:
            return
        step, _, direction = timer.target.rpartition("/")
        is_forward = direction == Direction.DO.value
        if is_forward and self.statuses.get(StepId(step)) is StepStatus.ISSUED:
            self._attempt_failed(StepId(step), StepStatus.IN_DOUBT, decided)

    def _attempt_failed(self, step: StepId, final: StepStatus, decided: Sequence[object]) -> None:
        target = f"{step}/{Direction.DO.value}"
        if not any(
            isinstance(body, TimerArmed)
            and body.purpose is TimerPurpose.RETRY
            and body.target == target
            for body in decided
        ):
            self.statuses[step] = final

    def _skip(self, named: str | None) -> None:
        for step, status in self.statuses.items():
            if status in _BEING_UNDONE and named in (None, step):
                self.statuses[step] = StepStatus.SKIPPED

    def _cancelled(self, timer: TimerArmed) -> None:
        """A step whose next attempt is not wanted any more stays failed, unless it is issued at
        once.
        """
        step, _, direction = timer.target.rpartition("/")
        is_retry = timer.purpose is TimerPurpose.RETRY and direction == Direction.DO.value
        if is_retry and self.statuses[StepId(step)] is StepStatus.ISSUED:
            self.statuses[StepId(step)] = StepStatus.FAILED

    def _close_forward(self) -> None:
        self._become(StepStatus.ISSUED, StepStatus.IN_DOUBT)

    def _become(self, before: StepStatus, after: StepStatus) -> None:
        for step, status in self.statuses.items():
            if status is before:
                self.statuses[step] = after

    def _decided(self, body: object) -> None:
        match body:
            case IntentIssued(step=step, direction=direction):
                is_undo = direction is Direction.UNDO
                self.issued[step, direction] = body
                self.statuses[step] = StepStatus.UNDOING if is_undo else StepStatus.ISSUED
            case TimerArmed(timer_id=timer_id):
                self.timers[timer_id] = body
            case TimerCancelled(timer_id=timer_id):
                self._cancelled(self.timers[timer_id])
            case UndoStuck(step=step):
                self.statuses[step] = StepStatus.UNDO_STUCK
            case UndoAppended(step=step) if self.statuses[step] is not StepStatus.UNDOING:
                self.statuses[step] = StepStatus.DONE
            case RollbackPlanned(goal=RollbackGoal.ROLLED_BACK):
                self._close_forward()
            case SagaAbandoned():
                self._close_forward()
                self._become(StepStatus.UNDOING, StepStatus.SKIPPED)
            case _:
                pass


def _verdicts(decided: Iterable[object]) -> set[Verdict]:
    return {body.verdict for body in decided if isinstance(body, Noted)}


def _is_refused(decided: Iterable[object]) -> bool:
    return bool(_verdicts(decided) & {Verdict.REFUSED, Verdict.AFTER_END})
