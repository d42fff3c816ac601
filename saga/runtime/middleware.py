"""What is around the turns of an application, for traces, metrics and logs: it decides nothing.

A replay, a trial and the bringing back of a saga are no turns: nothing is around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from typing import Final

from saga.core.decider import Decision
from saga.core.events import Event
from saga.core.history import NAME_OF
from saga.core.identity import SagaId
from saga.core.values import value
from saga.runtime.saga_cache import LoadedSaga

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@value(kw_only=True)
class TurnInfo:
    """A turn that is about to be taken: of which saga, and what has happened to it.

    *fact* is the name of its first entry, such as `reply-received`; *cause* the id of the message,
    timer or command; *key* is empty before a saga has begun.
    """

    saga_id: SagaId
    definition: str
    version: int
    key: str
    fact: str
    cause: str
    at: datetime


AroundTurn = Callable[[TurnInfo], AbstractContextManager[object]]
"""Gives what a turn is taken within; what that raises fails the turn, as its saga's code may."""


def info_of(saga: LoadedSaga, event: Event) -> TurnInfo:
    return TurnInfo(
        saga_id=saga.saga_id,
        definition=saga.decider.name,
        version=saga.decider.version,
        key=saga.state.key,
        fact=NAME_OF[type(event.fact)],
        cause=event.cause,
        at=_EPOCH + timedelta(microseconds=event.at),
    )


def taken_within(
    around: Sequence[AroundTurn], info: TurnInfo, take: Callable[[], Decision]
) -> Decision:
    """Take a turn within *around*, the first of which is the outermost.

    Raises:
        BaseException: what *take* or one of them has raised; nobody can keep that to themselves.
    """
    decision: Decision | None = None
    raised: list[BaseException] = []

    def noted() -> Decision:
        try:
            return take()
        except BaseException as error:
            raised.append(error)
            raise

    with ExitStack() as stack:
        for each in around:
            stack.enter_context(each(info))
        decision = noted()
    if decision is None:
        raise (
            raised[0]
            if raised
            else RuntimeError("what is around the turn has kept it from being taken")
        )
    return decision
