"""`async with ctx.scope():`, a part of a saga's function that is undone when a failure leaves it.

A scope belongs to the coroutine that has entered it. Steps belong to the innermost one that is open
where they are issued, and so do branches with all that they do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from saga.authoring.failures import FAILURES, fail_of
from saga.authoring.functions.calls import Call
from saga.core.program import DoStep, Fail
from saga.core.status import StepKind
from saga.errors import DefinitionError

NAME_CHARS_MAX = 2_000
"""Of a scope with all those around it: every entry of its steps has it."""


class Owner(Protocol):
    """A coroutine; *scope*: the innermost one that it has entered, or was begun in."""

    scope: Scope | None


class Keeper(Protocol):
    """Who knows which coroutine runs."""

    def entered(self, scope: Scope) -> Owner:
        """The coroutine that enters *scope*; DefinitionError where another one has its name."""

    def left(self, scope: Scope) -> bool:
        """Note that *scope* is over; whether its coroutine may still ask for something."""


class Scope:
    """Enter it once, with `async with`."""

    __slots__ = ("_keeper", "id", "is_open", "name", "outer", "owner")

    def __init__(self, id: str, keeper: Keeper) -> None:
        self._keeper = keeper
        self.id = id
        self.name = ""
        """Behind those of the scopes around it: `trip/hotel`."""
        self.outer: Scope | None = None
        self.owner: Owner | None = None
        """The coroutine that has entered it."""
        self.is_open = False

    def __str__(self) -> str:
        return "ctx.scope()"

    async def __aenter__(self) -> None:
        if self.owner is not None:
            raise DefinitionError("one ctx.scope() was entered twice: make one for each time")
        self.owner = self._keeper.entered(self)
        self.is_open = True
        self.owner.scope = self

    async def __aexit__(
        self,
        _: type[BaseException] | None,
        failure: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        is_heard = self._keeper.left(self)
        self.is_open = False
        if self.owner is not None:
            self.owner.scope = innermost(self.owner.scope)
        if is_heard and isinstance(failure, FAILURES):
            await Leaving(self.name, fail_of(failure))

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            raise DefinitionError(f"a scope is entered, not awaited: {ADVICE}")

        def __enter__(self) -> NoReturn:
            raise DefinitionError(f"a scope waits until it is undone: {ADVICE}")

        def __exit__(self, *_: object) -> None:
            """Never called, as nobody enters; without it Python says something else."""


ADVICE = "write `async with ctx.scope():`"


@dataclass(slots=True, eq=False)
class Leaving(Call[None]):
    """Ends when the scope is undone."""

    scope: str
    failure: Fail
    number: int = field(default=0, init=False)

    def __str__(self) -> str:
        return "ctx.scope()"


def innermost(scope: Scope | None) -> Scope | None:
    """*scope*, or the nearest one around it that is open."""
    while scope is not None and not scope.is_open:
        scope = scope.outer
    return scope


def name_in(scope: Scope, outer: Scope | None) -> str:
    name = scope.id if outer is None else f"{outer.name}/{scope.id}"
    if len(name) > NAME_CHARS_MAX:
        raise DefinitionError(
            f"scopes stand too deep within each other: their names have {len(name)} characters, "
            f"at most {NAME_CHARS_MAX} are possible"
        )
    return name


def take_in(scope: Scope, step: DoStep) -> None:
    """Have *step* belong to *scope*, or the nearest one around it that is open."""
    open_scope = innermost(scope)
    if open_scope is None:
        return
    if step.kind is StepKind.PIVOT:
        raise DefinitionError(
            f"step {step.step!r} is a pivot, behind which nothing is undone, and "
            f"{open_scope} is there to be undone: issue it outside of the scope"
        )
    step.scope = open_scope.name


def advice(forgotten: Call[Any] | Scope) -> str:
    """What to say of what was made and never used."""
    if isinstance(forgotten, Scope):
        return f"ctx.scope() was never entered, so it undoes nothing: {ADVICE}"
    return (
        f"{forgotten} was never awaited, so nothing came of it: write `await {forgotten}`, or "
        f"make the call only where it is awaited"
    )
