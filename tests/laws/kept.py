"""What the kernel keeps beside the steps, worked out anew from these."""

from __future__ import annotations

from saga.core.state import Plan
from tests.laws.course import Course

_AT_REST = frozenset({"refused", "undone", "skipped"})
_BEGUN = frozenset({"undoing", "undone", "undo_stuck", "skipped"})


def check_kept(course: Course) -> None:
    """Which steps are in flight or being undone, their timers, and how far plans have come."""
    state = course.state
    steps = state.steps.values()
    for kept, status in ((state.in_flight, "issued"), (state.undoing, "undoing")):
        assert kept == {step.id: step for step in steps if step.status == status}
    for timer in state.timers.values():
        if timer.purpose in ("deadline", "retry"):
            step_id, direction = timer.target.rsplit("/", 1)
            step = state.steps[step_id]
            latest = step.attempts if direction == "do" else step.undo_attempts
            assert timer.timer_id == f"{state.saga_id}/{timer.target}/{latest}/{timer.purpose}"
    plans = [] if state.scopes is None else list(state.scopes.plans.values())
    for plan in [state.plan, *plans]:
        if plan is not None and plan.progress is not None and not state.has_ended:
            passed = _passed(course, plan)
            assert plan.progress.passed == passed
            for step_id, after in plan.after.items():
                assert plan.progress.missing[step_id] == len(set(after) - passed)


def _passed(course: Course, plan: Plan) -> set[str]:
    """The steps that hold up no other, each looked at anew."""
    at_rest = _AT_REST
    if course.drawn.saga.continues_when_stuck:
        at_rest = at_rest | {"undo_stuck"}
    stands = {step_id: course.state.steps[step_id].status for step_id in plan.after}
    passed: set[str] = set()
    for step, after in plan.after.items():
        if stands[step] in _BEGUN:
            passed.update(after)
    for step_id, after in plan.after.items():
        if stands[step_id] in at_rest and passed.issuperset(after):
            passed.add(step_id)
    return passed
