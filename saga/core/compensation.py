"""The rollback plan: which steps are undone, and in what order.

Theory of operation: a step belongs to the plan when its intent was issued and it is not known to be
without effect. Undo is registered when the intent is issued, not when it succeeds, because an
ambiguous step may have had its effect (see Garcia-Molina and Salem, "Sagas", 1987, for the order,
and ARCHITECTURE.md D3 for the ambiguity). The order is exactly the reverse of issue; steps that
were issued side by side may be undone side by side where the saga says so.
"""

from __future__ import annotations

from collections.abc import Iterable

from saga.core.identity import StepId
from saga.core.state import Step
from saga.core.status import StepKind, StepStatus

_MAY_HAVE_EFFECT = frozenset(
    {StepStatus.ISSUED, StepStatus.DONE, StepStatus.FAILED, StepStatus.IN_DOUBT}
)
_NOT_UNDONE = frozenset({StepStatus.UNDO_STUCK, StepStatus.SKIPPED, StepStatus.UNDOING})


def may_have_effect(step: Step) -> bool:
    """Whether something of *step* may be out in the world and is not undone."""
    return step.kind is not StepKind.READ_ONLY and step.status in _MAY_HAVE_EFFECT


def needs_undo(step: Step) -> bool:
    """Whether *step* belongs into a plan: it may have had an effect, and it has an undo."""
    return step.undo_retry is not None and may_have_effect(step)


def plan_groups(steps: Iterable[Step], *, parallel: bool) -> list[tuple[StepId, ...]]:
    """The groups of a plan over *steps*, which are given in order of issue.

    Each group is undone after the one before it. With *parallel*, neighbours of one group of issue
    form one group of undo.
    """
    groups: list[tuple[StepId, ...]] = []
    last_group: str | None = None
    for step in reversed(list(steps)):
        if not needs_undo(step):
            continue
        if parallel and step.group is not None and step.group == last_group:
            groups[-1] = (*groups[-1], step.id)
        else:
            groups.append((step.id,))
        last_group = step.group
    return groups


def residue_of(steps: Iterable[Step]) -> tuple[StepId, ...]:
    """The steps whose effect is, or may be, still there: stuck, skipped, or without an undo."""
    return tuple(step.id for step in steps if step.status in _NOT_UNDONE or may_have_effect(step))
