"""The undoing: a plan made once from recorded facts, and every reply that comes after its time."""

from __future__ import annotations

from typing import assert_never

from saga.core.compensation import needs_undo, plan_groups, residue_of
from saga.core.decider import Disposition
from saga.core.events import ReplyOutcome, ReplyReceived
from saga.core.identity import Direction, StepId
from saga.core.intents import (
    RollbackGoal,
    RollbackPlanned,
    SagaAbandoned,
    SagaCleanedUp,
    SagaRolledBack,
    TimerPurpose,
    UndoAppended,
    UndoStuck,
    Verdict,
)
from saga.core.program import Report
from saga.core.retry import UNDO_DEFAULT
from saga.core.state import Plan, SagaState, Step
from saga.core.status import SagaStatus, StepStatus
from saga.core.turn import Turn


def begin(
    turn: Turn,
    reason: str,
    *,
    code: str | None,
    failed_step: StepId | None,
    goal: RollbackGoal = RollbackGoal.ROLLED_BACK,
) -> None:
    """Plan the rollback of everything that may have had an effect, and begin it."""
    state = turn.state
    _close_forward(turn)
    state.is_finishing = False
    groups = plan_groups(state.steps.values(), parallel=turn.definition.parallel_undo)
    _adopt(
        turn,
        RollbackPlanned(
            goal=goal, groups=tuple(groups), reason=reason, code=code, failed_step=failed_step
        ),
    )
    state.reason, state.code = reason, code
    turn.become(SagaStatus.ROLLING_BACK)
    _go_on(turn)


def has_leftovers(state: SagaState) -> bool:
    """Whether a program that is through has left a step behind that may have had an effect."""
    return any(step.is_disowned and needs_undo(step) for step in state.steps.values())


def begin_leftovers(turn: Turn) -> None:
    """Undo what a finished program had given up on, before the saga completes."""
    state = turn.state
    leftovers = [step for step in state.steps.values() if step.is_disowned]
    groups = plan_groups(leftovers, parallel=turn.definition.parallel_undo)
    _adopt(
        turn,
        RollbackPlanned(
            goal=RollbackGoal.COMPLETED,
            groups=tuple(groups),
            reason="steps that the saga had given up on may have had an effect",
        ),
    )
    _go_on(turn)


def abandon(turn: Turn, reason: str) -> None:
    """End the saga as it stands; what may have had an effect is its residue."""
    state = turn.state
    _close_forward(turn)
    for step in state.steps.values():
        if step.status is StepStatus.UNDOING:
            step.status = StepStatus.SKIPPED
            step.is_backing_off = False
    state.residue = residue_of(state.steps.values())
    state.reason = reason
    report = Report(reason, "abandoned", None, state.residue)
    state.outcome = state.program.outcome_of(report) if state.program else None
    turn.become(SagaStatus.ABANDONED)
    turn.intents.append(SagaAbandoned(reason=reason, residue=state.residue, outcome=state.outcome))
    if state.program is not None:
        state.program.close()


def undo_reply(turn: Turn, step: Step, attempt: int, fact: ReplyReceived) -> Disposition:
    """A service answered an attempt to undo a step, for the first time."""
    was_given_up = step.status in {StepStatus.UNDO_STUCK, StepStatus.SKIPPED}
    if was_given_up and fact.outcome is ReplyOutcome.DONE and attempt >= step.undo_floor:
        return _undone_late(turn, step, fact)
    if step.status is not StepStatus.UNDOING:
        return turn.note(Verdict.SUPERSEDED, fact.intent_id, f"the step is {step.status.value}")
    if attempt < step.undo_floor:
        return turn.note(Verdict.SUPERSEDED, fact.intent_id, "it came before the step's success")
    is_latest = attempt == step.undo_attempts and not step.is_backing_off
    match fact.outcome:
        case ReplyOutcome.DONE:
            _undone(turn, step)
        case ReplyOutcome.FAILED if not is_latest:
            return turn.note(
                Verdict.SUPERSEDED, fact.intent_id, "a later attempt is on its way already"
            )
        case ReplyOutcome.FAILED:
            turn.disarm_for(step, Direction.UNDO)
            _undo_failed(turn, step, fact.code, fact.message)
        case ReplyOutcome.REFUSED:
            turn.disarm_for(step, Direction.UNDO)
            _stuck(turn, step, fact.code, fact.message)
        case _:
            assert_never(fact.outcome)
    return Disposition.RECORDED


