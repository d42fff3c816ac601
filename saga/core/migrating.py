"""The migration of a saga to another version of its definition, as the saga itself takes it.

Whether the new code decides what the history says is found out by a replay, which needs the whole
of it: who takes the turn does so, and says here what came of it. Nothing else happens in the turn.
"""

from __future__ import annotations

from saga.core.decider import RECORDED, Disposition
from saga.core.events import Migrated
from saga.core.intents import Verdict
from saga.core.turn import Turn


def take(turn: Turn, fact: Migrated) -> Disposition:
    """Take a migration, or note why it is refused: as was *recorded* for the turn."""
    if turn.state.has_ended:
        return turn.note(Verdict.AFTER_END, "migrate", f"the saga is {turn.state.status.value}")
    refusal = turn.refusal(_nothing)
    if refusal is not None:
        subject = f"migrate from {fact.from_version} to {fact.definition_version}"
        return turn.note(Verdict.REFUSED, subject, refusal)
    turn.take_fact()
    return RECORDED


def _nothing() -> None:
    """A replay has said already whether it can be."""
