"""What was decided in a turn, in words: for receipts of acts, and for what an act would do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from saga.core import events, intents
from saga.core.intents import TimerPurpose

NAMED_MAX: Final = 10
"""So many decisions are told of; a turn may have hundreds."""
_NOTHING: Final = "is recorded; nothing follows from it at once"


def told(decided: Collection[intents.Intent], fact: events.Fact | None = None) -> str:
    """What follows from a turn, as `issues pay/do/3; plans the rollback of reserve, pay`."""
    match fact:
        case events.OperatorActed(act=events.Act.RERUN):
            return f"starts the saga of key {fact.key} ({fact.saga_id})"
        case events.OperatorActed(act=events.Act.FIRE_TIMER):
            return "has the timer fire now"
        case events.Migrated():
            return f"goes on with version {fact.definition_version}"
        case events.Paused():
            return "records what comes, which acts when it is resumed"
        case events.CancelRequested() if not decided:
            return "rolls back once what is in flight has settled"
        case events.OperatorActed(act=events.Act.RELEASE) if not decided:
            return "goes on where it stood; what was deferred follows"
    tellers = ((_TELLERS.get(type(intent)), intent) for intent in decided)
    sentences = list(dict.fromkeys(filter(None, (tell(each) for tell, each in tellers if tell))))
    if len(sentences) > NAMED_MAX:
        sentences[NAMED_MAX:] = [f"and {len(sentences) - NAMED_MAX} more"]
    return "; ".join(sentences) or _NOTHING


def _planned(plan: intents.RollbackPlanned) -> str:
    steps = ", ".join(planned.step for planned in plan.steps)
    if plan.scope is not None:
        return f"leaves scope {plan.scope}, and plans to undo {steps or 'nothing'}"
    return f"plans the rollback of {steps}" if steps else "rolls back: there is nothing to undo"


def _due(due: intents.RollbackDue) -> str:
    what = "rolls back" if due.scope is None else f"undoes scope {due.scope}"
    return f"{what} once what is in flight has settled"


def _armed(timer: intents.TimerArmed) -> str | None:
    match timer.purpose:
        case TimerPurpose.SLEEP:
            return f"sleeps: {timer.target}"
        case TimerPurpose.RETRY:
            return f"tries {timer.target} again later"
    return None


def _with_residue(text: str, residue: Iterable[str] | None) -> str:
    left = ", ".join(residue or ())
    return f"{text}; not undone: {left}" if left else text


_TELLERS: Final[dict[type, Callable[[Any], str | None]]] = {
    intents.IntentIssued: lambda it: f"issues {it.step}/{it.direction.value}/{it.attempt}",
    intents.StepSettled: lambda it: f"settles {it.step} as {it.status.value}",
    intents.BranchDropped: lambda it: "drops " + ", ".join((*it.steps, *it.sleeps, *it.waits)),
    intents.EventPublished: lambda it: f"publishes {it.contract}",
    intents.IntentTold: lambda it: f"tells {it.step}",
    intents.TimerArmed: _armed,
    intents.TimerMoved: lambda it: f"moves {it.timer_id}",
    intents.SignalAwaited: lambda it: f"waits for signal {it.name}",
    intents.RollbackDue: _due,
    intents.RollbackPlanned: _planned,
    intents.UndoAppended: lambda it: f"adds {it.step} to the rollback",
    intents.ScopeUndone: lambda it: _with_residue(f"has undone scope {it.scope}", it.residue),
    intents.SagaParked: lambda it: f"parks: {it.reason}",
    intents.SagaResumed: lambda _: "is parked no more",
    intents.SagaFinishing: lambda _: "is through, and settles what it gave up",
    intents.SagaCompleted: lambda it: _with_residue("completes", it.residue),
    intents.SagaRolledBack: lambda it: _with_residue("is rolled back", it.residue),
    intents.SagaCleanedUp: lambda it: _with_residue("is cleaned up", it.residue),
    intents.SagaAbandoned: lambda it: _with_residue("is abandoned", it.residue),
}
