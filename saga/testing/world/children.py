"""What parents and children owe each other, and what children have answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from saga.contracts import COMMAND_CONTRACT
from saga.contracts.between_sagas import CHILD_ENDED, CHILD_STARTED, child_text, command_text
from saga.core.events import ChildEnded, ChildStarted, ChildStatus, ReplyOutcome
from saga.core.history import Entry, History, turns
from saga.core.intents import CommandSent, IntentIssued, Noted, Verdict
from saga.runtime.children import start_of, told_to_parent

_OUTCOMES = {
    ("do", ChildStatus.COMPLETED): ReplyOutcome.DONE,
    ("undo", ChildStatus.ROLLED_BACK): ReplyOutcome.DONE,
}
"""Whatever else a child says, a step is not done, and an undo not either."""


class Owed(NamedTuple):
    """A record that a history has to have sent to another saga; its turn ends at *version*."""

    id: str
    contract: str
    key: str
    value: str
    version: int


def children_of(history: Sequence[Entry]) -> frozenset[str]:
    """The steps that have started a child."""
    bodies = (entry.body for entry in history)
    return frozenset(body.step for body in bodies if isinstance(body, IntentIssued) and body.child)


def is_answered_by_child(
    history: Sequence[Entry], step: str, direction: str, outcome: ReplyOutcome
) -> bool:
    """Whether the child of a step has said what comes to this *outcome*."""
    for place, entry in enumerate(history):
        body = entry.body
        if not isinstance(body, ChildEnded):
            continue
        if is_of_another(history[place + 1] if place + 1 < len(history) else None):
            continue
        said = _OUTCOMES.get((direction, body.status), ReplyOutcome.REFUSED)
        if body.intent_id.split("/")[1:3] == [step, direction] and said is outcome:
            return True
    return False


def is_of_another(entry: Entry | None) -> bool:
    """Whether this notes that another saga than the child has spoken."""
    body = None if entry is None else entry.body
    return (
        isinstance(body, Noted)
        and body.verdict is Verdict.CONFLICTING
        and "is not the child" in body.detail
    )


def owed(history: Sequence[Entry], definition: str, key: str) -> Iterator[Owed]:
    """What a saga has to say to others: commands, and what a child tells its parent."""
    recorded = turns(history)
    start = start_of(History(recorded))
    parent = None if start is None else start[1]
    for turn in recorded:
        for entry in turn:
            if isinstance(entry.body, CommandSent):
                sent, text = entry.body, command_text(entry.body, actor=f"{definition}/{key}")
                yield Owed(sent.command, COMMAND_CONTRACT, sent.key, text, entry.version)
        last = turn.version + len(turn.decided)
        for told, parent_key in told_to_parent(turn, parent, definition=definition, key=key):
            has_begun = isinstance(told, ChildStarted)
            id_ = f"{told.intent_id}/{'started' if has_begun else 'ended'}"
            contract = CHILD_STARTED if has_begun else CHILD_ENDED
            yield Owed(id_, contract, parent_key, child_text(told), last)
