"""`@saga` makes a definition of a function, and refuses with file and line what cannot work."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from saga.authoring.declaration import Declaration, Listens, Surroundings, declared
from saga.authoring.definition import WhenStuck
from saga.authoring.determinism import warned_of
from saga.authoring.functions.inspection import (
    check_awaited,
    check_next,
    check_scopes,
    check_steps,
)
from saga.authoring.functions.program import FunctionProgram, SagaFunction
from saga.authoring.listening import KeySpec
from saga.authoring.messages import RolledBack
from saga.authoring.source import fingerprint, may_call, place_of, referenced_contracts
from saga.contracts import Event
from saga.core.durations import Duration
from saga.core.identity import SagaId
from saga.core.values import value
from saga.errors import DefinitionError


@value(kw_only=True)
class FunctionDefinition(Declaration):
    """A kind of saga written as a durable function."""

    function: SagaFunction

    @property
    def has_children(self) -> bool:
        """Whether its function may start other sagas, which is seen from its source."""
        return may_call(self.function, "child")

    @property
    def code(self) -> tuple[Callable[..., Any], ...]:
        return (self.function,)

    def named(self) -> frozenset[type]:
        """The events and intents that the function's source names."""
        return referenced_contracts(self.function)

    def program(self, around: Surroundings, saga_id: SagaId, key: str, run: int) -> FunctionProgram:
        return FunctionProgram(
            saga_id,
            key,
            function=self.function,
            version=self.version,
            rolled_back=self.rolled_back,
            around=around,
            run=run,
        )


def saga(
    name: str,
    *,
    version: int,
    starts_on: type[Event] | tuple[type[Event], ...],
    key: KeySpec | None = None,
    listens: Listens = (),
    rolled_back: RolledBack | None = None,
    parallel_undo: bool = False,
    when_stuck: WhenStuck = "halt",
    deadline: Duration | None = None,
) -> Callable[[SagaFunction], FunctionDefinition]:
    """Make a saga of an `async def (ctx, trigger) -> Event | None`.

    Args:
        name: every saga's id is made from it, so it is never to be changed.
        version: running sagas keep the one they began with.
        starts_on: the event, or events, that start one.
        key: a field name or a function of the trigger; by default the event's own key.
        listens: the events of other services that reach a running saga: classes, or `on(…)`.
        rolled_back: the outcome then: an event class, filled by field name from trigger and report
            (`reason`, `code`, `failed_step`, `residue`), or a function `(trigger, report)`.
        parallel_undo: undo side by side what did not depend on each other.
        when_stuck: `halt`: a step that cannot be undone parks the saga; `continue`: it is residue.
        deadline: for the whole saga, from its start: past it the saga is rolled back, with the code
            `deadline`; past the pivot that is only noted.

    Raises:
        DefinitionError: it cannot work as it is written; names file and line.
    """

    def decorate(function: SagaFunction) -> FunctionDefinition:
        said = declared(
            name,
            version=version,
            starts_on=starts_on,
            key=key,
            listens=listens,
            rolled_back=rolled_back,
            parallel_undo=parallel_undo,
            when_stuck=when_stuck,
            deadline=deadline,
            where=place_of(function),
        )
        _check_function(name, function)
        check_steps(function)
        check_next(function, [listening.event for listening in said["listens"]])
        check_awaited(function)
        check_scopes(function)
        return FunctionDefinition(
            **said,
            function=function,
            # A deadline more or less is other code; how long it is, a running saga keeps.
            fingerprint=fingerprint(function, "" if deadline is None else "deadline"),
            nondeterminism=warned_of(name, function, rolled_back),
        )

    return decorate


def _check_function(name: str, function: SagaFunction) -> None:
    where = place_of(function)
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(f"saga {name!r} must be an `async def (ctx, trigger)`", where=where)
    if len(inspect.signature(function).parameters) != len(("ctx", "trigger")):
        raise DefinitionError(
            f"saga {name!r} takes exactly two arguments: the context, the trigger", where=where
        )
