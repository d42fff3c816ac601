"""The rerun of an ended saga: another saga, under another key, begins with a trigger like its own.

Here the ended one only notes which saga that is. Whoever takes the turn starts it, in the same
transaction; both name each other.
"""

from __future__ import annotations

from saga.core.decider import RECORDED, Disposition
from saga.core.events import OperatorActed
from saga.core.intents import Verdict
from saga.core.state import SagaState
from saga.core.turn import Turn


def rerun(turn: Turn, fact: OperatorActed) -> Disposition:
    if (refusal := turn.refusal(_why_not, turn.state, fact)) is not None:
        return turn.note(Verdict.REFUSED, f"rerun {fact.key}", refusal)
    turn.take_fact()
    return RECORDED


def _why_not(state: SagaState, fact: OperatorActed) -> str | None:
    if not state.has_ended:
        return f"the saga has not ended: it is {state.status.value}"
    if state.trigger is None:
        return "the saga has not begun: there is no trigger to begin with"
    if fact.key == state.key or fact.saga_id == state.saga_id:
        return f"{fact.key!r} is its own key: give another one"
    return None
