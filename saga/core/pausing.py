"""Pausing a saga and having it go on, as people ask for it. A refusal is recorded too."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from saga.core import events, forward, parking, pauses, scopes
from saga.core.decider import RECORDED, Disposition
from saga.core.intents import SagaParked, Verdict
from saga.core.state import Pause, SagaState
from saga.core.status import ISSUED
from saga.core.turn import Turn


def take(turn: Turn, fact: events.Paused | events.Resumed) -> Disposition:
    """Pause a saga, or have it go on."""
    return _pause(turn, fact) if isinstance(fact, events.Paused) else _resume(turn, fact)


def _pause(turn: Turn, fact: events.Paused) -> Disposition:
    """From here on the saga acts on nothing that comes, but settles and undoes."""
    state = turn.state
    if state.has_ended:
        return turn.note(Verdict.AFTER_END, "pause", f"the saga is {state.status.value}")
    if (refusal := turn.refusal(_why_not_to_pause, state, fact)) is not None:
        return turn.note(Verdict.REFUSED, "pause", refusal)
    turn.take_fact()
    turn.hold()
    return RECORDED


def _why_not_to_pause(state: SagaState, fact: events.Paused) -> str | None:
    is_paused = fact.scope is None and state.pause is not None and state.pause.by_saga
    return "it is paused already" if is_paused else None


def _resume(turn: Turn, fact: events.Resumed) -> Disposition:
    """End a pause; where that was the last one, what came meanwhile acts now, in order."""
    state = turn.state
    if state.has_ended:
        return turn.note(Verdict.AFTER_END, "resume", f"the saga is {state.status.value}")
    if (refusal := turn.refusal(_why_not_to_resume, state, fact)) is not None:
        return turn.note(Verdict.REFUSED, "resume", refusal)
    pause, program = state.pause, pauses.held_by(state)
    assert pause is not None, (state.saga_id, fact)
    turn.take_fact()
    if state.pause is None and program is not None:
        turn.program = state.program = program
        late, state.late = state.late or (), None  # it parked on a failed turn before the pause
        tell(turn, [*late, *pause.held])
    return RECORDED


def tell(turn: Turn, held: Iterable[pauses.Held]) -> None:
    """Tell the program what was kept, in order; behind a parking it is kept for the next turn."""
    turn.held = deque(held)
    while turn.held and turn.finish is None:
        if pauses.is_hold(turn.held[0]):
            parking.park_in_place(turn)  # nothing stands of what its failure led to
        if parking.has_parked(turn):
            parked = {body.step for body in turn.intents if isinstance(body, SagaParked)}
            turn.state.late = pauses.told_later(turn.held, parked)
            return
        _tell(turn, turn.held.popleft())
        parking.park_in_place(turn)
        if turn.left is not None and not parking.has_parked(turn):
            scopes.settle(turn, forward.run)  # as in a turn of its own


def hold_behind_late(turn: Turn) -> Pause | None:
    """Have what came behind the parking in the turn before be told ahead of what comes now."""
    state = turn.state
    if state.late is None or state.program is None or state.pause is not None:
        return None
    late = Pause(held=[*state.late], turn=turn.version)
    turn.program = pauses.held_in(late, state.program)
    return late


def tell_late(turn: Turn, late: Pause) -> None:
    """Tell it, and what came in this turn; nothing where a pause has begun in it."""
    state = turn.state
    if state.is_poisoned or state.status.is_ended or state.program is None:
        return
    state.late, turn.program = None, state.program
    if state.pause is None:
        tell(turn, late.held)
    else:
        state.pause.held[:0] = late.held


def _why_not_to_resume(state: SagaState, fact: events.Resumed) -> str | None:
    if state.pause is None:
        return "it is not paused"
    if state.is_poisoned:
        return "parked by a failed turn: release it first"
    if fact.scope is None and not state.pause.by_saga:
        return "its definition is paused, not this saga alone: resume the definition"
    if fact.scope is not None and not state.pause.by_definition:
        return "its definition is not paused"
    return None


def _tell(turn: Turn, held: pauses.Held) -> None:
    if isinstance(held, pauses.RetryDue):
        step = turn.state.steps[held.step]
        if step.is_backing_off and step.attempts == held.attempts and step.status is ISSUED:
            turn.issue_again(step)
    elif not forward.is_asked(turn):
        return
    elif isinstance(held, pauses.Told):
        forward.run(turn, held.tell(turn.program, turn.at))
    else:
        forward.begin_late(turn, held)