def undo_due(turn: Turn, step: Step, purpose: TimerPurpose) -> None:
    """The deadline of an undo has passed, or its next attempt is due."""
    if step.status is not StepStatus.UNDOING:
        return
    if purpose is TimerPurpose.RETRY:
        step.is_backing_off = False
        turn.issue_undo(step)
    else:
        _undo_failed(turn, step, "timeout", "no reply within the step's deadline")


def late_reply(turn: Turn, step: Step, fact: ReplyReceived) -> Disposition:
    """A reply to a step that was settled without it: it may close a doubt, or call for an undo."""
    is_open = step.status in {StepStatus.IN_DOUBT, StepStatus.FAILED}
    match fact.outcome:
        case ReplyOutcome.DONE:
            return _late_success(turn, step, fact, is_open=is_open)
        case ReplyOutcome.REFUSED if is_open:
            turn.note(Verdict.LATE_FAILURE, fact.intent_id, "nothing had happened: doubt closed")
            step.status = StepStatus.REFUSED
            _go_on(turn)
            return Disposition.RECORDED
        case ReplyOutcome.FAILED if is_open:
            return turn.note(Verdict.LATE_FAILURE, fact.intent_id, "the attempt failed, late")
        case ReplyOutcome.REFUSED if step.has_reply:
            return turn.note_conflict(fact)
        case ReplyOutcome.FAILED if step.has_reply:
            return turn.note(Verdict.SUPERSEDED, fact.intent_id, "another attempt has succeeded")
        case _:
            return turn.note(
                Verdict.LATE_FAILURE, fact.intent_id, f"the step is {step.status.value}"
            )


def retry_undo(turn: Turn, step: Step) -> None:
    """Issue the next attempt to undo a step at once, with a fresh budget."""
    turn.unpark()
    turn.disarm_for(step, Direction.UNDO)
    _begin_undo(turn, step)


def skip_undo(turn: Turn, step: Step) -> None:
    """Leave a step as it is; it becomes residue and the plan goes on."""
    turn.unpark()
    turn.disarm_for(step, Direction.UNDO)
    step.is_backing_off = False
    step.status = StepStatus.SKIPPED
    _go_on(turn)


def _close_forward(turn: Turn) -> None:
    state = turn.state
    turn.disarm_all()
    state.waits.clear()
    for step in state.steps.values():
        step.is_disowned = True
        if step.status is StepStatus.ISSUED:
            step.status = StepStatus.FAILED if step.is_backing_off else StepStatus.IN_DOUBT
            step.is_backing_off = False


def _adopt(turn: Turn, planned: RollbackPlanned) -> None:
    turn.state.plan = Plan(planned, list(planned.groups))
    turn.intents.append(planned)


def _go_on(turn: Turn) -> None:
    """Undo the plan's groups one after another, as far as replies allow."""
    state = turn.state
    plan = state.plan
    if plan is None or state.status.is_ended:
        return
    while plan.position < len(plan.groups):
        steps = [turn.step(step_id) for step_id in plan.groups[plan.position]]
        for step in steps:
            if needs_undo(step):
                _begin_undo(turn, step)
        if any(step.status is StepStatus.UNDOING for step in steps):
            return
        if not turn.definition.continue_when_stuck:
            stuck = [step.id for step in steps if step.status is StepStatus.UNDO_STUCK]
            if stuck:
                if state.status is not SagaStatus.PARKED:
                    turn.park(f"cannot undo {', '.join(stuck)}")
                return
        plan.position += 1
    # An operator may have begun again with a stuck step that the plan had passed.
    if not any(step.status is StepStatus.UNDOING for step in state.steps.values()):
        _finish(turn, plan)


def _begin_undo(turn: Turn, step: Step) -> None:
    step.is_backing_off = False
    step.undo_began_at = turn.at
    step.undo_spent = step.undo_attempts
    step.status = StepStatus.UNDOING
    turn.issue_undo(step)


def _finish(turn: Turn, plan: Plan) -> None:
    state = turn.state
    turn.disarm_all()
    state.residue = _residue(state, plan)
    match plan.recorded.goal:
        case RollbackGoal.COMPLETED:
            turn.complete()
        case RollbackGoal.CLEANED_UP:
            turn.become(
                SagaStatus.COMPLETED if state.is_finishing else _rolled_back_status(state.residue)
            )
            turn.intents.append(SagaCleanedUp(residue=state.residue))
        case RollbackGoal.ROLLED_BACK:
            _rolled_back(turn, plan)
        case _:
            assert_never(plan.recorded.goal)


