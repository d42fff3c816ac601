"""What a child tells its parent, worked out from one turn of the child's history.

That it has begun follows from its trigger, that it has ended from the entry that ends it, and what
it refuses from the note behind what was asked. So it is the same whenever it is published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from saga.contracts.cloudevents import Attributes, Said
from saga.core.events import (
    CancelRequested,
    ChildEnded,
    ChildStarted,
    ChildStatus,
    Parent,
    SagaStarted,
)
from saga.core.history import History, RecordedTurn, beginning_of
from saga.core.identity import DO, IntentId, SagaId, parse_intent_id
from saga.core.intents import (
    Continued,
    Noted,
    SagaAbandoned,
    SagaCompleted,
    SagaRolledBack,
    Verdict,
)
from saga.core.parents import is_from_parent

KEY_TAKEN: Final = "key_taken"
UNDO_REFUSED: Final = "undo_refused"
Told = ChildStarted | ChildEnded


def parent_of(said: Attributes | Said) -> Parent | None:
    """The parent that a trigger names: its intent and its key, both or none."""
    key, causation = said.parent_key, said.causation_id
    if not key or not causation:
        return None
    name = parse_intent_id(causation)
    return Parent(IntentId(causation), key) if name is not None and name.direction is DO else None


def start_of(history: History) -> tuple[SagaStarted | Continued, Parent | None] | None:
    """How a saga began, or its last run, and whose child it is; None if nothing has begun it."""
    begun = beginning_of(history)
    if isinstance(begun, Continued):
        return begun, begun.parent
    for turn in history.recorded:
        fact = turn.event.fact
        if type(fact) is SagaStarted:
            return fact, None if _note_of(turn) is not None else fact.parent
    return None


def told_to_parent(
    turn: RecordedTurn, parent: Parent | None, *, definition: str, key: str
) -> Iterator[tuple[Told, str]]:
    """What a turn of a saga has to tell to a parent, and that parent's key."""
    saga, fact, note = turn.saga_id, turn.event.fact, _note_of(turn)
    if type(fact) is SagaStarted and fact.parent is not None:
        intent, parent_key = fact.parent.intent_id, fact.parent.key
        if note is None:
            begun = ChildStarted(intent_id=intent, saga_id=saga, definition=definition, key=key)
            yield begun, parent_key
        else:
            yield _refused(intent, note), parent_key
    if parent is None:
        return
    if type(fact) is CancelRequested and fact.undo is not None and note is not None:
        answer = _not_undone(fact.undo, note)
        if answer is not None and is_from_parent(parent, fact.undo):
            yield _named(answer, saga, definition, key), parent.key
    for body in turn.decided:
        ended = _ended(body, parent)
        if ended is not None:
            yield _named(ended, saga, definition, key), parent.key


def _note_of(turn: RecordedTurn) -> Noted | None:
    """What was noted of the fact itself, which then had no plain effect."""
    first = turn.decided[0] if turn.decided else None
    return first if type(first) is Noted else None


def _refused(intent: IntentId, note: Noted) -> ChildEnded:
    """The trigger met a saga that is not the child; or one that was abandoned before it began."""
    if note.verdict is Verdict.AFTER_END:
        return ChildEnded(
            intent_id=intent, status=ChildStatus.ABANDONED, reason=note.detail, code="abandoned"
        )
    return ChildEnded(
        intent_id=intent, status=ChildStatus.REFUSED, reason=note.detail, code=KEY_TAKEN
    )


def _not_undone(undo: IntentId, note: Noted) -> ChildEnded | None:
    """The answer to an undo of which nothing comes; None where an end that is to come is it."""
    match note.verdict:
        case Verdict.REFUSED:
            return ChildEnded(
                intent_id=undo, status=ChildStatus.REFUSED, reason=note.detail, code=UNDO_REFUSED
            )
        case Verdict.AFTER_END:
            return ChildEnded(intent_id=undo, status=ChildStatus.ROLLED_BACK, reason=note.detail)
        case _:
            return None


def _ended(body: object, parent: Parent) -> ChildEnded | None:
    match body:
        case SagaCompleted():
            return ChildEnded(
                intent_id=parent.intent_id,
                status=ChildStatus.COMPLETED,
                outcome=body.outcome,
                residue=body.residue or (),
            )
        case SagaRolledBack():
            has_residue = bool(body.residue)
            return ChildEnded(
                intent_id=body.undo or parent.intent_id,
                status=ChildStatus.ROLLED_BACK_WITH_RESIDUE
                if has_residue
                else ChildStatus.ROLLED_BACK,
                outcome=body.outcome,
                reason=body.reason,
                code=body.code,
                failed_step=body.failed_step,
                residue=body.residue,
            )
        case SagaAbandoned(had_outcome=False):
            return ChildEnded(
                intent_id=body.undo or parent.intent_id,
                status=ChildStatus.ABANDONED,
                outcome=body.outcome,
                reason=body.reason,
                code="abandoned",
                residue=body.residue,
            )
        case _:
            return None


def _named(ended: ChildEnded, saga: SagaId, definition: str, key: str) -> ChildEnded:
    """With which saga says it."""
    return replace(ended, saga_id=saga, definition=definition, key=key)
