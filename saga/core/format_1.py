"""Histories begun before 0.1.0: what stands for their entries today, and what they left unsaid.

Theory of operation: their turns did not say where a step was settled, what a race dropped, or that
a saga went on. A replay decides that anew and misses nothing. Whoever has no code infers where the
steps stand; this module alone guesses, and only where `saga-started` says `format` 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from saga.core import events, intents
from saga.core.events import Event
from saga.core.identity import UNDO, Direction, IntentId, parse_intent_id
from saga.core.state import SagaState, Step
from saga.core.status import SagaStatus, StepStatus

FORMAT_1: Final = 1

_UNKNOWN_THEN = (
    intents.StepSettled,
    intents.BranchDropped,
    intents.SagaResumed,
    intents.SagaFinishing,
)
_WITHOUT_EFFECT = frozenset(
    {intents.Verdict.SUPERSEDED, intents.Verdict.CONFLICTING, intents.Verdict.REFUSED}
)
_OPEN = frozenset({StepStatus.ISSUED, StepStatus.IN_DOUBT, StepStatus.FAILED})
_NOT_DONE = _OPEN | {StepStatus.REFUSED}
_LEFT_STANDING = frozenset({StepStatus.UNDO_STUCK, StepStatus.SKIPPED})
_BEING_UNDONE = frozenset({StepStatus.UNDOING, StepStatus.UNDO_STUCK})


def upgrade_plain(name: str, plain: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and plain form that stand for an old entry; *plain* is used up."""
    match name:
        case "saga-started":
            plain["format"] = FORMAT_1
        case "intent-issued":
            plain.pop("group", None)
        case "undo-stuck":
            plain |= {"direction": Direction.UNDO.value, "status": StepStatus.UNDO_STUCK.value}
            return "step-settled", plain
        case "rollback-planned" if "groups" in plain:
            plain["steps"] = _steps_of_groups(plain.pop("groups"))
        case _:
            pass
    return name, plain


def as_then(intent: intents.Intent) -> intents.Intent:
    """A decision of today in the words of format 1."""
    match intent:
        case intents.SagaParked():
            return intents.SagaParked(reason=intent.reason)
        case intents.SagaCompleted():
            return intents.SagaCompleted(outcome=intent.outcome)
        case intents.SignalAwaited():
            return intents.SignalAwaited(wait=intent.wait, name=intent.name)
        case _:
            return intent


def may_be_missing(intent: intents.Intent, state: SagaState) -> bool:
    """Whether a turn of format 1 that led to *state* could leave *intent* unsaid."""
    if isinstance(intent, intents.SignalAwaited):
        return intent.wait not in state.waited
    return isinstance(intent, _UNKNOWN_THEN)


def take_unsaid(state: SagaState, event: Event, decided: Sequence[object]) -> None:
    """Infer where a turn of format 1 has left the steps, once all that it says has its effect."""
    verdicts = {body.verdict for body in decided if isinstance(body, intents.Noted)}
    match event.fact:
        case events.ReplyReceived() as fact if not verdicts & _WITHOUT_EFFECT:
            _replied(state, fact)
        case events.TimerFired(timer_id=timer_id):
            step = _issued_step(state, timer_id, intents.TimerPurpose.DEADLINE)
            if step is not None:
                state.stand(step, StepStatus.IN_DOUBT)
        case events.OperatorActed(act=events.Act.SKIP, step=named) if not verdicts:
            for step in state.steps.values():
                if step.status in _BEING_UNDONE and named in (None, step.id):
                    state.stand(step, StepStatus.SKIPPED)
    if _has_gone_on(state, event.fact, verdicts, decided):
        state.status, state.reason = state.before_parking
    _take_decided(state, decided)


def _take_decided(state: SagaState, decided: Sequence[object]) -> None:
    reissued = {body.step for body in decided if isinstance(body, intents.IntentIssued)}
    for body in decided:
        match body:
            case intents.TimerCancelled(timer_id=timer_id):
                stopped = _issued_step(state, timer_id, intents.TimerPurpose.RETRY)
                if stopped is not None and stopped.id not in reissued:
                    state.stand(stopped, StepStatus.FAILED)
            case intents.UndoAppended(step=step_id) if step_id not in reissued:
                state.stand(state.steps[step_id], StepStatus.DONE)
            case intents.RollbackPlanned(goal=intents.RollbackGoal.ROLLED_BACK):
                _close(state, StepStatus.ISSUED, StepStatus.IN_DOUBT)
            case intents.SagaAbandoned():
                _close(state, StepStatus.ISSUED, StepStatus.IN_DOUBT)
                _close(state, StepStatus.UNDOING, StepStatus.SKIPPED)


def _has_gone_on(
    state: SagaState, fact: events.Fact, verdicts: set[intents.Verdict], decided: Sequence[object]
) -> bool:
    """Whether a parked saga went on, as far as can be told."""
    if state.status is not SagaStatus.PARKED or state.is_poisoned:
        return False
    if any(isinstance(body, intents.SagaParked) for body in decided):
        return False
    if isinstance(fact, events.OperatorActed):
        return fact.act in {events.Act.RETRY, events.Act.SKIP} and not verdicts
    return intents.Verdict.LATE_SUCCESS in verdicts


def _replied(state: SagaState, fact: events.ReplyReceived) -> None:
    name = parse_intent_id(fact.intent_id)
    step = state.steps.get(name.step) if name is not None else None
    if name is None or step is None:
        return
    is_done = fact.outcome is events.ReplyOutcome.DONE
    if name.direction is UNDO:
        if is_done and name.attempt >= step.undo_floor and step.status in _LEFT_STANDING:
            state.stand(step, StepStatus.UNDONE)
    elif is_done and step.status in _NOT_DONE:
        state.stand(step, StepStatus.DONE)
    elif fact.outcome is events.ReplyOutcome.REFUSED and step.status in _OPEN:
        state.stand(step, StepStatus.REFUSED)
    elif step.status is StepStatus.ISSUED and not step.is_backing_off:
        state.stand(step, StepStatus.FAILED)


def _issued_step(state: SagaState, timer_id: str, purpose: intents.TimerPurpose) -> Step | None:
    """The step whose latest attempt a timer was for, if nothing is to come of that attempt."""
    intent_id, _, timer_purpose = timer_id.rpartition("/")
    name = parse_intent_id(IntentId(intent_id))
    if name is None or timer_purpose != purpose or name.direction is UNDO:
        return None
    step = state.steps.get(name.step)
    if step is None or step.status is not StepStatus.ISSUED or step.attempts != name.attempt:
        return None
    return None if step.is_backing_off else step


def _close(state: SagaState, before: StepStatus, after: StepStatus) -> None:
    for step in state.steps.values():
        if step.status is before:
            state.stand(step, after)


def _steps_of_groups(groups: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """A plan in groups, each of which waited for the one before it, as steps in order."""
    steps: list[dict[str, Any]] = []
    awaited: list[str] = []
    for group in groups:
        for step in group:
            is_default = awaited == [before["step"] for before in steps[-1:]]
            steps.append({"step": step} if is_default else {"step": step, "after": awaited})
        awaited = list(group)
    return steps
