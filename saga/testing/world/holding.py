"""A paused saga acts on nothing: what comes is recorded; its code goes on once it is resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from saga.core.events import OperatorActed, Paused, Resumed, SagaStarted
from saga.core.history import Entry, turns
from saga.core.identity import DO
from saga.core.intents import (
    Continued,
    EventAwaited,
    EventPublished,
    Intent,
    IntentIssued,
    IntentTold,
    Noted,
    SagaFinishing,
    SignalAwaited,
    Verdict,
)

OF_THE_CODE: Final = (
    *(Continued, EventAwaited, EventPublished, IntentIssued, IntentTold),
    *(SagaFinishing, SignalAwaited),
)
"""What is decided only where the saga's code goes on, or a step is tried again."""
_WITHOUT_EFFECT: Final = frozenset({Verdict.REFUSED, Verdict.AFTER_END})


def is_undo(body: Intent) -> bool:
    return isinstance(body, IntentIssued) and body.direction is not DO


def check_holding(history: Sequence[Entry]) -> Iterator[str]:
    """Yields what a saga did while it was paused; to undo goes on, and so do operators' acts."""
    paused_by: set[str | None] = set()
    for turn in turns(history):
        fact, decided = turn.event.fact, turn.decided
        first = decided[0] if decided else None
        if isinstance(first, Noted) and first.verdict in _WITHOUT_EFFECT:
            continue
        if isinstance(fact, Resumed):
            paused_by.discard(fact.scope)
        if paused_by and not isinstance(fact, OperatorActed):
            for body in decided:
                if isinstance(body, OF_THE_CODE) and not is_undo(body):
                    what = type(body).__name__
                    yield f"paused, and the turn of entry {turn.version} decides {what}"
        if isinstance(fact, Paused):
            paused_by.add(fact.scope)
        elif isinstance(fact, SagaStarted) and fact.paused:
            paused_by.add("definition")
            for body in decided:
                if isinstance(body, OF_THE_CODE):
                    yield f"begun paused, and decides {type(body).__name__}"
