"""What is given up does nothing any more, and a scope that was left is undone before it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from saga.core.events import EventReceived, ReplyOutcome, SignalReceived, UpdateReceived
from saga.core.history import Entry
from saga.core.identity import UNDO
from saga.core.intents import (
    ArrivalRefused,
    BranchDropped,
    Continued,
    IntentIssued,
    RollbackGoal,
    RollbackPlanned,
    ScopeUndone,
    StepSettled,
    WaitEnded,
)
from saga.core.status import StepStatus
from saga.testing.world.histories import is_answered

_OVER = frozenset(
    {StepStatus.UNDONE, StepStatus.SKIPPED, StepStatus.REFUSED, StepStatus.UNDO_STUCK}
)
"""Of a step of which it is known that it is undone, or cannot be."""


def check_branches(history: Sequence[Entry]) -> Iterator[str]:
    """Yields what losers, left scopes and waits did that they should not have."""
    said = {type(entry.body) for entry in history}
    if BranchDropped in said:
        yield from _losers(history)
    if ScopeUndone in said:
        yield from _scopes(history)
    if WaitEnded in said:
        yield from _taken(history)


def _losers(history: Sequence[Entry]) -> Iterator[str]:
    """A step, a sleep or a wait that was given up is not begun again, and ends in nothing."""
    steps: set[str] = set()
    waits: set[str] = set()
    for entry in history:
        match entry.body:
            case BranchDropped():
                steps.update(entry.body.steps)
                waits.update(entry.body.waits)
            case IntentIssued(step=step, direction=direction) if direction is not UNDO:
                if step in steps:
                    yield f"entry {entry.version} goes on with {step}, which was given up"
            case WaitEnded(wait=wait) if wait in waits:
                yield f"entry {entry.version} ends {wait}, which was given up"


def _scopes(history: Sequence[Entry]) -> Iterator[str]:
    """The saga is told that a scope is undone once all that was planned is undone, or given up."""
    planned: dict[str, set[str]] = {}
    for entry in history:
        match entry.body:
            case Continued():
                planned.clear()
            case RollbackPlanned(goal=RollbackGoal.SCOPE_LEFT, scope=str(scope), steps=undos):
                planned.setdefault(scope, set()).update(undo.step for undo in undos)
            case ScopeUndone(scope=scope):
                before = history[: entry.version]
                left = [
                    step for step in sorted(planned.get(scope, ())) if not _is_over(before, step)
                ]
                if left:
                    yield f"entry {entry.version} says that {scope} is undone, and {left} is not"


def _is_over(before: Sequence[Entry], step: str) -> bool:
    settled = (each.body for each in before if isinstance(each.body, StepSettled))
    if any(each.step == step and each.status in _OVER for each in settled):
        return True
    return any(
        is_answered(before, step, direction, outcome)
        for direction, outcome in (("undo", ReplyOutcome.DONE), ("do", ReplyOutcome.REFUSED))
    )


def _taken(history: Sequence[Entry]) -> Iterator[str]:
    """What a wait has chosen had come, and is gone from then on."""
    came: set[int] = set()
    for entry in history:
        match entry.body:
            case SignalReceived() | EventReceived() | UpdateReceived():
                came.add(entry.version)
            case Continued(unread=unread):
                came = {each.version for each in unread}
            case ArrivalRefused(arrived=version):
                came.discard(version)
            case WaitEnded(wait=wait, took=took):
                if took not in came:
                    yield f"entry {entry.version}: {wait} takes what is gone, or never came: {took}"
                came.discard(took)
