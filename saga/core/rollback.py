"""The undoing: which steps, in what order, and every reply that comes after its time.

Theory of operation: a step belongs to the plan when its intent was issued and it is not known to be
without effect, because an ambiguous step may have had its effect (ARCHITECTURE.md D3). The order is
the reverse of issue (Garcia-Molina and Salem, "Sagas", 1987); steps issued side by side may be
undone side by side where the saga says so. The plan is made once, from recorded facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, assert_never

from saga.core import children, intents
from saga.core.decider import RECORDED, Disposition
from saga.core.events import ReplyOutcome, ReplyReceived
from saga.core.identity import UNDO, IntentName, StepId
from saga.core.intents import PlannedUndo, RollbackGoal, RollbackPlanned, TimerPurpose, Verdict
from saga.core.program import DoStep, Report
from saga.core.retry import UNDO_DEFAULT
from saga.core.state import Plan, Progress, SagaState, Step
from saga.core.status import NEVER_UNDONE, UNDOING, SagaStatus, StepStatus
from saga.core.turn import Turn

LATER_ATTEMPT: Final = "a later attempt is on its way already"
MISSED_DEADLINE: Final = "no reply within the step's deadline"
_MAY_HAVE_EFFECT = frozenset(
    {StepStatus.ISSUED, StepStatus.DONE, StepStatus.FAILED, StepStatus.IN_DOUBT}
)
_NOT_UNDONE = frozenset({StepStatus.UNDO_STUCK, StepStatus.SKIPPED, StepStatus.UNDOING})
_UNDONE_OR_UNDOING = frozenset({StepStatus.UNDOING, StepStatus.UNDONE})
_AT_REST = frozenset({StepStatus.REFUSED, StepStatus.UNDONE, StepStatus.SKIPPED})
_AT_REST_OR_STUCK = _AT_REST | {StepStatus.UNDO_STUCK}
_BEGUN = _NOT_UNDONE | _UNDONE_OR_UNDOING


def may_have_effect(step: Step) -> bool:
    """Whether something of *step* may be out in the world that matters and is not undone."""
    return step.status in _MAY_HAVE_EFFECT and step.kind not in NEVER_UNDONE


def plan_undo(
    steps: Iterable[Step], policy_of: Callable[[StepId], DoStep], *, parallel: bool
) -> tuple[PlannedUndo, ...]:
    """The plan over *steps* in order of issue; *parallel* undoes a group of issue side by side."""
    planned: list[PlannedUndo] = []
    group: list[StepId] = []
    awaited: tuple[StepId, ...] = ()
    last_group: str | None = None
    for step in reversed(list(steps)):
        policy = policy_of(step.id)
        if policy.undo_retry is None or not may_have_effect(step):
            continue
        is_neighbour = policy.group is not None and policy.group == last_group
        if not (parallel and is_neighbour):
            awaited, group = tuple(group), []
        group.append(step.id)
        last_group = policy.group
        default = (planned[-1].step,) if planned else ()
        planned.append(PlannedUndo(step=step.id, after=None if awaited == default else awaited))
    return tuple(planned)


def residue_of(steps: Iterable[Step]) -> tuple[StepId, ...]:
    """The steps whose effect is, or may be, still there: stuck, skipped, or without an undo."""
    return tuple(step.id for step in steps if step.status in _NOT_UNDONE or may_have_effect(step))


def has_undo(turn: Turn, step: Step) -> bool:
    return turn.policy(step).undo_retry is not None


def begin(turn: Turn, reason: str, *, code: str | None, failed_step: StepId | None = None) -> None:
    """Plan the rollback of everything that may have had an effect, and begin it."""
    in_flight = _in_flight(turn.state)
    turn.disarm_all()
    steps = turn.state.steps.values()
    _plan(turn, RollbackGoal.ROLLED_BACK, steps, reason, code=code, failed_step=failed_step)
    for step, status in in_flight:
        turn.settle(step, status)
    go_on(turn)


def begin_leftovers(turn: Turn, dropped: Iterable[Step]) -> None:
    """Undo what a finished program had given up on, before the saga completes."""
    reason = "steps that the saga had given up on may have had an effect"
    _plan(turn, RollbackGoal.COMPLETED, dropped, reason)
    go_on(turn)


def abandon(turn: Turn, reason: str) -> None:
    """End the saga as it stands; what may have had an effect is its residue.

    It needs no program: without one there is no outcome event. Nor is one there from here on.
    """
    state = turn.state
    in_flight = _in_flight(state)
    turn.disarm_all()
    residue = residue_of(state.steps.values())
    report = Report(reason, "abandoned", None, residue)
    outcome = state.program.outcome_of(report) if state.program is not None else None
    turn.record(
        intents.SagaAbandoned(reason=reason, residue=residue, outcome=outcome, undo=state.undo)
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
            _fail_undo(turn, step, fact.code, fact.message)
        case ReplyOutcome.REFUSED:
            stick(turn, step, fact.code, fact.message)
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
            turn.settle(step, StepStatus.REFUSED, code=fact.code, message=fact.message)
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


def retry_undo(turn: Turn, step: Step) -> None:
    """Issue the next attempt to undo a step at once, with a fresh budget."""
    turn.resume()
    turn.disarm_for(step, UNDO)
    _forget_progress(turn)
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
    reason: str,
    *,
    code: str | None = None,
    failed_step: StepId | None = None,
) -> None:
    is_parallel = turn.definition.parallel_undo
    planned = plan_undo(steps, turn.program.policy_of, parallel=is_parallel)
    turn.record(
        RollbackPlanned(goal=goal, steps=planned, reason=reason, code=code, failed_step=failed_step)
    )


def _in_flight(state: SagaState) -> list[tuple[Step, StepStatus]]:
    """The steps that nobody waits for any more, and what is known of each."""
    return [
        (step, StepStatus.FAILED if step.is_backing_off else StepStatus.IN_DOUBT)
        for step in state.steps.values()
        if step.status is StepStatus.ISSUED
    ]


def go_on(turn: Turn, settled: Step | None = None) -> None:
    """Begin every undo of the plan that waits for nothing; then end, or park, where all rest.

    *settled*: the only step that stands elsewhere since the plan went on last, if it was one.
    """
    state = turn.state
    plan = state.plan
    if plan is None or state.status.is_ended:
        return
    known = plan.progress
    progress = plan.progress = known or _progress(turn, plan)
    if known is None or settled is None:
        free = [step_id for step_id in plan.after if not progress.missing[step_id]]
    else:
        free = _pass(turn, progress, settled.id)
    for step_id in free:
        step = state.steps[step_id]
        if step.status in _MAY_HAVE_EFFECT:
            _begin_undo(turn, step)
    # An operator may have begun again with a stuck step that the plan had passed.
    if state.undoing:
        return
    if len(progress.passed) == len(plan.after):
        _finish(turn, plan)
    elif state.status is not SagaStatus.PARKED:
        stuck = [id_ for id_ in plan.after if state.steps[id_].status is StepStatus.UNDO_STUCK]
        assert stuck, (state.saga_id, plan, progress.passed)
        turn.park(f"cannot undo {', '.join(stuck)}")


def _progress(turn: Turn, plan: Plan) -> Progress:
    """How far a plan has come, from where its steps stand; it is kept while nothing goes back."""
    steps, at_rest = turn.state.steps, _at_rest(turn)
    passed: set[StepId] = set()
    behind: dict[StepId, list[StepId]] = {}
    for step_id, after in plan.after.items():
        for before in after:
            behind.setdefault(before, []).append(step_id)
        if steps[step_id].status in _BEGUN:
            passed.update(after)  # what was begun stays begun, whatever an operator begins again
    for step_id, after in plan.after.items():
        if steps[step_id].status in at_rest and passed.issuperset(after):
            passed.add(step_id)
    missing = {
        step_id: sum(before not in passed for before in after)
        for step_id, after in plan.after.items()
    }
    places = {step_id: place for place, step_id in enumerate(plan.after)}
    return Progress(passed, missing, behind, places)


def _pass(turn: Turn, progress: Progress, settled: StepId) -> list[StepId]:
    """The steps that wait for nothing more, in the order of the plan, now that one has settled."""
    steps, at_rest = turn.state.steps, _at_rest(turn)
    passed, missing = progress.passed, progress.missing
    free: list[StepId] = []
    queue = [settled] if not missing.get(settled, 1) else []
    while queue:
        step_id = queue.pop()
        if step_id in passed:
            continue
        if steps[step_id].status not in at_rest:
            free.append(step_id)
            continue
        passed.add(step_id)
        for other in progress.behind.get(step_id, ()):
            missing[other] -= 1
            if not missing[other]:
                queue.append(other)
    return sorted(free, key=progress.places.__getitem__)


def _forget_progress(turn: Turn) -> None:
    """A step that had settled is open again."""
    if turn.state.plan is not None:
        turn.state.plan.progress = None


def _at_rest(turn: Turn) -> frozenset[StepStatus]:
    return _AT_REST_OR_STUCK if turn.definition.continue_when_stuck else _AT_REST


def _begin_undo(turn: Turn, step: Step) -> None:
    child = children.child_of(turn.state, step)
    if child is None:
        turn.issue_undo(step)
    else:
        children.issue_undo(turn, step, child)


def _finish(turn: Turn, plan: Plan) -> None:
    state = turn.state
    turn.disarm_all()
    has_returned = plan.recorded.goal is not RollbackGoal.ROLLED_BACK and state.is_finishing
    steps = (step for step in state.steps.values() if step.is_dropped or not has_returned)
    residue = residue_of(steps)
    match plan.recorded.goal:
        case RollbackGoal.COMPLETED:
            turn.complete(state.pending_outcome, residue)
        case RollbackGoal.CLEANED_UP:
            turn.record(intents.SagaCleanedUp(residue=residue))
        case RollbackGoal.ROLLED_BACK:
            _roll_back(turn, plan, residue)
        case _:
            assert_never(plan.recorded.goal)


def _roll_back(turn: Turn, plan: Plan, residue: tuple[StepId, ...]) -> None:
    planned, undo = plan.recorded, turn.state.undo
    report = Report(planned.reason, planned.code, planned.failed_step, residue)
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


def _fail_undo(turn: Turn, step: Step, code: str | None, message: str | None) -> None:
    """An attempt to undo failed: try again, or call for somebody."""
    policy = turn.policy(step).undo_retry or UNDO_DEFAULT
    failed = step.undo_attempts - step.undo_spent
    assert failed >= 1, (turn.state.saga_id, step.id, step.undo_attempts, step.undo_spent)
    since = step.undo_began_at
    if not turn.arm_retry(step, UNDO, policy, failed=failed, since=since, code=code):
        stick(turn, step, code, message)


def stick(turn: Turn, step: Step, code: str | None, message: str | None) -> None:
    """A step cannot be undone: somebody is called for, or it becomes residue."""
    turn.settle(step, StepStatus.UNDO_STUCK, UNDO, code, message)
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
        _forget_progress(turn)
    turn.note(Verdict.LATE_SUCCESS, fact.intent_id, f"the step was {step.status.value}")
    if is_open or step.status is StepStatus.REFUSED:
        turn.settle(step, StepStatus.DONE)
    if turn.state.status is SagaStatus.ABANDONED:
        return RECORDED  # nobody undoes an abandoned saga
    if was_undone_blindly or (may_have_effect(step) and has_undo(turn, step)):
        _append_undo(turn, step, keeps_place=keeps_place)
    return RECORDED


def _append_undo(turn: Turn, step: Step, *, keeps_place: bool) -> None:
    state = turn.state
    if state.plan is None and not state.status.is_ended:
        return  # where no plan is made yet, it will have this
    turn.disarm_for(step, UNDO)
    if step.status is not StepStatus.DONE:
        turn.settle(step, StepStatus.DONE)
    if state.status.is_ended:
        reason = f"step {step.id} succeeded after the saga had ended"
        goal, steps = RollbackGoal.CLEANED_UP, (PlannedUndo(step=step.id),)
        turn.record(RollbackPlanned(goal=goal, steps=steps, reason=reason))
    elif not keeps_place:
        turn.record(intents.UndoAppended(step=step.id))
    go_on(turn, step)


def _keeps_place(turn: Turn, step: Step) -> bool:
    """Whether the plan has not passed *step* yet, so that the undo with the reply stays there."""
    plan = turn.state.plan
    if plan is None or step.id not in plan.after:
        return False
    progress = plan.progress = plan.progress or _progress(turn, plan)
    return all(progress.missing[other] for other in progress.behind.get(step.id, ()))
