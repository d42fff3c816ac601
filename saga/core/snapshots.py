"""Snapshots: a saga's state as data, which spares whoever loads it the turns that led to it.

Theory of operation: what is written is all that two equal states have in common, and beside it what
the program says of itself. A state that does not follow from its entries alone, or whose program is
no data, has no snapshot; its history is always there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from saga.core.events import ReplyReceived
from saga.core.identity import IntentName, SagaId, StepId, parse_intent_id
from saga.core.plain import Plain, plain_object, plain_of
from saga.core.program import Definition
from saga.core.state import SagaState

FORMAT: Final = 1
"""Raised with every change of what is written, here or by a front-end: others are not read."""


def snapshot_of(state: SagaState) -> dict[str, Any] | None:
    """*state* between two turns, as JSON has it; None where it cannot be told whole."""
    program = state.program
    is_more = state.pause or state.late or state.is_ahead or state.unarmed or state.untold
    if program is None or state.trigger is None or is_more:
        return None
    told = program.snapshot()
    return None if told is None else {"program": told, "state": _STATE.write(state)}


def restored(definition: Definition, saga_id: SagaId, snapshot: Mapping[str, Any]) -> SagaState:
    """The state of which `snapshot_of` gave *snapshot*, with a program of *definition*.

    Raises:
        Exception: it is none, or none of this saga.
    """
    state: SagaState = _STATE.read(snapshot["state"])
    if state.saga_id != saga_id or state.trigger is None:
        raise ValueError(f"it is of saga {state.saga_id}")
    state.in_flight = {each: state.steps[each] for each in state.in_flight}
    state.undoing = {each: state.steps[each] for each in state.undoing}
    if state.run is not None:
        state.run.definition = definition
    program = definition.program(saga_id, state.key, state.run_number)
    program.restore(snapshot["program"], state.trigger)
    state.program = program
    return state


def _read_replies(told: Iterable[Mapping[str, Any]]) -> dict[IntentName, ReplyReceived]:
    """What intents were answered says itself which ones."""
    replies: dict[IntentName, ReplyReceived] = {}
    for each in map(_REPLY.read, told):
        name = parse_intent_id(each.intent_id)
        assert name is not None, each
        replies[name] = each
    return replies


_REPLY: Final = plain_of(ReplyReceived)
_STEP_IDS: Final = Plain(list[StepId], dict.fromkeys)
"""Of steps that are kept by their ids, too."""
_STATE: Final = plain_object(
    SagaState,
    replies=Plain(lambda replies: [*map(_REPLY.write, replies.values())], _read_replies),
    in_flight=_STEP_IDS,
    undoing=_STEP_IDS,
)
