"""The undoing: when it begins, and every reply that comes after its time.

Theory of operation: the module `plans` says which steps are undone and in what order. This one
begins them, retries them, and calls for somebody where that does not help.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, assert_never

from saga.core import children, intents, plans
from saga.core.decider import RECORDED, Disposition
from saga.core.events import CancelMode, Json, ReplyOutcome, ReplyReceived
from saga.core.identity import DO, UNDO, IntentName, StepId
from saga.core.intents import (
    PlannedUndo,
    RollbackGoal,
    RollbackPlanned,
    TimerArmed,
    TimerPurpose,
    Verdict,
)
from saga.core.plans import may_have_effect, residue_of
from saga.core.program import Report
from saga.core.retry import UNDO_DEFAULT
from saga.core.state import Plan, SagaState, Step
from saga.core.status import UNDOING, SagaStatus, StepStatus
from saga.core.turn import Turn

LATER_ATTEMPT: Final = "a later attempt is on its way already"
MISSED_DEADLINE: Final = "no reply within the step's deadline"
_WAITING: Final = frozenset({TimerPurpose.SLEEP, TimerPurpose.WAIT, TimerPurpose.RETRY})
_UNDONE_OR_UNDOING = frozenset({StepStatus.UNDOING, StepStatus.UNDONE})


def has_undo(turn: Turn, step: Step) -> bool:
    return turn.policy(step).undo_retry is not None


def has_to_be_undone(turn: Turn, step: Step) -> bool:
    return may_have_effect(step) and has_undo(turn, step)


def begin(turn: Turn, reason: str, *, code: str | None, failed_step: StepId | None = None) -> None:
    """Plan the rollback of everything that may have had an effect, and begin it."""
    in_flight = _in_flight(turn.state)
    for timer in list(turn.state.timers.values()):
        if not _is_of_undo(timer):
            turn.disarm(timer.timer_id)
    steps = turn.state.steps.values()
    _plan(
        turn,
        RollbackGoal.ROLLED_BACK,
        steps,
        lambda step: _is_left_to_undo(turn, step),
        reason=reason,
        code=code,
        failed_step=failed_step,
    )
    for step, status in in_flight:
        turn.settle(step, status)
    go_on(turn)


def begin_once_settled(
    turn: Turn, reason: str, *, code: str | None, failed_step: StepId | None = None
) -> None:
    """Begin the rollback, as soon as what is in flight has settled or timed out.

    Behind a failed turn nothing settles: what is in flight is in doubt.
    """
    in_flight = turn.state.in_flight.values()
    is_settled = all(step.is_backing_off for step in in_flight)
    if is_settled or turn.state.is_poisoned or _was_planned_at_once(turn):
        begin(turn, reason, code=code, failed_step=failed_step)
        return
    turn.record(intents.RollbackDue(reason=reason, code=code, failed_step=failed_step))
    stop_forward(turn, reason)


def begin_due(turn: Turn) -> None:
    """Begin the rollback that was due, or asked for by a cancel."""
    due, cancel_reason = turn.state.due, turn.state.cancel_reason
    if due is not None:
        begin(turn, due.reason, code=due.code, failed_step=due.failed_step)
    else:
        assert cancel_reason is not None, turn.state.saga_id
        begin(turn, cancel_reason, code="cancelled")


def stop_forward(turn: Turn, reason: str) -> None:
    """Begin nothing more; what is in flight, and children, are waited for."""
    state = turn.state
    children.cancel_open(turn, CancelMode.GRACEFUL, reason)
    backing_off = [step for step in state.in_flight.values() if step.is_backing_off]
    for timer in list(state.timers.values()):
        if timer.purpose in _WAITING and not _is_of_undo(timer):
            turn.disarm(timer.timer_id)
    for step in backing_off:
        turn.settle(step, StepStatus.FAILED)


def begin_leftovers(turn: Turn) -> None:
    """Undo what a finished program had given up on, before the saga completes."""
    _plan(
        turn,
        RollbackGoal.COMPLETED,
        turn.state.steps.values(),
        lambda step: step.is_dropped and has_to_be_undone(turn, step),
        reason="steps that the saga had given up on may have had an effect",
    )
    go_on(turn)


def is_through_to_next_run(state: SagaState) -> bool:
    """Whether a saga has undone what its run had given up, and is to begin the next one."""
    plan = state.plan
    if not state.is_continuing or plan is None or plan.progress is None or state.undoing:
        return False
    return len(plan.progress.passed) == len(plan.after)


def begin_scope(
    turn: Turn, scope: str, reason: str, *, code: str | None, failed_step: StepId | None
) -> None:
    """Plan to undo what was issued in a scope, or within another one in it, and begin."""
    state = turn.state
    issued = () if state.scopes is None else state.scopes.steps.get(scope, ())
    _plan(
        turn,
        RollbackGoal.SCOPE_LEFT,
        [state.steps[step_id] for step_id in issued],
        lambda step: _is_left_to_undo(turn, step),
        reason=reason,
        code=code,
        failed_step=failed_step,
        scope=scope,
    )
    assert state.scopes is not None, (state.saga_id, scope)
    _go_on(turn, state.scopes.plans[scope])


def abandon(turn: Turn, reason: str) -> None:
    """End the saga as it stands; what may have had an effect is its residue.

    It needs no program: without one there is no outcome event. Nor is one there from here on. One
    that cleans up has had its outcome.
    """
    state = turn.state
    in_flight = _in_flight(state)
    turn.disarm_all()
    residue = residue_of(state.steps.values())
    report = Report(reason, "abandoned", None, residue)
    plan, outcome = state.plan, None
    had_outcome = plan is not None and plan.recorded.goal is RollbackGoal.CLEANED_UP
    if state.program is not None and not had_outcome:
        outcome = state.program.outcome_of(report)
    turn.record(
        intents.SagaAbandoned(
            reason=reason,
            residue=residue,
            outcome=outcome,
            undo=state.undo,
            had_outcome=had_outcome,
        )
    )
    turn.note_unread()
    for step, status in in_flight:
        turn.settle(step, status)
    for step in state.steps.values():
        if step.status is StepStatus.UNDOING:
            turn.settle(step, StepStatus.SKIPPED, UNDO)
    if state.program is not None:
        state.program.close()
        state.program = None


def undo_reply(turn: Turn, step: Step, name: IntentName, fact: ReplyReceived) -> Disposition:
    """A service answered an attempt to undo a step, for the first time."""
    was_given_up = step.status in {StepStatus.UNDO_STUCK, StepStatus.SKIPPED}
    if was_given_up and fact.outcome is ReplyOutcome.DONE and name.attempt >= step.undo_floor:
        return undone_late(turn, step, fact)
    if step.status is not UNDOING:
        return turn.note(Verdict.SUPERSEDED, fact.intent_id, f"the step is {step.status.value}")
    if name.attempt < step.undo_floor:
        return turn.note(Verdict.SUPERSEDED, fact.intent_id, "it came before the step's success")
    is_latest = name.attempt == step.undo_attempts and not step.is_backing_off
    if fact.outcome is ReplyOutcome.FAILED and not is_latest:
        return turn.note(Verdict.SUPERSEDED, fact.intent_id, LATER_ATTEMPT)
    turn.take_reply(step, name, fact)
    turn.disarm_for(step, UNDO)
    match fact.outcome:
        case ReplyOutcome.DONE:
            go_on(turn, step)
        case ReplyOutcome.FAILED:
            _fail_undo(turn, step, fact.code, fact.message, fact.details)
        case ReplyOutcome.REFUSED:
            stick(turn, step, fact.code, fact.message, fact.details)
        case _:
            assert_never(fact.outcome)
    return RECORDED


def undo_due(turn: Turn, step: Step, purpose: TimerPurpose) -> None:
    """The deadline of an undo has passed, or its next attempt is due."""
    if step.status is not StepStatus.UNDOING:
        return
    if purpose is TimerPurpose.RETRY:
        _begin_undo(turn, step)
    else:
        _fail_undo(turn, step, "timeout", MISSED_DEADLINE)


def late_reply(turn: Turn, step: Step, fact: ReplyReceived) -> Disposition:
    """A reply to a step that was settled without it: it may close a doubt, or call for an undo."""
    is_open = step.status in {StepStatus.IN_DOUBT, StepStatus.FAILED}
    match fact.outcome:
        case ReplyOutcome.DONE:
            return _late_success(turn, step, fact, is_open=is_open)
        case ReplyOutcome.REFUSED if is_open:
            turn.note(Verdict.LATE_FAILURE, fact.intent_id, "nothing had happened: doubt closed")
            turn.settle(step, StepStatus.REFUSED, DO, fact.code, fact.message, details=fact.details)
            go_on(turn, step)
            return RECORDED
        case ReplyOutcome.FAILED if is_open:
            return turn.note(Verdict.LATE_FAILURE, fact.intent_id, "the attempt failed, late")
        case ReplyOutcome.REFUSED if step.has_reply:
            return turn.note_conflict(fact)
        case ReplyOutcome.FAILED if step.has_reply:
            return turn.note(Verdict.SUPERSEDED, fact.intent_id, "another attempt has succeeded")
        case _:
            standing = f"the step is {step.status.value}"
            return turn.note(Verdict.LATE_FAILURE, fact.intent_id, standing)


def is_of_undone_scope(state: SagaState, step: Step) -> bool:
    """Whether a failure has left a scope that *step* was issued in."""
    if state.scopes is None or step.scope is None:
        return False
    return state.scopes.undone_over(step.scope) is not None


def retry_undo(turn: Turn, step: Step) -> None:
    """Issue the next attempt to undo a step at once, with a fresh budget."""
    turn.resume()
    turn.disarm_for(step, UNDO)
    _forget_progress(turn, step)
    _begin_undo(turn, step)


def skip_undo(turn: Turn, step: Step) -> None:
    """Leave a step as it is; it becomes residue and the plan goes on."""
    turn.resume()
    turn.disarm_for(step, UNDO)
    turn.settle(step, StepStatus.SKIPPED, UNDO)
    go_on(turn, step)


def _plan(
    turn: Turn,
    goal: RollbackGoal,
    steps: Iterable[Step],
    belongs: Callable[[Step], bool],
    *,
    reason: str,
    code: str | None = None,
    failed_step: StepId | None = None,
    scope: str | None = None,
) -> None:
    undos = plans.plan_undo(steps, belongs)
    is_in_turn = all(undo.after is None for undo in undos)
    is_at_once = turn.definition.parallel_undo or is_in_turn
    planned = RollbackPlanned(
        goal=goal,
        steps=undos,
        reason=reason,
        code=code,
        failed_step=failed_step,
        details=None if failed_step is None else (turn.state.details or {}).get(failed_step),
        one_by_one=None if is_at_once else True,
        scope=scope,
    )
    turn.record(_as_recorded(turn, planned))


def _is_left_to_undo(turn: Turn, step: Step) -> bool:
    """What a scope has begun to undo is taken over as it stands; what it has undone is not."""
    if has_to_be_undone(turn, step) or step.status is UNDOING:
        return True
    return step.status is StepStatus.UNDO_STUCK and not turn.definition.continue_when_stuck


def _as_recorded(turn: Turn, planned: RollbackPlanned) -> RollbackPlanned:
    """The recorded order of the same steps stands, as it was what came next."""
    for body in turn.recorded or ():
        if not isinstance(body, RollbackPlanned) or body.scope != planned.scope:
            continue
        if _undone_in(body) == _undone_in(planned):
            return replace(planned, steps=body.steps, one_by_one=body.one_by_one)
    return planned


def _undone_in(planned: RollbackPlanned) -> frozenset[StepId]:
    return frozenset(undo.step for undo in planned.steps)


def _was_planned_at_once(turn: Turn) -> bool:
    """Whether an earlier release has made the plan while something was in flight."""
    return any(
        isinstance(body, RollbackPlanned) and body.goal is RollbackGoal.ROLLED_BACK
        for body in turn.recorded or ()
    )


def _is_of_undo(timer: TimerArmed) -> bool:
    is_of_step = timer.purpose in (TimerPurpose.DEADLINE, TimerPurpose.RETRY)
    return is_of_step and timer.target.endswith("/" + UNDO)


def _in_flight(state: SagaState) -> list[tuple[Step, StepStatus]]:
    """The steps that nobody waits for any more, and what is known of each."""
    return [
        (step, StepStatus.FAILED if step.is_backing_off else StepStatus.IN_DOUBT)
        for step in state.steps.values()
        if step.status is StepStatus.ISSUED
    ]


def go_on(turn: Turn, settled: Step | None = None) -> None:
    """Begin every undo of the plan whose turn has come; then end, or park, where all rest.

    *settled*: the only step that stands elsewhere since the plan went on last, if it was one.
    """
    state = turn.state
    plan = state.plan
    if plan is None and settled is not None:
        plan = state.plan_of(settled)
    if plan is not None and not state.status.is_ended:
        _go_on(turn, plan, settled)


def _go_on(turn: Turn, plan: Plan, settled: Step | None = None) -> None:
    state = turn.state
    continues = turn.definition.continue_when_stuck
    if plan.progress is None or settled is None:
        free = plans.free_at_first(state, plan, continues=continues)
    else:
        free = plans.free_behind(state, plan, settled.id, continues=continues)
    for step_id in free:
        _begin_undo(turn, state.steps[step_id])
    # An operator may have begun again with a stuck step that the plan had passed.
    if state.undoing if plan is state.plan else plans.is_undoing(state, plan):
        return
    assert plan.progress is not None, state.saga_id
    if len(plan.progress.passed) == len(plan.after):
        _finish(turn, plan)
    elif state.status is not SagaStatus.PARKED:
        park_stuck(turn, plan)


def is_going_on(turn: Turn, plan: Plan) -> bool:
    return plans.is_undoing(turn.state, plan)


def park_stuck(turn: Turn, plan: Plan) -> None:
    """Call for somebody, as a plan can go on no further."""
    steps = turn.state.steps
    stuck = [step_id for step_id in plan.after if steps[step_id].status is StepStatus.UNDO_STUCK]
    assert stuck, (turn.state.saga_id, plan)
    turn.park(f"cannot undo {', '.join(stuck)}")


def _forget_progress(turn: Turn, step: Step) -> None:
    """*step* had settled, and is open again."""
    plan = turn.state.plan_of(step)
    if plan is not None:
        plan.progress = None


def _begin_undo(turn: Turn, step: Step) -> None:
    child = children.child_of(turn.state, step)
    if child is None:
        turn.issue_undo(step)
    else:
        children.issue_undo(turn, step, child)


def _finish(turn: Turn, plan: Plan) -> None:
    state = turn.state
    if plan.recorded.scope is not None:
        _finish_scope(turn, plan.recorded.scope)
        return
    turn.disarm_all()
    has_returned = plan.recorded.goal is not RollbackGoal.ROLLED_BACK and state.is_finishing
    residue = residue_of(
        step
        for step in state.steps.values()
        if step.is_dropped or not has_returned or is_of_undone_scope(state, step)
    )
    match plan.recorded.goal:
        case RollbackGoal.COMPLETED if state.is_continuing:
            pass  # the next run begins: `forward` sees to that
        case RollbackGoal.COMPLETED:
            turn.complete(state.pending_outcome, residue)
        case RollbackGoal.CLEANED_UP:
            turn.record(intents.SagaCleanedUp(residue=residue))
            turn.end_late_updates()
        case RollbackGoal.ROLLED_BACK:
            _roll_back(turn, plan, residue)
        case RollbackGoal.SCOPE_LEFT:
            raise AssertionError(plan.recorded)
        case _:
            assert_never(plan.recorded.goal)


def _finish_scope(turn: Turn, scope: str) -> None:
    state = turn.state
    assert state.scopes is not None, (state.saga_id, scope)
    issued = state.scopes.steps.get(scope, ())
    residue = residue_of(state.steps[step_id] for step_id in issued)
    turn.record(intents.ScopeUndone(scope=scope, residue=residue or None))


def _roll_back(turn: Turn, plan: Plan, residue: tuple[StepId, ...]) -> None:
    planned, undo = plan.recorded, turn.state.undo
    details = None if planned.details is None else json.loads(planned.details)
    report = Report(planned.reason, planned.code, planned.failed_step, residue, details)
    turn.record(
        intents.SagaRolledBack(
            reason=planned.reason,
            code=planned.code,
            failed_step=planned.failed_step,
            residue=residue,
            outcome=turn.program.outcome_of(report),
            undo=undo,
        )
    )
    if undo is None:  # else it was noted when the saga had completed
        turn.note_unread()
    else:
        turn.end_late_updates()
    turn.program.close()


def undone_late(turn: Turn, step: Step, fact: ReplyReceived) -> Disposition:
    """A step is undone after all that nobody waits for any more."""
    was_stuck = step.status is StepStatus.UNDO_STUCK
    turn.note(Verdict.LATE_SUCCESS, fact.intent_id, "the undo had succeeded after all")
    turn.settle(step, StepStatus.UNDONE, UNDO)
    if was_stuck and not turn.state.status.is_ended:
        turn.resume()
        go_on(turn, step)
    return RECORDED


def _fail_undo(
    turn: Turn,
    step: Step,
    code: str | None,
    message: str | None,
    details: Json | None = None,
) -> None:
    """An attempt to undo failed: try again, or call for somebody."""
    policy = turn.policy(step).undo_retry or UNDO_DEFAULT
    failed = step.undo_attempts - step.undo_spent
    assert failed >= 1, (turn.state.saga_id, step.id, step.undo_attempts, step.undo_spent)
    since = step.undo_began_at
    if not turn.arm_retry(step, UNDO, policy, failed=failed, since=since, code=code):
        stick(turn, step, code, message, details)


def stick(
    turn: Turn,
    step: Step,
    code: str | None,
    message: str | None,
    details: Json | None = None,
) -> None:
    """A step cannot be undone: somebody is called for, or it becomes residue."""
    turn.settle(step, StepStatus.UNDO_STUCK, UNDO, code, message, details=details)
    go_on(turn, step)


def _late_success(turn: Turn, step: Step, fact: ReplyReceived, *, is_open: bool) -> Disposition:
    if step.has_reply:
        if not turn.is_same(step.reply, fact.reply):
            return turn.note_conflict(fact)
        same = "an earlier attempt had the same reply"
        return turn.note(Verdict.SUPERSEDED, fact.intent_id, same)
    was_undone_blindly = step.is_undo_blind and step.status in _UNDONE_OR_UNDOING
    keeps_place = _keeps_place(turn, step)
    if not is_open:
        _forget_progress(turn, step)
    turn.note(Verdict.LATE_SUCCESS, fact.intent_id, f"the step was {step.status.value}")
    if is_open or step.status is StepStatus.REFUSED:
        turn.settle(step, StepStatus.DONE)
    if turn.state.status is SagaStatus.ABANDONED:
        return RECORDED  # nobody undoes an abandoned saga
    if was_undone_blindly or has_to_be_undone(turn, step):
        _append_undo(turn, step, keeps_place=keeps_place)
    return RECORDED


def _append_undo(turn: Turn, step: Step, *, keeps_place: bool) -> None:
    state = turn.state
    has_ended, plan = state.status.is_ended, state.plan_of(step)
    if plan is None and not has_ended and not is_of_undone_scope(state, step):
        return  # where no plan is made yet, it will have this
    turn.disarm_for(step, UNDO)
    if step.status is not StepStatus.DONE:
        turn.settle(step, StepStatus.DONE)
    if has_ended or plan is None:
        _plan_late(turn, step)
    elif not keeps_place:
        turn.record(intents.UndoAppended(step=step.id))
    go_on(turn, step)


def _plan_late(turn: Turn, step: Step) -> None:
    """Plan to undo a step that has succeeded after what it belonged to was through."""
    scopes = turn.state.scopes
    scope = None
    if not turn.state.status.is_ended:
        assert scopes is not None, (turn.state.saga_id, step.id)
        assert step.scope is not None, (turn.state.saga_id, step.id)
        scope = scopes.undone_over(step.scope)
    until = "the saga had ended" if scope is None else f"scope {scope} was undone"
    turn.record(
        RollbackPlanned(
            goal=RollbackGoal.CLEANED_UP if scope is None else RollbackGoal.SCOPE_LEFT,
            steps=(PlannedUndo(step=step.id),),
            reason=f"step {step.id} succeeded after {until}",
            scope=scope,
        )
    )


def _keeps_place(turn: Turn, step: Step) -> bool:
    """Whether the plan has not passed *step* yet, so that the undo with the reply stays there."""
    plan, continues = turn.state.plan_of(step), turn.definition.continue_when_stuck
    return plan is not None and not plans.has_passed(turn.state, plan, step, continues=continues)
