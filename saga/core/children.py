"""What a parent asks of its children: to end, or to be undone once they have completed.

Theory of operation: a child is another saga, in whatever application; nothing is called, and what
is asked travels as a command. A command needs the child's id and key, which it tells when it has
begun: what is wanted before that is asked in the turn of its `child-started`.
"""

from __future__ import annotations

from typing import Final

from saga.core import intents
from saga.core.events import CancelMode, Json
from saga.core.identity import DO, UNDO, MessageId, intent_id
from saga.core.intents import CommandSent, SentAct
from saga.core.state import Child, SagaState, Step
from saga.core.status import ISSUED, StepStatus
from saga.core.turn import Turn

COMMAND: Final = "saga.ctl.command.v1"
"""The contract of what undoes a child."""
_UNTOLD: Final = Json("{}")


def child_of(state: SagaState, step: Step) -> Child | None:
    """What is known of the child that *step* has started; None where it started none."""
    return None if state.children is None else state.children.get(step.id)


def cancel_open(turn: Turn, mode: CancelMode, reason: str) -> None:
    """Ask every child to end that may still be at work."""
    state = turn.state
    if state.children is None:
        return
    for step in list(state.in_flight.values()):
        child = state.children.get(step.id)
        if child is not None:
            cancel(turn, step, child, mode, reason)


def cancel(turn: Turn, step: Step, child: Child, mode: CancelMode, reason: str) -> None:
    """Ask a child to end, once for each mode; one that has not said who it is, when it says so."""
    if child.saga_id is None or child.cancelled in (mode, CancelMode.IMMEDIATE):
        return
    is_graceful = mode is CancelMode.GRACEFUL
    started_by = intent_id(turn.state.saga_id, step.id, DO, step.attempts)
    turn.record(
        CommandSent(
            command=MessageId(f"{started_by}/{'cancel' if is_graceful else 'cancel-at-once'}"),
            act=SentAct.CANCEL,
            saga_id=child.saga_id,
            definition=child.definition,
            key=child.key,
            mode=None if is_graceful else mode,
            reason=reason,
        )
    )


def overdue(turn: Turn, step: Step, child: Child) -> None:
    """The time that a step gave its child is over: the child is to end, and is waited for."""
    if step.status is ISSUED:
        cancel(turn, step, child, CancelMode.GRACEFUL, "it did not end in the time its parent gave")


def met(turn: Turn, step: Step, child: Child) -> None:
    """A child has said who it is: ask of it what was wanted before."""
    state = turn.state
    if step.status is StepStatus.UNDOING:
        _ask_to_undo(turn, step, child)
    elif step.status in _OVER or (
        step.status is ISSUED and (state.is_stopping or step.is_dropped or child.is_overdue)
    ):
        mode = CancelMode.IMMEDIATE if child.ends_at_once else CancelMode.GRACEFUL
        why = state.cancel_reason or (None if state.due is None else state.due.reason)
        cancel(turn, step, child, mode, why or "its parent does not need it")


_OVER: Final = frozenset({StepStatus.IN_DOUBT, StepStatus.REFUSED})
"""Its parent goes on without it, and does not know yet that there is something to be undone."""


def issue_undo(turn: Turn, step: Step, child: Child) -> None:
    """Issue the next attempt to have a child undone; there is no limit to how long that takes."""
    turn.record(
        intents.IntentIssued(
            step=step.id,
            direction=UNDO,
            attempt=step.undo_attempts + 1,
            contract=COMMAND,
            payload=_UNTOLD,
            kind=step.kind,
            undoes=step.contract,
            child=True,
            scope=step.scope,
        )
    )
    if child.saga_id is not None:
        _ask_to_undo(turn, step, child)


def _ask_to_undo(turn: Turn, step: Step, child: Child) -> None:
    assert child.saga_id is not None, (turn.state.saga_id, step.id)
    plan = turn.state.plan_of(step)
    turn.record(
        CommandSent(
            command=MessageId(intent_id(turn.state.saga_id, step.id, UNDO, step.undo_attempts)),
            act=SentAct.UNDO,
            saga_id=child.saga_id,
            definition=child.definition,
            key=child.key,
            reason=None if plan is None else plan.recorded.reason,
        )
    )
