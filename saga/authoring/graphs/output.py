"""What a handler gives back: events and intents, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from saga.contracts import Event, Intent
from saga.errors import DefinitionError, OrchestratorOutputError


class Output:
    """Facts that are published at once, and intents for the nodes whose `intent_filter` takes them.

    An orchestrator has no result: its end is told by its outcome, and facts by events.
    """

    __slots__ = ("events", "intents")
    result: Final = None
    """What no orchestrator has."""

    def __init__(
        self, *, events: Sequence[Event] = (), intents: Sequence[Intent[Any]] = ()
    ) -> None:
        self.events = tuple(events)
        self.intents = tuple(intents)
        for event in self.events:
            if not isinstance(event, Event):
                raise DefinitionError(f"Output(events=…): {type(event).__name__} is no Event")
        for intent in self.intents:
            if not isinstance(intent, Intent):
                raise DefinitionError(f"Output(intents=…): {type(intent).__name__} is no Intent")

    if not TYPE_CHECKING:
        _checked_init = __init__

        def __init__(self, *args: object, **fields: object) -> None:
            for field in fields:
                if field not in ("events", "intents"):
                    raise OrchestratorOutputError(field)
            if args:
                raise OrchestratorOutputError(type(args[0]).__name__)
            self._checked_init(**fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Output):
            return NotImplemented
        return (self.events, self.intents) == (other.events, other.intents)

    def __hash__(self) -> int:
        return hash((self.events, self.intents))

    def __repr__(self) -> str:
        return f"Output(events={list(self.events)}, intents={list(self.intents)})"