def _rolled_back(turn: Turn, plan: Plan) -> None:
    state = turn.state
    planned = plan.recorded
    report = Report(planned.reason, planned.code, planned.failed_step, state.residue)
    assert state.program is not None, state.saga_id
    state.outcome = state.program.outcome_of(report)
    turn.become(_rolled_back_status(state.residue))
    turn.intents.append(
        SagaRolledBack(
            reason=planned.reason,
            code=planned.code,
            failed_step=planned.failed_step,
            residue=state.residue,
            outcome=state.outcome,
        )
    )
    state.program.close()


def _rolled_back_status(residue: tuple[StepId, ...]) -> SagaStatus:
    return SagaStatus.ROLLED_BACK_WITH_RESIDUE if residue else SagaStatus.ROLLED_BACK


def _residue(state: SagaState, plan: Plan) -> tuple[StepId, ...]:
    if plan.recorded.goal is RollbackGoal.ROLLED_BACK or not state.is_finishing:
        return residue_of(state.steps.values())
    return residue_of(step for step in state.steps.values() if step.is_disowned)


def _undone(turn: Turn, step: Step) -> None:
    turn.disarm_for(step, Direction.UNDO)
    step.is_backing_off = False
    step.status = StepStatus.UNDONE
    _go_on(turn)


def _undone_late(turn: Turn, step: Step, fact: ReplyReceived) -> Disposition:
    turn.note(Verdict.LATE_SUCCESS, fact.intent_id, "the undo had succeeded after all")
    was_stuck = step.status is StepStatus.UNDO_STUCK
    step.status = StepStatus.UNDONE
    if was_stuck and not turn.state.status.is_ended:
        turn.unpark()
        _go_on(turn)
    return Disposition.RECORDED


def _undo_failed(turn: Turn, step: Step, code: str | None, message: str | None) -> None:
    policy = step.undo_retry or UNDO_DEFAULT
    failed_attempts = step.undo_attempts - step.undo_spent
    seed = f"{turn.state.saga_id}/{step.id}/undo/{step.undo_attempts}"
    delay_us = policy.delay_us(failed_attempts=failed_attempts, seed=seed)
    elapsed_us = turn.at + delay_us - step.undo_began_at
    if policy.allows(failed_attempts=failed_attempts, elapsed_us=elapsed_us, code=code):
        step.is_backing_off = True
        step.code, step.error = code, message
        turn.arm_for(step, Direction.UNDO, TimerPurpose.RETRY, delay_us)
    else:
        _stuck(turn, step, code, message)


def _stuck(turn: Turn, step: Step, code: str | None, message: str | None) -> None:
    step.status = StepStatus.UNDO_STUCK
    step.is_backing_off = False
    step.code, step.error = code, message
    turn.intents.append(UndoStuck(step=step.id, code=code, message=message))
    _go_on(turn)


def _late_success(turn: Turn, step: Step, fact: ReplyReceived, *, is_open: bool) -> Disposition:
    if step.has_reply:
        if step.reply == fact.reply:
            return turn.note(
                Verdict.SUPERSEDED, fact.intent_id, "an earlier attempt had the same reply"
            )
        return turn.note_conflict(fact)
    turn.note(Verdict.LATE_SUCCESS, fact.intent_id, f"the step was {step.status.value}")
    step.reply, step.has_reply = fact.reply, True
    if is_open or step.status is StepStatus.REFUSED:
        step.status = StepStatus.DONE
    if not needs_undo(step) and not _was_undone_blindly(step):
        return Disposition.RECORDED
    _append_undo(turn, step)
    return Disposition.RECORDED


def _was_undone_blindly(step: Step) -> bool:
    return step.is_undo_blind and step.status in {StepStatus.UNDOING, StepStatus.UNDONE}


def _append_undo(turn: Turn, step: Step) -> None:
    state = turn.state
    is_ended = state.status.is_ended
    if state.status is SagaStatus.ABANDONED or (state.plan is None and not is_ended):
        return  # nobody undoes an abandoned saga; and where no plan is made yet, it will have this
    step.undo_floor = step.undo_attempts + 1
    if is_ended:
        step.status = StepStatus.DONE
        turn.become(SagaStatus.ROLLING_BACK)
        _adopt(
            turn,
            RollbackPlanned(
                goal=RollbackGoal.CLEANED_UP,
                groups=((step.id,),),
                reason=f"step {step.id} succeeded after the saga had ended",
            ),
        )
        _go_on(turn)
        return
    plan = state.plan
    assert plan is not None, state.saga_id
    turn.disarm_for(step, Direction.UNDO)
    step.status = StepStatus.DONE
    # Where its turn in the plan has not passed, the undo that knows the reply keeps its place.
    if not any(step.id in group for group in plan.groups[plan.position :]):
        plan.groups.append((step.id,))
        turn.intents.append(UndoAppended(step=step.id))
    _go_on(turn)
