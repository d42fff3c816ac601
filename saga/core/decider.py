"""A decider: the one value that every way of writing a saga becomes, and the runtime runs.

`handle(state, event)` is synchronous and pure but for the state it is given and gives back: no
await stands between an event and the intents it leads to.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from saga.core.events import Event
from saga.core.identity import SagaId
from saga.core.intents import Intent
from saga.core.state import SagaState
from saga.core.values import value


class Disposition(StrEnum):
    RECORDED = "recorded"
    """It is appended, with the intents it led to."""
    DUPLICATE = "duplicate"
    """The saga has it already: counted, no entry."""
    CONFLICT = "id_conflict"
    """The saga has another content under the same id: the record is a dead letter."""
    UNKNOWN = "unknown_intent"
    """It answers an intent that was never issued: the record is a dead letter."""


RECORDED: Final = Disposition.RECORDED


@value
class Decision:
    """The state after an event, and what was decided on the way to it."""

    state: SagaState
    intents: list[Intent]
    disposition: Disposition = Disposition.RECORDED


@value
class Decider:
    name: str
    version: int
    fingerprint: str
    initial_state: Callable[[SagaId], SagaState]
    handle: Callable[[SagaState, Event], Decision]
