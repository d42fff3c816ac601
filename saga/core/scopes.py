"""Scopes: a part of a saga that is undone by itself when a failure leaves it.

Theory of operation: the program says that it leaves a scope, and waits. As soon as nothing in the
scope is in flight it is undone by a plan of its own; other branches go on meanwhile. When that is
through, the program is told so. A rollback of the saga, or of a scope around it, takes over what
is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from saga.core import intents, parking, program, rollback
from saga.core.pauses import Told
from saga.core.state import Scopes
from saga.core.status import SagaStatus
from saga.core.turn import Turn


def settle(turn: Turn, run: Callable[[Turn, Sequence[program.Command]], None]) -> None:
    """Undo what was left and what is due, and have the program go on behind what is undone."""
    state = turn.state
    told = _begin_of_run(turn)
    while not (state.plan is not None or state.is_stopping or state.status.is_ended):
        if state.is_poisoned:
            return
        if turn.left:
            _leave(turn, turn.left.pop(0))
            continue
        due = _settled(state.scopes, turn)
        if due is not None:
            assert due.scope is not None, due
            rollback.begin_scope(
                turn, due.scope, due.reason, code=due.code, failed_step=due.failed_step
            )
            continue
        undone = turn.intents[told:]
        told = len(turn.intents)
        names = [body.scope for body in undone if type(body) is intents.ScopeUndone]
        for name in names:
            if parking.has_parked(turn):
                state.late = state.late or deque()
                state.late.append(Told(turn.version, "undone", (name, turn.at), ()))
            elif turn.finish is None and not state.is_finishing:
                run(turn, turn.program.undone(name, turn.at))
                parking.park_in_place(turn)
        if not names:
            break
    _stay_parked(turn)


def _begin_of_run(turn: Turn) -> int:
    """Where in what was decided the run begins: an earlier one had scopes of the same names."""
    places = range(len(turn.intents), 0, -1)
    continued = (place for place in places if type(turn.intents[place - 1]) is intents.Continued)
    return next(continued, 0)


def _leave(turn: Turn, command: program.LeaveScope) -> None:
    """Plan to undo a scope, or say that this is due once what is in flight in it has settled."""
    scope, failure = command.scope, command.failure
    if _is_in_flight(turn, scope):
        turn.record(
            intents.RollbackDue(
                reason=failure.reason,
                code=failure.code,
                failed_step=failure.failed_step,
                scope=scope,
            )
        )
    else:
        rollback.begin_scope(
            turn, scope, failure.reason, code=failure.code, failed_step=failure.failed_step
        )


def _settled(scopes: Scopes | None, turn: Turn) -> intents.RollbackDue | None:
    """A scope that is to be undone, and in which nothing is in flight any more."""
    if scopes is None:
        return None
    return next((due for name, due in scopes.due.items() if not _is_in_flight(turn, name)), None)


def _is_in_flight(turn: Turn, scope: str) -> bool:
    state = turn.state
    issued = () if state.scopes is None else state.scopes.steps.get(scope, ())
    return any(step_id in state.in_flight for step_id in issued)


def _stay_parked(turn: Turn) -> None:
    """Where an operator has dealt with one thing that held the saga up, another one still does."""
    state = turn.state
    was_resumed = any(type(body) is intents.SagaResumed for body in turn.intents)
    if not was_resumed or state.status is SagaStatus.PARKED or state.scopes is None:
        return
    for step in state.steps.values():
        if parking.holds_up(state, step):
            parking.park_on(turn, step, "it holds the saga up still")
            return
    for plan in state.scopes.plans.values():
        if not rollback.is_going_on(turn, plan):
            rollback.park_stuck(turn, plan)
            return
