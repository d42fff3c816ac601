"""What an operator has found out by hand: a step is done, or undone, though no service said so."""

from __future__ import annotations

from typing import Final, assert_never

from saga.core import children, forward, parking, rollback
from saga.core.decider import RECORDED, Disposition
from saga.core.events import MarkedAs, OperatorActed
from saga.core.identity import DO, UNDO, StepId
from saga.core.intents import Verdict
from saga.core.state import SagaState, Step
from saga.core.status import StepStatus
from saga.core.turn import Turn

_MAY_BE_UNDONE: Final = frozenset({StepStatus.UNDO_STUCK, StepStatus.UNDOING, StepStatus.SKIPPED})

_IS_A_SAGA: Final = "the step is a child saga: act on that one"


def mark(turn: Turn, fact: OperatorActed) -> Disposition:
    """Take a step for done or undone, on an operator's evidence; the saga goes on with that."""
    if (refusal := turn.refusal(_why_not, turn, fact)) is not None:
        return turn.note(Verdict.REFUSED, f"mark {fact.step}", refusal)
    assert fact.step is not None, fact
    assert fact.state is not None, fact
    step = turn.state.steps[StepId(fact.step)]
    turn.take_fact()
    match fact.state:
        case MarkedAs.DONE:
            _done(turn, step)
        case MarkedAs.UNDONE:
            _undone(turn, step)
        case _:
            assert_never(fact.state)
    return RECORDED


def _why_not(turn: Turn, fact: OperatorActed) -> str | None:
    state = turn.state
    step = state.steps.get(StepId(fact.step or ""))
    if state.has_ended:
        return f"the saga is {state.status.value}"
    if state.is_poisoned:
        return "parked by a failed turn: release it first"
    if step is None:
        return f"it has no step {fact.step!r}"
    is_undone = fact.state is MarkedAs.UNDONE
    if is_undone and step.status not in _MAY_BE_UNDONE:
        return f"the step is {step.status.value}: its undo is neither under way, stuck nor skipped"
    if is_undone and step.status is StepStatus.UNDOING and children.child_of(state, step):
        return _IS_A_SAGA  # which may still be at work
    if is_undone:
        return None
    if (refusal := why_not_done(state, step)) is not None:
        return refusal
    return turn.program.refusal_of_entered(step.id, fact.reply)


def why_not_done(state: SagaState, step: Step) -> str | None:
    """Why a step cannot be marked done as it stands, whatever its reply."""
    if state.has_ended or state.is_poisoned:
        return f"the saga is {state.status.value}"
    if children.child_of(state, step) is not None:
        return _IS_A_SAGA
    if step.status is not StepStatus.ISSUED and not parking.holds_up(state, step):
        return (
            f"the step is {step.status.value}: it is not in flight, nor has the saga parked on it"
        )
    return None


def _done(turn: Turn, step: Step) -> None:
    was_held_up = parking.holds_up(turn.state, step)
    turn.disarm_for(step, DO)
    turn.settle(step, StepStatus.DONE)
    if was_held_up:
        parking.resume_if_free(turn)
    if not step.is_dropped and forward.is_asked(turn):
        forward.run(turn, turn.program.succeeded(step.id, step.reply, turn.at))


def _undone(turn: Turn, step: Step) -> None:
    was_skipped = step.status is StepStatus.SKIPPED
    turn.disarm_for(step, UNDO)
    if not was_skipped:
        turn.resume()
    turn.settle(step, StepStatus.UNDONE, UNDO)
    rollback.go_on(turn, step)
