"""What people ask of a saga: signals, cancels and operators' acts. A refusal is recorded too."""

from __future__ import annotations

from typing import assert_never

from saga.core import events, forward, rollback
from saga.core.decider import RECORDED, Disposition
from saga.core.identity import StepId
from saga.core.intents import TimerPurpose, Verdict
from saga.core.state import SagaState, Step
from saga.core.status import SagaStatus, StepStatus
from saga.core.turn import Turn


def cancel(turn: Turn, fact: events.CancelRequested) -> Disposition:
    """End the saga early: gracefully, at once, or as it stands."""
    state = turn.state
    if state.has_ended:
        return turn.note(Verdict.AFTER_END, "cancel", f"the saga is {state.status.value}")
    if fact.mode is events.CancelMode.ABANDON:
        turn.take_fact()
        rollback.abandon(turn, fact.reason)
        return RECORDED
    if state.plan is not None or state.cancel_reason is not None:
        return turn.note(Verdict.REFUSED, "cancel", "the saga is on its way back already")
    if not state.is_started:
        return turn.note(Verdict.REFUSED, "cancel", "the saga has not begun")
    if state.is_past_pivot:
        return turn.note(Verdict.REFUSED, "cancel", "past its pivot the saga only goes forward")
    if state.is_finishing:
        return turn.note(Verdict.REFUSED, "cancel", "the saga is through and about to complete")
    if state.is_poisoned:
        return turn.note(Verdict.REFUSED, "cancel", "parked by a failed turn: release it first")
    turn.take_fact()
    if fact.mode is events.CancelMode.IMMEDIATE:
        rollback.begin(turn, fact.reason, code="cancelled")
        return RECORDED
    _stop_forward(turn)
    return RECORDED


def act(turn: Turn, fact: events.OperatorActed) -> Disposition:
    """An operator's act, checked against where the saga and the step stand."""
    match fact.act:
        case events.Act.RELEASE:
            return _release(turn, fact)
        case events.Act.COMPENSATE:
            return _compensate(turn, fact)
        case events.Act.RETRY:
            return _retry(turn, fact)
        case events.Act.SKIP:
            return _skip(turn, fact)
        case _:
            assert_never(fact.act)


def _stop_forward(turn: Turn) -> None:
    state = turn.state
    in_flight = [step for step in state.steps.values() if step.status is StepStatus.ISSUED]
    backing_off = [step for step in in_flight if step.is_backing_off]
    for timer in list(state.timers.values()):
        if timer.purpose in {TimerPurpose.SLEEP, TimerPurpose.WAIT, TimerPurpose.RETRY}:
            turn.disarm(timer.timer_id)
    for step in backing_off:
        turn.settle(step, StepStatus.FAILED)


def _release(turn: Turn, fact: events.OperatorActed) -> Disposition:
    if not turn.state.is_poisoned:
        return _refuse(turn, fact, "no failed turn holds this saga")
    turn.take_fact()
    return RECORDED


def _compensate(turn: Turn, fact: events.OperatorActed) -> Disposition:
    state = turn.state
    if state.has_ended or state.plan is not None:
        return _refuse(turn, fact, f"the saga is {state.status.value}")
    if not state.is_started:
        return _refuse(turn, fact, "the saga has not begun: there is nothing to undo")
    turn.take_fact()
    rollback.begin(turn, fact.reason, code="compensated")
    return RECORDED


def _retry(turn: Turn, fact: events.OperatorActed) -> Disposition:
    step = _step(turn, fact)
    if step is None:
        return _refuse(turn, fact, "name a step that waits: stuck, backing off, or parked on")
    turn.take_fact()
    if step.status in {StepStatus.UNDO_STUCK, StepStatus.UNDOING}:
        rollback.retry_undo(turn, step)
    else:
        forward.retry_now(turn, step)
    return RECORDED


def _skip(turn: Turn, fact: events.OperatorActed) -> Disposition:
    step = _step(turn, fact)
    if step is None or step.status not in {StepStatus.UNDO_STUCK, StepStatus.UNDOING}:
        return _refuse(turn, fact, "only a step whose undo is stuck or under way can be skipped")
    turn.take_fact()
    rollback.skip_undo(turn, step)
    return RECORDED


def _step(turn: Turn, fact: events.OperatorActed) -> Step | None:
    """The step an act is about: the one named, or the only one it can mean."""
    state = turn.state
    if state.is_poisoned or state.status.is_ended:
        return None
    candidates = [step for step in state.steps.values() if _can_be_repeated(state, step)]
    if fact.step is not None:
        candidates = [step for step in candidates if step.id == StepId(fact.step)]
    return candidates[0] if len(candidates) == 1 else None


def _can_be_repeated(state: SagaState, step: Step) -> bool:
    if step.status in {StepStatus.UNDO_STUCK, StepStatus.UNDOING}:
        return True
    if step.status is StepStatus.ISSUED:
        return step.is_backing_off
    return state.status is SagaStatus.PARKED and forward.holds_up(state, step)


def _refuse(turn: Turn, fact: events.OperatorActed, why: str) -> Disposition:
    subject = fact.act.value if fact.step is None else f"{fact.act.value} {fact.step}"
    return turn.note(Verdict.REFUSED, subject, why)
