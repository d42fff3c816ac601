"""Which acts a saga would take now: each is tried on it, and thrown away.

The saga is brought to life from its history, as a worker would do it, and handles the act: so what
people are advised, and what is refused before it is sent, are decided where the act is. Nothing is
recorded. Between the trial and the act others may change the saga: its turn decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from saga.authoring.registry import SagaRegistry
from saga.contracts import Command, CommandAct
from saga.core import marks
from saga.core.events import CancelMode, Event, MarkedAs
from saga.core.fold import fold
from saga.core.history import History
from saga.core.identity import ID_BYTES_MAX, Instant, MessageId, SagaId, StepId
from saga.core.intents import Noted, Verdict
from saga.core.state import SagaState
from saga.core.status import StepStatus
from saga.core.texts import described
from saga.core.values import value
from saga.core.words import told
from saga.errors import CorruptHistory
from saga.runtime.router import abandons, command_fact
from saga.runtime.saga_cache import UnloadableSaga, loaded_without_code, revive, without_code
from saga.users_code import is_ours

STANDING_STILL: Final = (
    *(CommandAct.RELEASE, CommandAct.RETRY, CommandAct.SKIP),
    *(CommandAct.COMPENSATE, CommandAct.ABANDON),
)
"""In the order in which to think of them for a saga that stands still."""
ALL: Final = (
    *(CommandAct.RELEASE, CommandAct.RETRY, CommandAct.SKIP, CommandAct.MARK),
    *(CommandAct.FIRE_TIMER, CommandAct.MOVE_TIMER, CommandAct.RESUME, CommandAct.PAUSE),
    *(CommandAct.CANCEL, CommandAct.COMPENSATE, CommandAct.ABANDON, CommandAct.RERUN),
)
TRIED_MAX: Final = 20
"""Of the steps, and of the timers, that an act may be about."""
_OVER: Final = frozenset({StepStatus.DONE, StepStatus.UNDONE})
_REFUSED: Final = frozenset({Verdict.REFUSED, Verdict.AFTER_END})
_TRIAL: Final = MessageId("trial")


@value(kw_only=True)
class PossibleAct:
    """An act that a saga would take now; *does* is what would follow, in words."""

    act: CommandAct
    does: str
    step: str | None = None
    state: MarkedAs | None = None
    timer: str | None = None
    mode: CancelMode | None = None


@value(kw_only=True)
class Tried:
    """What would follow, or why the saga would refuse an act, or would not take it before that."""

    does: str = ""
    refusal: str | None = None
    waits: str | None = None


def possible_acts(
    sagas: SagaRegistry | None,
    saga_id: SagaId,
    history: History,
    at: Instant,
    *,
    of: Sequence[CommandAct] = STANDING_STILL,
) -> Iterator[PossibleAct]:
    """The acts that a saga would take now, each with what it is about and what it would do."""
    state = fold(saga_id, history)
    for act in of:
        for about in _about(act, state):
            is_entered = about.get("state") is MarkedAs.DONE
            if is_entered:  # the reply is for people to say: whether it may be said is asked
                step = state.steps[StepId(about["step"])]
                if marks.why_not_done(state, step) is None:
                    does = f"settles {step.id} as done, with the reply that you enter"
                    yield PossibleAct(act=act, does=does, **about)
                continue
            tried = try_on(sagas, history, _command(act, saga_id, state, at, about), at)
            if tried.refusal is None and tried.waits is None:
                yield PossibleAct(act=act, does=tried.does, **about)


def _about(act: CommandAct, state: SagaState) -> list[dict[str, Any]]:
    """What an act may be about: steps, timers, ways to cancel; else just the saga."""
    steps = [step.id for step in state.steps.values() if step.status not in _OVER][:TRIED_MAX]
    match act:
        case CommandAct.RETRY | CommandAct.SKIP:
            return [{"step": step} for step in steps]
        case CommandAct.MARK:
            return [{"step": step, "state": each} for step in steps for each in MarkedAs]
        case CommandAct.FIRE_TIMER | CommandAct.MOVE_TIMER:
            return [{"timer": timer} for timer in list(state.timers)[:TRIED_MAX]]
        case CommandAct.CANCEL:
            return [{"mode": CancelMode.GRACEFUL}, {"mode": CancelMode.IMMEDIATE}]
    return [{}]


def _command(
    act: CommandAct, saga_id: SagaId, state: SagaState, at: Instant, about: dict[str, Any]
) -> Command:
    more: dict[str, Any] = {}
    if act is CommandAct.RERUN:
        more = {"definition": _TRIAL, "key": f"another than {state.key}"[:ID_BYTES_MAX]}
    elif act is CommandAct.MOVE_TIMER:
        more = {"due_at": at}
    elif act is CommandAct.MARK:
        more = {"evidence": _TRIAL}
    said: dict[str, Any] = {"command_id": _TRIAL, "act": act, "saga_id": saga_id, "reason": _TRIAL}
    return Command(**said, **about, **more)


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
        needs_none = abandons(fact) or command.act is CommandAct.RERUN
        found = without_code(saga) if needs_none else None
        if found is None:
            return Tried(waits=saga.reason)
        saga = found
    try:
        decision = saga.decider.handle(saga.state, Event(fact, at, MessageId(command.command_id)))
    except BaseException as error:  # users' code, which is asked behind every refusal
        if is_ours(error):
            raise
        return Tried(does=f"its code raises {described(error)}, which parks it")
    finally:
        saga.let_go()
    match decision.intents:
        case [Noted(verdict=verdict, detail=detail), *_] if verdict in _REFUSED:
            return Tried(refusal=detail)
    return Tried(does=told(decision.intents, fact))
