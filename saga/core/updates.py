"""Updates: what somebody asks of a running saga, and the one answer to each.

Theory of operation: an update is kept and taken as a signal is. It is open until `UpdateAnswered`
says otherwise: the saga's code answers or refuses it; one whose payload the wait cannot take is
refused at once; and a saga that ends answers all that are open.
"""

from __future__ import annotations

from saga.core.decider import Disposition
from saga.core.events import UpdateReceived
from saga.core.intents import UpdateAnswered, Verdict
from saga.core.program import Answer
from saga.core.turn import Turn


def answer(turn: Turn, command: Answer) -> None:
    """The saga's code has answered, or refused, an update that it has taken."""
    assert (turn.state.updates or {}).get(command.update), (turn.state.saga_id, command)
    turn.record(
        UpdateAnswered(
            update=command.update,
            answer=command.answer,
            code=command.code,
            message=command.message,
        )
    )


def is_anothers(turn: Turn, fact: UpdateReceived) -> bool:
    """Whether another sender has asked under this id before."""
    return turn.state.updates is not None and fact.update in turn.state.updates


def refuse(turn: Turn, fact: UpdateReceived, verdict: Verdict, code: str, why: str) -> Disposition:
    """Answer an update at once that the saga cannot take."""
    disposition = turn.note(verdict, f"update {fact.name}", why)
    turn.record(UpdateAnswered(update=fact.update, code=code, message=why))
    return disposition
