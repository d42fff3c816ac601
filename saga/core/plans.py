"""What a rollback undoes, in what order, and how far it has come.

Theory of operation: a step belongs to a plan when its intent was issued and it is not known to be
without effect, because an ambiguous step may have had its effect (ARCHITECTURE.md D3). The order is
the reverse of the dependency graph (Garcia-Molina and Salem, "Sagas", 1987): a step is undone once
all that depended on it is undone. Steps that do not depend on each other are undone one by one, the
one that ended last first, or at once where the saga says so. A plan is made once, from recorded
facts; what it waits for is worked out once and kept up to date from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Final

from saga.core.identity import StepId
from saga.core.intents import PlannedUndo
from saga.core.state import Plan, Progress, SagaState, Step
from saga.core.status import NEVER_UNDONE, StepStatus

_MAY_HAVE_EFFECT: Final = frozenset(
    {StepStatus.ISSUED, StepStatus.DONE, StepStatus.FAILED, StepStatus.IN_DOUBT}
)
_NOT_UNDONE: Final = frozenset({StepStatus.UNDO_STUCK, StepStatus.SKIPPED, StepStatus.UNDOING})
_AT_REST: Final = frozenset({StepStatus.REFUSED, StepStatus.UNDONE, StepStatus.SKIPPED})
_AT_REST_OR_STUCK: Final = _AT_REST | {StepStatus.UNDO_STUCK}
_BEGUN: Final = _NOT_UNDONE | {StepStatus.UNDONE}


def may_have_effect(step: Step) -> bool:
    """Whether something of *step* may be out in the world that matters and is not undone."""
    return step.status in _MAY_HAVE_EFFECT and step.kind not in NEVER_UNDONE


def has_begun(step: Step) -> bool:
    """Whether the undo of *step* has begun, however far it has come."""
    return step.status in _BEGUN


def residue_of(steps: Iterable[Step]) -> tuple[StepId, ...]:
    """The steps whose effect is, or may be, still there: stuck, skipped, or without an undo."""
    return tuple(step.id for step in steps if step.status in _NOT_UNDONE or may_have_effect(step))


def plan_undo(steps: Iterable[Step], belongs: Callable[[Step], bool]) -> tuple[PlannedUndo, ...]:
    """The plan for those of *steps*, which are in order of issue, that *belong* to it.

    Each waits for the nearest steps of the plan that depended on it, perhaps through others.
    """
    in_order = list(steps)
    dependents: dict[StepId, dict[StepId, None]] = {}
    planned: list[Step] = []
    for step in reversed(in_order):
        nearest = dependents.get(step.id, {})
        if belongs(step):
            planned.append(step)
            nearest = {step.id: None}
        for before in step.after:
            dependents.setdefault(before, {}).update(nearest)
    planned.sort(key=_latest_end)
    places = {step.id: place for place, step in enumerate(planned)}
    undos: list[PlannedUndo] = []
    for place, step in enumerate(planned):
        after = tuple(sorted(dependents.get(step.id, ()), key=places.__getitem__))
        default = (planned[place - 1].id,) if place else ()
        undos.append(PlannedUndo(step=step.id, after=None if after == default else after))
    return tuple(undos)


def free_at_first(state: SagaState, plan: Plan, *, continues: bool) -> list[StepId]:
    """Work out how far a plan has come from where its steps stand: those that wait for nothing.

    *continues*: a step that cannot be undone holds up no other.
    """
    progress = plan.progress = _progress(state, plan, continues=continues)
    free = [step_id for step_id in plan.after if not progress.missing[step_id]]
    return _next(state, plan, progress, free)


def free_behind(state: SagaState, plan: Plan, settled: StepId, *, continues: bool) -> list[StepId]:
    """The steps that wait for nothing more, in the order of the plan, now that one has settled."""
    progress = plan.progress
    assert progress is not None, (state.saga_id, settled)
    free = _pass(state, progress, settled, _at_rest(continues=continues))
    return _next(state, plan, progress, free)


def is_undoing(state: SagaState, plan: Plan) -> bool:
    """Whether the undo of a step of the plan is under way."""
    return any(step_id in plan.after for step_id in state.undoing)


def has_passed(state: SagaState, plan: Plan, step: Step, *, continues: bool) -> bool:
    """Whether the plan went on behind *step*, or does not have it."""
    if step.id not in plan.after:
        return True
    progress = plan.progress or _progress(state, plan, continues=continues)
    return not all(progress.missing[other] for other in progress.behind.get(step.id, ()))


def _latest_end(step: Step) -> tuple[bool, int]:
    """Sorts what ended last first, behind what has not ended."""
    return step.ended > 0, -step.ended


def _next(state: SagaState, plan: Plan, progress: Progress, free: Sequence[StepId]) -> list[StepId]:
    """Those of *free* to undo now: all of them, or one where nothing else is being undone."""
    steps = state.steps
    to_undo = [step_id for step_id in free if steps[step_id].status in _MAY_HAVE_EFFECT]
    if not plan.recorded.one_by_one:
        return to_undo
    for step_id in to_undo:
        heappush(progress.free, (progress.places[step_id], step_id))
    if is_undoing(state, plan):
        return []
    while progress.free:
        _, step_id = heappop(progress.free)
        if steps[step_id].status in _MAY_HAVE_EFFECT:
            return [step_id]
    return []


def _at_rest(*, continues: bool) -> frozenset[StepStatus]:
    return _AT_REST_OR_STUCK if continues else _AT_REST


def _progress(state: SagaState, plan: Plan, *, continues: bool) -> Progress:
    """How far a plan has come; it is kept while no step of it goes back."""
    steps, at_rest = state.steps, _at_rest(continues=continues)
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


def _pass(
    state: SagaState, progress: Progress, settled: StepId, at_rest: frozenset[StepStatus]
) -> list[StepId]:
    steps, passed, missing = state.steps, progress.passed, progress.missing
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
