"""What a saga's function can wait for. Each is awaited once; awaiting hands it to the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from pydantic import BaseModel, TypeAdapter

from saga.authoring.requests import Request
from saga.authoring.steps import AuthoredStep, ChildStep
from saga.contracts import Event
from saga.core.events import Arrival, Message
from saga.core.identity import Instant
from saga.core.program import Await, Signal
from saga.errors import DefinitionError

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


class Call(Generic[T]):
    """Something the function asked for. *number*: in which order it was awaited; 0 before that."""

    number: int

    def __await__(self) -> Generator[Call[Any], T, T]:
        return (yield self)

    if not TYPE_CHECKING:
        __slots__ = ()  # each kind has its own, and a step those of its command


def unawaited(error: E) -> E | DefinitionError:
    """*error* itself, or, where a call was taken for its result, what to write instead."""
    if not (isinstance(error, AttributeError) and isinstance(error.obj, Call)):
        return error
    call, name = error.obj, error.name
    problem = f"{call} has no {name!r} before it is awaited: write `(await {call}).{name}`"
    return DefinitionError(problem).with_traceback(error.__traceback__)


class StepCall(Call[T], AuthoredStep):
    """A step, issued when it is awaited."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"ctx.do({type(self.intent).__name__}(…))"


class ChildCall(StepCall[T], ChildStep):
    """A step that starts another saga."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"ctx.child({type(self.intent).__name__}(…))"


@dataclass(slots=True, eq=False)
class SleepCall(Call[None]):
    """Ends *length_us* after it began, or at a moment."""

    name: str
    length_us: int = 0
    until: Instant | None = None
    number: int = field(default=0, init=False)

    def __str__(self) -> str:
        return "ctx.sleep(…)" if self.until is None else "ctx.sleep_until(…)"


@dataclass(slots=True, eq=False)
class WaitCall(Call[T]):
    wait: str
    name: str
    adapter: TypeAdapter[T]
    timeout_us: int | None
    number: int = field(default=0, init=False)

    def awaits(self) -> Await:
        return Await(self.wait, self.timeout_us, signals=(self.name,))

    def __str__(self) -> str:
        return f"ctx.wait({self.name!r})"


@dataclass(slots=True, eq=False)
class UpdateCall(Call[Request[T]]):
    """The next update of a name; *place* is where the function asks for it."""

    wait: str
    name: str
    adapter: TypeAdapter[T]
    timeout_us: int | None
    place: str
    number: int = field(default=0, init=False)

    def awaits(self) -> Await:
        return Await(self.wait, self.timeout_us, updates=(self.name,))

    def __str__(self) -> str:
        return f"ctx.update({self.name!r})"


@dataclass(slots=True, eq=False)
class NextCall(Call[T]):
    """The next event of some classes; *read* is the one that was looked at last."""

    wait: str
    name: str
    classes: tuple[type[Event], ...]
    contracts: tuple[str, ...]
    where: Callable[[Any], object] | None
    selects: bool
    timeout_us: int | None
    number: int = field(default=0, init=False)
    read: tuple[Arrival, BaseModel] | None = field(default=None, init=False)

    def awaits(self) -> Await:
        contracts, selects = self.contracts, self.selects
        return Await(self.wait, self.timeout_us, contracts=contracts, selects=selects)

    def __str__(self) -> str:
        return f"ctx.next({', '.join(each.__name__ for each in self.classes)})"


Waiting = WaitCall[Any] | NextCall[Any] | UpdateCall[Any]
"""What ends with something that arrives."""


@dataclass(slots=True, eq=False)
class SignalCall(Call[None]):
    """A signal to another saga, sent when it is awaited."""

    signal: Signal
    number: int = field(default=0, init=False)

    def __str__(self) -> str:
        return f"ctx.signal({self.signal.definition!r}, …)"


@dataclass(slots=True, eq=False)
class DoneCall(Call[None]):
    """Something that has happened already; awaiting it goes on at once."""

    number: int = field(default=0, init=False)

    def __await__(self) -> Generator[Call[Any], None, None]:
        yield from ()


@dataclass(slots=True, eq=False)
class ContinueCall(Call[NoReturn]):
    """The end of a run; whoever awaits it never goes on."""

    trigger: Message
    number: int = field(default=0, init=False)

    def __str__(self) -> str:
        return "ctx.continue_as_new(…)"


Branch = Call[Any] | Coroutine[Any, Any, Any]


@dataclass(slots=True, eq=False)
class GroupCall(Call[Any]):
    """Several branches side by side, at most *at_once* of them at one time.

    The first *needed* successes decide it, or that so many are out of reach; where it
    *waits_for_all*, the end of all branches.
    """

    group: str
    branches: tuple[Branch, ...]
    needed: int
    waits_for_all: bool = False
    gives_one: bool = False
    """Its result is that of its only success, and not those of several."""
    at_once: int | None = None
    number: int = field(default=0, init=False)

    def __str__(self) -> str:
        return f"ctx.{self.group.partition('-')[0]}(…)"
