"""The laws are looked at with sagas that have everything which their way of writing has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import pytest

from saga.core import events, intents
from saga.core.events import CancelMode, ChildStatus
from saga.core.identity import DO, UNDO
from saga.core.intents import SentAct, TimerPurpose, Verdict
from saga.core.status import StepStatus
from tests.laws import test_laws  # noqa: F401  # it has the laws
from tests.laws.course import Course, Drawn
from tests.laws.searching import LAWS, search

EXAMPLES: Final = 500
SEEN_MIN: Final = 2
"""In so many courses at least each of these is met."""
DRAWN_AS: Final = {
    "functions": ("functions", "before"),
    "machines": ("machines",),
    "graphs": ("graphs",),
}
_Is: Final[dict[str, Callable[[Any], bool]]] = {
    "child begun": lambda it: isinstance(it, intents.IntentIssued) and it.child is True,
    "child undone": lambda it: (
        isinstance(it, intents.IntentIssued) and it.child is True and it.direction is UNDO
    ),
    "child cancelled": lambda it: isinstance(it, intents.CommandSent) and it.act is SentAct.CANCEL,
    "child rolled back": lambda it: (
        isinstance(it, events.ChildEnded) and it.status is ChildStatus.ROLLED_BACK
    ),
    "undone by its parent": lambda it: (
        isinstance(it, events.CancelRequested) and it.undo is not None
    ),
    "cancelled": lambda it: isinstance(it, events.CancelRequested) and it.undo is None,
    "abandoned": lambda it: (
        isinstance(it, events.CancelRequested) and it.mode is CancelMode.ABANDON
    ),
    "update answered": lambda it: isinstance(it, intents.UpdateAnswered) and it.code is None,
    "update refused": lambda it: isinstance(it, intents.UpdateAnswered) and it.code is not None,
    "event waited for": lambda it: isinstance(it, intents.EventAwaited) and bool(it.contracts),
    "event chosen": lambda it: isinstance(it, intents.WaitEnded),
    "signal waited for": lambda it: (
        isinstance(it, intents.SignalAwaited)
        or (isinstance(it, intents.EventAwaited) and "a" in it.signals)
    ),
    "signal refused": lambda it: (
        isinstance(it, intents.Noted)
        and it.verdict is Verdict.REFUSED
        and it.subject.startswith("signal")
    ),
    "sleep": lambda it: _is_timer(it, TimerPurpose.SLEEP),
    "wait with a timeout": lambda it: _is_timer(it, TimerPurpose.WAIT),
    "attempt with a deadline": lambda it: _is_timer(it, TimerPurpose.DEADLINE),
    "saga with a deadline": lambda it: _is_timer(it, TimerPurpose.SAGA),
    "next attempt": lambda it: _is_timer(it, TimerPurpose.RETRY),
    "scope undone": lambda it: isinstance(it, intents.ScopeUndone),
    "scope in a scope": lambda it: (
        isinstance(it, intents.IntentIssued) and it.direction is DO and "/" in (it.scope or "")
    ),
    "next run": lambda it: isinstance(it, intents.Continued),
    "race lost": lambda it: isinstance(it, intents.BranchDropped) and bool(it.steps),
    "undo stuck": lambda it: (
        isinstance(it, intents.StepSettled) and it.status is StepStatus.UNDO_STUCK
    ),
    "parked": lambda it: isinstance(it, intents.SagaParked),
    "went on": lambda it: isinstance(it, intents.SagaResumed),
    "paused": lambda it: isinstance(it, events.Paused),
    "turn failed": lambda it: isinstance(it, events.TurnFailed),
    "late success": lambda it: isinstance(it, intents.Noted) and it.verdict is Verdict.LATE_SUCCESS,
    "cleaned up": lambda it: isinstance(it, intents.SagaCleanedUp),
    "residue": lambda it: isinstance(it, intents.SagaRolledBack) and bool(it.residue),
    "told": lambda it: isinstance(it, intents.IntentTold),
    "published": lambda it: isinstance(it, intents.EventPublished),
    "shown": lambda it: isinstance(it, intents.Shown),
    "patched": lambda it: isinstance(it, intents.Patched),
    "signal sent": lambda it: isinstance(it, intents.CommandSent) and it.act is SentAct.SIGNAL,
}
LACKS: Final = {
    "functions": set[str](),
    "machines": {
        *("event chosen", "scope undone", "scope in a scope", "patched", "signal sent"),
        "wait with a timeout",
    },
    "graphs": {
        *("update answered", "scope undone", "scope in a scope", "next run", "told", "shown"),
        *("patched", "signal sent"),
    },
}
"""What a way of writing has not. The timeout of a machine's state is a sleep."""


def _is_timer(body: Any, purpose: TimerPurpose) -> bool:
    return isinstance(body, intents.TimerArmed) and body.purpose is purpose


def seen_in(course: Course) -> Iterator[str]:
    bodies = [entry.body for entry in course.history]
    for name, is_it in _Is.items():
        if any(map(is_it, bodies)):
            yield name


@pytest.mark.long
@pytest.mark.parametrize("way", DRAWN_AS)
def test_all_that_a_way_of_writing_has_is_drawn(way: str) -> None:
    seen = Counter[str]()

    def look(drawn: Drawn) -> None:
        seen.update(seen_in(drawn.course()))

    plain = LAWS["test_a_saga_has_one_outcome"]
    for drawn_as in DRAWN_AS[way]:
        search([replace(plain, check=look)], drawn_as, EXAMPLES, number=1, shrinks=False)

    assert {name for name in LACKS[way] if seen[name]} == set()
    rare = {name: seen[name] for name in _Is if name not in LACKS[way] and seen[name] < SEEN_MIN}
    assert not rare, f"too rare: {rare}; all: {sorted(seen.items())}"
