"""What a saga's function can wait for. Each is awaited once; awaiting hands it to the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter

from saga.contracts import Intent
from saga.core.events import Message
from saga.core.identity import StepId
from saga.core.retry import Retry
from saga.core.status import StepKind
from saga.errors import DefinitionError

T = TypeVar("T")
UndoSpec = type[Intent[Any]] | Callable[[Any, Any], Intent[Any]]


@dataclass(slots=True, eq=False)
class Call(Generic[T]):
    """Something the function asked for. *number*: in which order it was awaited; 0 before that."""

    number: int = field(default=0, init=False)

    def __await__(self) -> Generator[Call[Any], T, T]:
        return (yield self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            if name.startswith("_"):
                raise AttributeError(name)
            raise DefinitionError(
                f"{self} has no {name!r} before it is awaited: write `(await {self}).{name}`"
            )


@dataclass(slots=True, eq=False)
class StepCall(Call[T]):
    """A step, issued when it is awaited, and its policy; *replied* is *reply* once it is read."""

    step: StepId
    message: Message
    kind: StepKind
    retry: Retry
    timeout_us: int | None
    undo_retry: Retry | None
    intent: Intent[Any]
    undo: UndoSpec | None
    group: str | None = None
    reply: Message | None = None
    replied: BaseModel | None = None

    def __str__(self) -> str:
        return f"ctx.do({type(self.intent).__name__}(…))"


@dataclass(slots=True, eq=False)
class SleepCall(Call[None]):
    name: str
    length_us: int

    def __str__(self) -> str:
        return "ctx.sleep(…)"


@dataclass(slots=True, eq=False)
class WaitCall(Call[T]):
    wait: str
    name: str
    adapter: TypeAdapter[T]
    timeout_us: int | None

    def __str__(self) -> str:
        return f"ctx.wait({self.name!r})"


@dataclass(slots=True, eq=False)
class DoneCall(Call[None]):
    """Something that has happened already; awaiting it goes on at once."""

    def __await__(self) -> Generator[Call[Any], None, None]:
        yield from ()


Branch = Call[Any] | Coroutine[Any, Any, Any]


@dataclass(slots=True, eq=False)
class GroupCall(Call[Any]):
    """Several branches side by side: all of them, or whichever succeeds first."""

    group: str
    branches: tuple[Branch, ...]
    takes_first: bool

    def __str__(self) -> str:
        return f"ctx.{'any' if self.takes_first else 'all'}(…)"
