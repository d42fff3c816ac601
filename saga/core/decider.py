"""A decider: the one value that every way of writing a saga becomes, and the runtime runs.

`handle(state, event)` is synchronous and pure but for the state it is given and gives back: no
await stands between an event and the intents it leads to. A turn that was recorded is handled by
the same function, which is told what was recorded for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

from saga.core.events import Event
from saga.core.identity import SagaId
from saga.core.intents import Continued, Intent
from saga.core.program import Contracts, Line
from saga.core.state import SagaState
from saga.core.values import value


class Disposition(StrEnum):
    RECORDED = "recorded"
    """It is appended, with the intents it led to."""
    DUPLICATE = "duplicate"
    """The saga has it already: counted, no entry."""
    CONFLICT = "id_conflict"
    """The saga has another content under the same id: the record is a dead letter."""
    KEY_TAKEN = "key_taken"
    """Another trigger, of another content, has begun the saga of this key: a dead letter."""
    AFTER_END = "after_end"
    """An event of others, for a saga that has ended: counted, no entry."""
    NO_NEWS = "no_news"
    """It changes nothing now: counted, no entry."""
    UNKNOWN = "unknown_intent"
    """It answers an intent that was never issued: the record is a dead letter."""


RECORDED: Final = Disposition.RECORDED


class Decision(Protocol):
    """The state after an event, and what was decided on the way to it."""

    @property
    def state(self) -> SagaState: ...

    @property
    def intents(self) -> list[Intent]: ...

    @property
    def lines(self) -> Sequence[Line] | None:
        """What it wants to say to a log, once it is stored."""

    @property
    def disposition(self) -> Disposition: ...


class Handle(Protocol):
    """What was *recorded* for a turn stands where today's code may judge otherwise."""

    def __call__(
        self, state: SagaState, event: Event, recorded: Sequence[Intent] | None = None
    ) -> Decision: ...


class BeginRun(Protocol):
    """Take what a turn decided from the entry *continued* on, where nothing before it is known."""

    def __call__(
        self, state: SagaState, event: Event, continued: Continued, recorded: Sequence[Intent]
    ) -> Decision: ...


@value
class Decider:
    """*restored* makes a state of what `snapshot_of` has told, by code of this hash.

    Whatever it raises, it is none.
    """

    name: str
    version: int
    fingerprint: str
    code: str
    initial_state: Callable[[SagaId], SagaState]
    handle: Handle
    begin_run: BeginRun
    contracts: Contracts
    restored: Callable[[SagaId, Mapping[str, Any]], SagaState]
