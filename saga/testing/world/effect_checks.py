"""What must hold of the services' ledger: each effect once, and nothing left that was
to be undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from saga.core.events import ReplyOutcome
from saga.core.history import Entry
from saga.core.intents import (
    IntentIssued,
    RollbackGoal,
    RollbackPlanned,
    SagaCleanedUp,
    SagaRolledBack,
    UndoAppended,
)
from saga.testing.world.evidence import Evidence, Line, answered, issued


def check_effects(evidence: Evidence) -> Iterator[str]:
    """Yields what is wrong."""
    by_saga: dict[str, list[Line]] = {}
    for line in evidence.ledger:
        by_saga.setdefault(line.saga_id, []).append(line)
    known = {str(saga_id) for saga_id in evidence.histories}
    for saga_id in by_saga.keys() - known:
        yield f"services have worked for {saga_id}, which is no saga"
    for key, history in evidence.histories.items():
        name = f"{evidence.summaries[key].definition} {key}"
        for problem in _of_saga(history, by_saga.get(key, [])):
            yield f"{name}: {problem}"


def _of_saga(history: Sequence[Entry], lines: Sequence[Line]) -> Iterator[str]:
    intents = {
        f"{entry.saga_id}/{entry.body.step}/{entry.body.direction.value}/{entry.body.attempt}"
        for entry in history
        if isinstance(entry.body, IntentIssued)
    }
    done: dict[str, Line] = {}
    undone: dict[str, Line] = {}
    for line in lines:
        if line.intent_id not in intents:
            yield f"{line.intent_id} was carried out and never issued"
        sums = done if line.direction == "do" else undone
        if line.step in sums:
            yield f"{line.direction} of {line.step} was carried out twice"
        sums[line.step] = line
    for step, line in undone.items():
        if step not in done or done[step].number > line.number:
            yield f"{step} was undone before it was done"
    standing = done.keys() - undone.keys()
    yield from _standing(history, standing)
    yield from _order(history, undone)


def _standing(history: Sequence[Entry], standing: set[str]) -> Iterator[str]:
    residue: set[str] = set()
    is_rolled_back = False
    for entry in history:
        if isinstance(entry.body, SagaRolledBack):
            is_rolled_back, residue = True, set(entry.body.residue)
        elif isinstance(entry.body, SagaCleanedUp):
            residue = set(entry.body.residue)
    if is_rolled_back:
        if not standing <= residue:
            yield f"rolled back, and {sorted(standing - residue)} is not undone"
        return
    expected = {
        step
        for step in issued(history, "do")
        if step != "look"
        and answered(history, step, "do", ReplyOutcome.DONE)
        and step not in issued(history, "undo")
    }
    if standing != expected:
        yield f"completed: {sorted(standing)} stands, expected {sorted(expected)}"


def _order(history: Sequence[Entry], undone: dict[str, Line]) -> Iterator[str]:
    """What was undone was undone in reverse order of issue, but for late successes."""
    late: set[str] = set()
    groups: list[tuple[str, ...]] = []
    for entry in history:
        if isinstance(entry.body, UndoAppended):
            late.add(entry.body.step)
        elif isinstance(entry.body, RollbackPlanned):
            if entry.body.goal is RollbackGoal.CLEANED_UP:
                late |= {step for group in entry.body.groups for step in group}
            else:
                groups += entry.body.groups
    place = {step: number for number, step in enumerate(issued(history, "do"))}
    group = {step: number for number, steps in enumerate(groups) for step in steps}
    order = [
        line.step
        for line in sorted(undone.values(), key=lambda line: line.number)
        if line.step not in late
    ]
    for earlier, later in pairwise(order):
        if group.get(earlier) != group.get(later) and place[earlier] < place[later]:
            yield f"{earlier} was undone before {later}, which was done after it"
