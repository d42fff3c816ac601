"""Parents and children: in the end both say the same of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from saga.core.events import ChildEnded, ChildStarted, ChildStatus, MarkedAs, SagaStarted
from saga.core.history import Entry
from saga.core.identity import DO, UNDO, SagaId
from saga.core.intents import (
    BranchDropped,
    CommandSent,
    Continued,
    IntentIssued,
    Noted,
    RollbackPlanned,
    SagaAbandoned,
    SagaCleanedUp,
    SagaCompleted,
    SagaRolledBack,
    SentAct,
    Verdict,
)
from saga.testing.world.acting import marked_in

Histories = Mapping[SagaId, Sequence[Entry]]
_ENDS: Final = (SagaCompleted, SagaRolledBack, SagaAbandoned)


def check_kinship(histories: Histories, standing_still: frozenset[SagaId]) -> Iterator[str]:
    """Yields where parent and child differ; of those that stand still not all is known yet."""
    for parent, history in histories.items():
        runs = [entry.version for entry in history if isinstance(entry.body, Continued)]
        for entry in history:
            body = entry.body
            if isinstance(body, IntentIssued) and body.child and body.direction is DO:
                intent = f"{parent}/{body.step}/{DO}/{body.attempt}"
                child = _believed(history, intent)
                if child is None or child not in histories:
                    continue
                family = {parent, child}
                for problem in _of_family(history, body.step, intent, histories[child]):
                    yield f"parent {parent}, child {child}: {problem}"
                is_of_last_run = not runs or entry.version > runs[-1]
                if is_of_last_run and not family & standing_still:
                    for problem in _of_ended(history, body.step, histories[child]):
                        yield f"parent {parent}, child {child}: {problem}"


def _believed(history: Sequence[Entry], intent: str) -> SagaId | None:
    """Which saga the parent takes for the child of *intent*."""
    for entry in history:
        body = entry.body
        if (
            isinstance(body, ChildStarted | ChildEnded)
            and body.intent_id == intent
            and body.saga_id is not None
            and not _is_noted(history, entry, Verdict.CONFLICTING)
        ):
            return body.saga_id
    return None


def _is_noted(history: Sequence[Entry], fact: Entry, verdict: Verdict) -> bool:
    following = history[fact.version].body if fact.version < len(history) else None
    return isinstance(following, Noted) and following.verdict is verdict


def _of_family(
    parent: Sequence[Entry], step: str, intent: str, child: Sequence[Entry]
) -> Iterator[str]:
    began = next((each.body for each in child if isinstance(each.body, SagaStarted)), None)
    if began is None or began.parent is None or began.parent.intent_id != intent:
        yield f"{step} has started another saga than the one that is believed"
        return
    ends = {_status(each.body) for each in child if isinstance(each.body, _ENDS)}
    for entry in parent:
        body = entry.body
        if not isinstance(body, ChildEnded) or body.intent_id.split("/")[1] != step:
            continue
        following = parent[entry.version].body if entry.version < len(parent) else None
        if body.status is ChildStatus.REFUSED:
            continue
        if body.saga_id != child[0].saga_id:
            if not isinstance(following, Noted):
                yield f"entry {entry.version} is believed of {body.saga_id}, which is not the child"
            continue
        if body.status not in ends:
            yield f"entry {entry.version} says it is {body.status.value}, and it never was"
    is_undone = len([each for each in child if isinstance(each.body, _ENDS)]) > 1
    asked = (each.body for each in parent if isinstance(each.body, CommandSent))
    if is_undone and not any(
        each.act is SentAct.UNDO and each.command.split("/")[1:3] == [step, UNDO] for each in asked
    ):
        yield "the child was undone, and its parent never asked for that"


def _status(end: object) -> ChildStatus:
    match end:
        case SagaCompleted():
            return ChildStatus.COMPLETED
        case SagaRolledBack(residue=residue):
            return ChildStatus.ROLLED_BACK_WITH_RESIDUE if residue else ChildStatus.ROLLED_BACK
        case _:
            return ChildStatus.ABANDONED


def _of_ended(parent: Sequence[Entry], step: str, child: Sequence[Entry]) -> Iterator[str]:
    """What stands of a child is wanted, or its parent's residue, or was seen to by hand."""
    end = _last(parent, _ENDS)
    child_end = _last(child, _ENDS)
    if end is None or child_end is None or isinstance(end, SagaAbandoned):
        return
    last = _last(parent, (*_ENDS, SagaCleanedUp))
    residue = getattr(last, "residue", None) or ()
    if isinstance(last, SagaCleanedUp) and isinstance(end, SagaCompleted):
        residue = (*residue, *(end.residue or ()))
    is_undone = _status(child_end) is ChildStatus.ROLLED_BACK
    is_dropped = any(_gives_up(entry.body, step) for entry in parent)
    is_wanted = isinstance(end, SagaCompleted) and not is_dropped
    if is_wanted and is_undone and len([e for e in child if isinstance(e.body, _ENDS)]) > 1:
        yield f"{step} was undone, and the parent has completed with it"
    by_hand = marked_in(parent, MarkedAs.UNDONE)
    if not is_wanted and not is_undone and step not in residue and step not in by_hand:
        yield f"the child is {_status(child_end).value}, and {step} neither wanted nor residue"


def _gives_up(body: object, step: str) -> bool:
    """Whether the parent did not want the child any more, or has a scope undone that it is in."""
    if isinstance(body, RollbackPlanned):
        return any(undo.step == step for undo in body.steps)
    return isinstance(body, BranchDropped) and step in body.steps


def _last(history: Sequence[Entry], kinds: tuple[type, ...]) -> object | None:
    return next((each.body for each in reversed(history) if isinstance(each.body, kinds)), None)
