"""Which acts a saga would take now: each is tried on it, and thrown away.

The saga is brought to life from its history, as a worker would do it, and handles the act: so what
people are advised, and what is refused before it is sent, are decided where the act is. Nothing is
recorded. Between the trial and the act others may change the saga: its turn decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from saga.authoring.registry import SagaRegistry
from saga.contracts import Command, CommandAct
from saga.core.events import Event
from saga.core.fold import fold
from saga.core.history import History
from saga.core.identity import Instant, MessageId, SagaId, StepId
from saga.core.intents import Noted, Verdict
from saga.core.status import StepStatus
from saga.core.values import value
from saga.errors import CorruptHistory
from saga.runtime.router import abandons, command_fact
from saga.runtime.saga_cache import UnloadableSaga, loaded_without_code, revive, without_code
from saga.users_code import is_ours

ACTS: Final = (
    *(CommandAct.RELEASE, CommandAct.RETRY, CommandAct.SKIP),
    *(CommandAct.COMPENSATE, CommandAct.ABANDON),
)
"""In the order in which to think of them for a saga that stands still."""
ON_STEPS: Final = frozenset({CommandAct.RETRY, CommandAct.SKIP})
STEPS_TRIED_MAX: Final = 20
_OVER: Final = frozenset({StepStatus.DONE, StepStatus.UNDONE, StepStatus.SKIPPED})
_REFUSED: Final = frozenset({Verdict.REFUSED, Verdict.AFTER_END})
_TRIAL: Final = MessageId("trial")


@value
class PossibleAct:
    act: CommandAct
    step: StepId | None = None


@value(kw_only=True)
class Tried:
    """Why the saga would refuse an act, or would not take it before that is mended."""

    refusal: str | None = None
    waits: str | None = None


def possible_acts(
    sagas: SagaRegistry | None, saga_id: SagaId, history: History, at: Instant
) -> Iterator[PossibleAct]:
    """The acts that a saga would take now, each with the step that it is about."""
    for act in ACTS:
        for step in _steps(saga_id, history) if act in ON_STEPS else [None]:
            command = Command(command_id=_TRIAL, act=act, saga_id=saga_id, reason=_TRIAL, step=step)
            tried = try_on(sagas, history, command, at)
            if tried.refusal is None and tried.waits is None:
                yield PossibleAct(act, step)


def try_on(
    sagas: SagaRegistry | None, history: History | CorruptHistory, command: Command, at: Instant
) -> Tried:
    """What the saga of *history* would do with *command* now.

    Without *sagas* it is tried on what the entries alone say.
    """
    if isinstance(history, CorruptHistory):
        return Tried(waits=str(history))
    saga_id, fact = SagaId(command.saga_id or ""), command_fact(command)
    saga = (
        revive(sagas, saga_id, history)
        if sagas is not None
        else loaded_without_code(saga_id, history)
    )
    if isinstance(saga, UnloadableSaga):
        found = without_code(saga) if abandons(fact) else None
        if found is None:
            return Tried(waits=saga.reason)
        saga = found
    try:
        decision = saga.decider.handle(saga.state, Event(fact, at, MessageId(command.command_id)))
    except BaseException as error:  # users' code, which is asked behind every refusal
        if is_ours(error):
            raise
        return Tried()
    finally:
        saga.let_go()
    match decision.intents:
        case [Noted(verdict=verdict, detail=detail), *_] if verdict in _REFUSED:
            return Tried(refusal=detail)
    return Tried()


def _steps(saga_id: SagaId, history: History) -> list[StepId]:
    """The steps that an act may be about, at most some."""
    steps = fold(saga_id, history).steps.values()
    return [step.id for step in steps if step.status not in _OVER][:STEPS_TRIED_MAX]
