"""Handlers that Python hands over: which event each takes, read from its annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, get_type_hints

from saga.authoring.graphs.output import Output
from saga.authoring.source import place_of, referenced_contracts
from saga.contracts import Event, is_contract
from saga.core.values import value
from saga.errors import DefinitionError


@value
class EventHandler:
    """A pure function of an event, and the name under which a file may list it."""

    name: str
    module: str
    event: type[Event]
    function: Callable[[Any], Output]

    @property
    def source(self) -> Callable[..., Any]:
        """The function as it is written, also where it is a method."""
        function: Callable[..., Any] = getattr(self.function, "__func__", self.function)
        return function

    @property
    def where(self) -> str:
        return place_of(self.function)

    def names(self) -> frozenset[type]:
        """The events and intents that its source names."""
        return referenced_contracts(self.source)


def handlers_of(given: Iterable[object]) -> tuple[EventHandler, ...]:
    """The handlers among what `contract(handlers=[…])` was given.

    Raises:
        DefinitionError: one cannot be called with an event; names file and line.
    """
    found: dict[type[Event], EventHandler] = {}
    for each in given:
        handler = _handler(each)
        known = found.get(handler.event)
        if known is not None:
            raise DefinitionError(
                f"{handler.name} and {known.name} both handle {handler.event.__name__}: an event "
                f"has one handler",
                where=handler.where,
            )
        found[handler.event] = handler
    return tuple(found.values())


def _handler(given: object) -> EventHandler:
    owner = given if inspect.isfunction(given) else type(given)
    function: Any = given if inspect.isfunction(given) else getattr(given, "handle", None)
    if isinstance(given, type) or function is None or not callable(function):
        raise DefinitionError(
            f"handlers=[{given!r:.100}]: expected a function (event) -> Output, or an object with "
            f"such a method `handle`"
        )
    name, where = owner.__qualname__, place_of(function)
    if inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"{name} is async: a handler decides at once, and purely, so it is a plain `def`",
            where=where,
        )
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 1:
        raise DefinitionError(f"{name} takes exactly one argument, the event", where=where)
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise DefinitionError(
            f"{name}: an annotation cannot be found: {error}", where=where
        ) from None
    event: Any = hints.get(parameters[0].name)
    if not (is_contract(event) and issubclass(event, Event)):
        raise DefinitionError(
            f"{name}: annotate its argument with the class of the event that it handles, as in "
            f"`def handle(self, event: OrderPlaced) -> Output`",
            where=where,
        )
    returned = hints.get("return", Output)
    if returned is not Output:
        raise DefinitionError(f"{name} gives {returned!r:.60}: expected Output", where=where)
    return EventHandler(name, owner.__module__, event, function)
