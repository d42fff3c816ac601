"""Notices to effect services: nobody waits any more for the answer to this intent.

They say nothing that a service could not do without, so they are no part of a history. One that is
lost, as its worker died between commit and publish, leaves a handler that works on in vain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from saga.core.events import Fact, TimerFired
from saga.core.identity import DO, IntentId, StepId, intent_id, parse_intent_id
from saga.core.intents import BranchDropped, Intent, StepSettled, TimerPurpose, purpose_of
from saga.core.state import SagaState, Step
from saga.core.status import ISSUED, StepStatus

GIVING_UP: Final = frozenset({BranchDropped, StepSettled})
"""Decisions that may leave an intent for which nobody waits; a missed deadline is a fact."""
TIME_IS_UP: Final = "its time is up"
GIVEN_UP: Final = "its step was given up"
IN_DOUBT: Final = "its saga goes on without it"


class Notice(NamedTuple):
    intent_id: IntentId
    contract: str
    reason: str


def notices(state: SagaState, fact: Fact, decided: Sequence[Intent]) -> Iterator[Notice]:
    """For which intents nobody waits any more since this turn, which has led to *state*.

    No service works on a step that has started a child: that is told by a command. Of steps of a
    run that ended in this turn *state* knows nothing any more: their services work on in vain.
    """
    children = state.children or {}
    for step, notice in _given_up(state, fact, decided):
        if step not in children:
            yield notice


def _given_up(
    state: SagaState, fact: Fact, decided: Sequence[Intent]
) -> Iterator[tuple[StepId, Notice]]:
    missed = _missed(fact)
    name = None if missed is None else parse_intent_id(missed)
    if missed is not None and name is not None and name.step in state.steps:
        step = state.steps[name.step]
        is_do = name.direction is DO
        contract = step.contract if is_do else state.undo_contracts[step.id]
        yield step.id, Notice(missed, contract, TIME_IS_UP)
    for intent in decided:
        match intent:
            case BranchDropped(steps=steps):
                for step in filter(None, map(state.steps.get, steps)):
                    if step.status is ISSUED and not step.is_backing_off:
                        yield step.id, Notice(_latest(state, step), step.contract, GIVEN_UP)
            case StepSettled(step=id_, status=StepStatus.IN_DOUBT, direction=direction) if (
                direction is DO and missed is None and id_ in state.steps
            ):
                step = state.steps[id_]
                yield id_, Notice(_latest(state, step), step.contract, IN_DOUBT)


def _missed(fact: Fact) -> IntentId | None:
    """The intent whose deadline has passed: its timer's id is the intent's, and what it is for."""
    if type(fact) is TimerFired and purpose_of(fact.timer_id) is TimerPurpose.DEADLINE:
        return IntentId(fact.timer_id.rpartition("/")[0])
    return None


def _latest(state: SagaState, step: Step) -> IntentId:
    return intent_id(state.saga_id, step.id, DO, step.attempts)
