"""What a child is told by its parent that nobody else may say: that it is to be undone.

The first end of a child is what its parent waits for; a child that is on its way back answers with
that end. One that has completed goes back as if it had failed at its last step, and says so.
"""

from __future__ import annotations

from saga.core import rollback
from saga.core.decider import RECORDED, Disposition
from saga.core.events import CancelRequested, Parent
from saga.core.identity import DO, UNDO, IntentId, parse_intent_id
from saga.core.intents import RollbackGoal, Verdict
from saga.core.program import Program
from saga.core.state import SagaState
from saga.core.status import SagaStatus
from saga.core.turn import Turn

UNDONE = "undone"
"""The code of a child that its parent had undone after it had completed."""


def undo(turn: Turn, fact: CancelRequested) -> Disposition:
    """The parent has its step undone."""
    state = turn.state
    assert fact.undo is not None, fact
    refusal = turn.refusal(_why_not, state, fact.undo, turn.program)
    if refusal is not None:
        return turn.note(Verdict.REFUSED, "undo", refusal)
    if state.status is SagaStatus.ROLLED_BACK or _cleans_up_undone(state):
        return turn.note(Verdict.AFTER_END, "undo", "it is undone already")
    if _is_on_its_way_back(state):
        return turn.note(Verdict.SUPERSEDED, "undo", "the saga is on its way back already")
    turn.take_fact()
    if state.has_ended or state.plan is not None:
        rollback.begin(turn, fact.reason, code=UNDONE)
    else:
        rollback.stop_forward(turn, fact.reason)
    return RECORDED


def is_from_parent(parent: Parent | None, undo_intent: IntentId) -> bool:
    """Whether that is an intent to undo the very step that started this saga."""
    if parent is None:
        return False
    ours, theirs = parse_intent_id(parent.intent_id), parse_intent_id(undo_intent)
    if ours is None or theirs is None:
        return False
    return (ours.saga_id, ours.step, ours.direction, theirs.direction) == (
        theirs.saga_id,
        theirs.step,
        DO,
        UNDO,
    )


def _why_not(state: SagaState, undo_intent: IntentId, program: Program | None) -> str | None:
    has_residue = state.status in (SagaStatus.ROLLED_BACK_WITH_RESIDUE, SagaStatus.ABANDONED) or (
        _cleans_up_undone(state) and bool(state.residue)
    )
    left = ", ".join(state.residue) or "nothing that is known"
    refusals = (
        (not is_from_parent(state.parent, undo_intent), "only its parent may have it undone"),
        (has_residue, f"the saga is {state.status.value}: of it is left {left}"),
        (state.is_past_pivot, "past its pivot the saga only goes forward"),
        (
            state.status is SagaStatus.COMPLETED and program is None,
            "no code here can run it: deploy the version of its definition, and retry the undo",
        ),
    )
    return next((refusal for is_so, refusal in refusals if is_so), None)


def _cleans_up_undone(state: SagaState) -> bool:
    """Whether it had rolled back before a late success: that end stands."""
    plan = state.plan
    is_cleaning = plan is not None and plan.recorded.goal is RollbackGoal.CLEANED_UP
    return is_cleaning and not state.is_finishing


def _is_on_its_way_back(state: SagaState) -> bool:
    if state.status.is_ended:
        return False
    if state.plan is None:
        return state.cancel_reason is not None
    return state.plan.recorded.goal is RollbackGoal.ROLLED_BACK
