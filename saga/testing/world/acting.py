"""What must hold of operators' acts: each has its one effect once, and a refused one has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from saga.core.events import (
    Act,
    MarkedAs,
    Migrated,
    OperatorActed,
    Paused,
    ReplyOutcome,
    ReplyReceived,
    Resumed,
    SagaStarted,
    TimerFired,
    TurnFailed,
)
from saga.core.history import Entry, RecordedTurn, turns
from saga.core.identity import Direction, SagaId, TimerId
from saga.core.intents import (
    Continued,
    Intent,
    IntentIssued,
    Noted,
    SagaAbandoned,
    SagaCompleted,
    SagaParked,
    SagaRolledBack,
    StepSettled,
    TimerArmed,
    TimerCancelled,
    TimerMoved,
    Verdict,
)
from saga.testing.world.holding import OF_THE_CODE, is_undo

LATE_US_MAX: Final = 60_000_000
"""Longer than faults last: a timer that fires later than that is lost, or stands elsewhere."""
_ENDS: Final = (SagaCompleted, SagaRolledBack, SagaAbandoned)
_OF_TIMERS: Final = frozenset({TimerArmed, TimerMoved, TimerCancelled, TimerFired})
_ACTS: Final = (OperatorActed, Paused, Resumed, Migrated)
_TIMER_ACTS: Final = (Act.FIRE_TIMER, Act.MOVE_TIMER)


def armed_in(history: Iterable[Entry]) -> dict[TimerId, TimerArmed]:
    """The timers that are armed by now, each as it is due."""
    armed: dict[TimerId, TimerArmed] = {}
    for entry in history:
        if type(entry.body) not in _OF_TIMERS:
            continue
        match entry.body:
            case TimerArmed(timer_id=timer_id) as timer:
                armed[timer_id] = timer
            case TimerMoved(timer_id=timer_id, due_at=due_at) if timer_id in armed:
                armed[timer_id] = replace(armed[timer_id], due_at=due_at)
            case TimerCancelled(timer_id=timer_id) | TimerFired(timer_id=timer_id):
                armed.pop(timer_id, None)
    return armed


def open_in(history: Sequence[Entry], direction: Direction) -> list[str]:
    """The steps that are being done, or undone, and of which nobody has said how that ended."""
    steps: dict[str, None] = {}
    for entry in history:
        match entry.body:
            case IntentIssued(step=step, direction=issued) if issued is direction:
                steps[step] = None
            case ReplyReceived(intent_id=intent_id):
                _, answered, how, _ = intent_id.split("/")
                if how == direction:
                    steps.pop(answered, None)
            case StepSettled(step=step):
                steps.pop(step, None)
    return list(steps)


def marked_in(history: Sequence[Entry], state: MarkedAs) -> frozenset[str]:
    """The steps that an operator has found *state*, as far as that was taken."""
    facts = (turn.event.fact for turn in turns(history) if not is_refused(turn))
    marks = (fact for fact in facts if isinstance(fact, OperatorActed) and fact.act is Act.MARK)
    return frozenset(fact.step for fact in marks if fact.state is state and fact.step)


def came_of_acts(history: Sequence[Entry]) -> Iterator[str]:
    """Each act and whether it was taken, to prove that worlds have seen both."""
    for turn in turns(history):
        fact = turn.event.fact
        if isinstance(fact, OperatorActed | Migrated):
            act = "migrate" if isinstance(fact, Migrated) else fact.act.value
            yield f"{act} {'refused' if is_refused(turn) else 'taken'}"


def check_acts(history: Sequence[Entry], *, has_stalled: bool = False) -> Iterator[str]:
    """Yields what is wrong with the acts on one saga."""
    marks = _Marks()
    for turn in turns(history):
        fact = turn.event.fact
        if isinstance(fact, _ACTS) and is_refused(turn):
            if len(turn.decided) > 1:
                yield f"the act of entry {turn.version} is refused, and has an effect"
            continue
        yield from marks.problems(turn)
        if isinstance(fact, OperatorActed) and fact.act in _TIMER_ACTS:
            yield from _moved(turn, fact)
    if not has_stalled:
        yield from _late_timers(history)


def check_reruns(
    histories: Mapping[SagaId, Sequence[Entry]], is_parked: Callable[[SagaId], bool]
) -> Iterator[str]:
    """Yields what is wrong between ended sagas and those that run them again."""
    reruns: dict[SagaId, tuple[SagaId, str]] = {}
    causes = {saga_id: {entry.cause for entry in history} for saga_id, history in histories.items()}
    for ended, history in histories.items():
        for turn in turns(history):
            fact, cause = turn.event.fact, turn.event.cause
            if not isinstance(fact, OperatorActed) or fact.act is not Act.RERUN:
                continue
            new = fact.saga_id
            if is_refused(turn):
                if new is not None and new != ended and cause in causes.get(new, ()):
                    yield f"the rerun of {ended} under key {fact.key!r} is refused, and begins"
                continue
            assert new is not None, fact
            if new in reruns:
                yield f"two reruns begin the saga of key {fact.key!r}"
            reruns[new] = ended, cause
            if not is_parked(new):
                yield from _begins(history[: turn.version - 1], turn, fact, histories.get(new, ()))
    for saga_id, history in histories.items():
        start = history[0].body
        if not isinstance(start, SagaStarted) or start.rerun_of is None:
            continue
        if reruns.get(saga_id) != (start.rerun_of, history[0].cause):
            yield f"{saga_id} says that it runs {start.rerun_of} again, which does not say so"


def is_rerun(history: Sequence[Entry]) -> bool:
    """Whether an operator has begun this saga; `check_reruns` looks at that."""
    starts = (entry.body for entry in history if isinstance(entry.body, SagaStarted))
    return any(start.rerun_of is not None for start in starts)


@dataclass(slots=True)
class _Marks:
    """What operators have found out by hand about the steps of one saga, so far."""

    done: set[str] = field(default_factory=set)
    undone: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    """The steps of which the saga's code knows that they are done."""

    def problems(self, turn: RecordedTurn) -> Iterator[str]:
        match turn.event.fact:
            case ReplyReceived(outcome=ReplyOutcome.DONE) as fact:
                yield from self._replied(turn, fact)
            case OperatorActed(act=Act.MARK, step=str(step), state=MarkedAs.DONE):
                if step in self.told:
                    yield f"{step} is marked as done, and its reply was known"
                self.done.add(step)
                self.told.add(step)
            case OperatorActed(act=Act.MARK, step=str(step), state=MarkedAs.UNDONE):
                self.undone.add(step)
        for body in turn.decided:
            if isinstance(body, IntentIssued) and is_undo(body) and body.step in self.undone:
                yield f"entry {turn.version} undoes {body.step}, which was marked as undone"

    def _replied(self, turn: RecordedTurn, fact: ReplyReceived) -> Iterator[str]:
        _, step, direction, _ = fact.intent_id.split("/")
        if direction == "undo":
            return
        if step in self.done and any(map(_is_forward, turn.decided)):
            yield f"entry {turn.version}: a reply to {step} counts beside the one that was entered"
        first = turn.decided[0] if turn.decided else None
        if not isinstance(first, Noted) or first.verdict is Verdict.LATE_SUCCESS:
            self.told.add(step)
        if isinstance(first, Noted) and first.verdict is Verdict.LATE_SUCCESS:
            self.undone.discard(step)  # so it has to be undone after all


