"""What people ask of a saga: cancels, operators' acts, migrations. A refusal is recorded too."""

from __future__ import annotations

from typing import Final

from saga.core import children, events, forward, parking, rollback, runs
from saga.core.decider import RECORDED, Disposition
from saga.core.events import Act, CancelMode
from saga.core.identity import StepId
from saga.core.intents import Verdict
from saga.core.state import SagaState, Step
from saga.core.status import SagaStatus, StepStatus
from saga.core.turn import Turn

ON_ITS_WAY_BACK: Final = "the saga is on its way back already"
_STUCK_OR_UNDOING: Final = frozenset({StepStatus.UNDO_STUCK, StepStatus.UNDOING})


def cancel(turn: Turn, fact: events.CancelRequested) -> Disposition:
    """End the saga early: gracefully, at once, or as it stands."""
    state = turn.state
    if state.has_ended:
        return turn.note(Verdict.AFTER_END, "cancel", f"the saga is {state.status.value}")
    if fact.mode is CancelMode.ABANDON:
        turn.take_fact()
        rollback.abandon(turn, fact.reason)
        return RECORDED
    refusal = turn.refusal(_why_not_to_cancel, state, fact.mode)
    if refusal is not None:
        return turn.note(Verdict.REFUSED, "cancel", refusal)
    turn.take_fact()
    if fact.mode is CancelMode.IMMEDIATE:
        children.cancel_open(turn, CancelMode.IMMEDIATE, fact.reason)
        rollback.begin_due(turn)
    else:
        rollback.stop_forward(turn, fact.reason)
    return RECORDED


def overdue(turn: Turn) -> Disposition:
    """The saga's own deadline has passed: roll it back, as a graceful cancel would."""
    refusal = _why_not_to_cancel(turn.state, CancelMode.GRACEFUL)
    if refusal is not None:
        return turn.note(Verdict.REFUSED, runs.DEADLINE, refusal)
    turn.take_fact()
    rollback.begin_once_settled(turn, "the saga's deadline has passed", code=runs.DEADLINE)
    return RECORDED


def _why_not_to_cancel(state: SagaState, mode: CancelMode) -> str | None:
    """A graceful cancel that still waits can be made immediate."""
    is_graceful = mode is CancelMode.GRACEFUL
    is_on_its_way_back = state.plan is not None or (is_graceful and state.is_stopping)
    is_through = state.is_finishing and not state.is_continuing
    refusals = (
        (is_on_its_way_back, ON_ITS_WAY_BACK),
        (not state.is_started, "the saga has not begun"),
        (state.is_past_pivot, "past its pivot the saga only goes forward"),
        (is_through, "the saga is through and about to complete"),
        (state.is_poisoned, "parked by a failed turn: release it first"),
    )
    return next((refusal for is_so, refusal in refusals if is_so), None)


def act(turn: Turn, fact: events.OperatorActed) -> Disposition:
    """An operator's act, checked against where the saga and the step stand."""
    state = turn.state
    step = _step(state, fact.step)
    match fact.act:
        case Act.RELEASE if not state.is_poisoned:
            refusal = "no failed turn holds this saga"
        case Act.COMPENSATE if state.has_ended or state.plan is not None:
            refusal = f"the saga is {state.status.value}"
        case Act.COMPENSATE if state.due is not None:
            refusal = ON_ITS_WAY_BACK
        case Act.COMPENSATE if not state.is_started:
            refusal = "the saga has not begun: there is nothing to undo"
        case Act.RETRY if step is None:
            refusal = "name a step that waits: stuck, backing off, or parked on"
        case Act.SKIP if step is None or step.status not in _STUCK_OR_UNDOING:
            refusal = "only a step whose undo is stuck or under way can be skipped"
        case _:
            turn.take_fact()
            _act(turn, fact, step)
            return RECORDED
    subject = fact.act.value if fact.step is None else f"{fact.act.value} {fact.step}"
    return turn.note(Verdict.REFUSED, subject, refusal)


def _act(turn: Turn, fact: events.OperatorActed, step: Step | None) -> None:
    match fact.act:
        case Act.RELEASE:
            pass  # to take the fact is all
        case Act.COMPENSATE:
            rollback.begin_once_settled(turn, fact.reason, code="compensated")
        case Act.RETRY:
            assert step is not None, (turn.state.saga_id, fact)
            if step.status in _STUCK_OR_UNDOING:
                rollback.retry_undo(turn, step)
            else:
                forward.retry_now(turn, step)
        case Act.SKIP:
            assert step is not None, (turn.state.saga_id, fact)
            rollback.skip_undo(turn, step)
        case _:
            raise AssertionError(fact.act)


def migrate(turn: Turn, fact: events.Migrated) -> Disposition:
    """Go on with another version, or note why not, as was recorded for the turn.

    Whether the new code decides what the history says is found out by a replay, which needs the
    whole of it. Who takes the turn has made that, and nothing else happens here.
    """
    if turn.state.has_ended:
        return turn.note(Verdict.AFTER_END, "migrate", f"the saga is {turn.state.status.value}")
    refusal = turn.refusal(_nothing)
    if refusal is not None:
        subject = f"migrate from {fact.from_version} to {fact.definition_version}"
        return turn.note(Verdict.REFUSED, subject, refusal)
    turn.take_fact()
    return RECORDED


def _nothing() -> None:
    """A replay has said already whether it can be."""


def _step(state: SagaState, named: str | None) -> Step | None:
    """The step an act is about: the one named, or the only one it can mean."""
    if state.is_poisoned or state.status.is_ended:
        return None
    if named is not None:
        step = state.steps.get(StepId(named))
        return step if step is not None and _can_be_repeated(state, step) else None
    candidates = [step for step in state.steps.values() if _can_be_repeated(state, step)]
    return candidates[0] if len(candidates) == 1 else None


def _can_be_repeated(state: SagaState, step: Step) -> bool:
    if step.status in _STUCK_OR_UNDOING:
        return True
    if step.status is StepStatus.ISSUED:
        return step.is_backing_off
    return state.status is SagaStatus.PARKED and parking.holds_up(state, step)
