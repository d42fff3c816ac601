"""An operator moves a timer, or has it fire now: the one way in which a timer is early."""

from __future__ import annotations

from saga.core.decider import RECORDED, Disposition
from saga.core.events import Act, OperatorActed
from saga.core.intents import TimerMoved, Verdict
from saga.core.state import SagaState
from saga.core.turn import Turn


def move(turn: Turn, fact: OperatorActed) -> Disposition:
    """Have an armed timer be due at another time, or at once; it fires in a turn of its own."""
    if (refusal := turn.refusal(_why_not, turn.state, fact)) is not None:
        return turn.note(Verdict.REFUSED, f"{fact.act.value} {fact.timer_id}", refusal)
    assert fact.timer_id is not None, fact
    turn.take_fact()
    due_at = turn.at if fact.due_at is None else fact.due_at
    turn.record(TimerMoved(timer_id=fact.timer_id, due_at=due_at))
    return RECORDED


def _why_not(state: SagaState, fact: OperatorActed) -> str | None:
    if state.has_ended:
        return f"the saga is {state.status.value}"
    if fact.timer_id not in state.timers:
        armed = ", ".join(state.timers) or "none"
        return f"no timer {fact.timer_id} is armed; armed timers: {armed}"
    if fact.act is Act.MOVE_TIMER and fact.due_at is None:
        return "say when it is to be due"
    return None