def _is_forward(body: Intent) -> bool:
    return isinstance(body, OF_THE_CODE) and not is_undo(body)


def is_refused(turn: RecordedTurn) -> bool:
    """Whether the act that *turn* is was refused: that is recorded behind it."""
    first = turn.decided[0] if turn.decided else None
    return isinstance(first, Noted) and first.verdict in (Verdict.REFUSED, Verdict.AFTER_END)


def _moved(turn: RecordedTurn, fact: OperatorActed) -> Iterator[str]:
    due_at = turn.event.at if fact.act is Act.FIRE_TIMER else fact.due_at
    moves = [body for body in turn.decided if isinstance(body, TimerMoved)]
    if [(move.timer_id, move.due_at) for move in moves] != [(fact.timer_id, due_at)]:
        yield f"entry {turn.version} moves timer {fact.timer_id} to {due_at}, and says {moves}"


def _late_timers(history: Sequence[Entry]) -> Iterator[str]:
    """A timer fires when it is due now, unless its saga stands still meanwhile."""
    if any(isinstance(entry.body, SagaParked | TurnFailed) for entry in history):
        return
    due: dict[TimerId, int] = {}
    for entry in history:
        match entry.body:
            case TimerArmed(timer_id=timer_id, due_at=due_at):
                due[timer_id] = max(due_at, entry.at)
            case TimerMoved(timer_id=timer_id, due_at=due_at):
                due[timer_id] = max(due_at, entry.at)
            case TimerFired(timer_id=timer_id):
                late_us = entry.at - due.get(timer_id, entry.at)
                if late_us > LATE_US_MAX:
                    yield f"timer {timer_id} fired {late_us // 1_000_000} seconds late"


def _begins(
    before: Sequence[Entry], turn: RecordedTurn, fact: OperatorActed, new: Sequence[Entry]
) -> Iterator[str]:
    """The saga that a rerun begins has the definition and the last trigger of the ended one."""
    name = f"the rerun of {turn.saga_id} under key {fact.key!r}"
    if not any(isinstance(entry.body, _ENDS) for entry in before):
        yield f"{name} is taken before that has ended"
    start = next((entry for entry in new if isinstance(entry.body, SagaStarted)), None)
    if start is None:
        yield f"{name} begins no saga"
        return
    begun, definition, trigger = start.body, "", None
    assert isinstance(begun, SagaStarted), begun
    for entry in before:
        if isinstance(entry.body, SagaStarted):
            definition = entry.body.definition
        if isinstance(entry.body, SagaStarted | Continued):
            trigger = entry.body.trigger
    expected = definition, fact.key, trigger, turn.saga_id, turn.event.cause
    if (begun.definition, begun.key, begun.trigger, begun.rerun_of, start.cause) != expected:
        yield f"{name} begins otherwise: {begun}"
