"""What a saga's function can wait for. Each is awaited once; awaiting hands it to the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter

from saga.contracts import Contract, Intent
from saga.core.events import Message
from saga.core.identity import StepId
from saga.core.retry import Retry
from saga.core.status import StepKind

T = TypeVar("T")
UndoSpec = type[Intent[Any]] | Callable[[Any, Any], Intent[Any]]


class Call(Generic[T]):
    """Something the function asked for. *is_taken* guards against awaiting it twice."""

    __slots__ = ("is_taken",)

    def __init__(self) -> None:
        self.is_taken = False

    def __await__(self) -> Generator[Call[Any], T, T]:
        return (yield self)


class StepCall(Call[T]):
    """A step that is issued when it is awaited; it is also what the kernel asks for its policy.

    *reply* and *replied* are its reply once it is read.
    """

    __slots__ = (
        "group",
        "intent",
        "kind",
        "message",
        "replied",
        "reply",
        "reply_contract",
        "retry",
        "step",
        "timeout_us",
        "undo",
        "undo_retry",
    )

    def __init__(
        self,
        step: StepId,
        message: Message,
        kind: StepKind,
        *,
        retry: Retry,
        timeout_us: int | None,
        undo_retry: Retry | None,
        intent: Intent[Any],
        reply_contract: Contract | None,
        undo: UndoSpec | None,
    ) -> None:
        self.is_taken = False
        self.step = step
        self.message = message
        self.kind = kind
        self.retry = retry
        self.timeout_us = timeout_us
        self.undo_retry = undo_retry
        self.group: str | None = None
        self.intent = intent
        self.reply_contract = reply_contract
        self.undo = undo
        self.reply: Message | None = None
        self.replied: BaseModel | None = None


class SleepCall(Call[None]):
    """A durable sleep."""

    __slots__ = ("length_us", "name")

    def __init__(self, name: str, length_us: int) -> None:
        super().__init__()
        self.name = name
        self.length_us = length_us


class WaitCall(Call[T]):
    """A wait for a signal."""

    __slots__ = ("adapter", "name", "timeout_us", "wait")

    def __init__(
        self, wait: str, name: str, adapter: TypeAdapter[T], timeout_us: int | None
    ) -> None:
        super().__init__()
        self.wait = wait
        self.name = name
        self.adapter = adapter
        self.timeout_us = timeout_us


class DoneCall(Call[None]):
    """Something that has happened already; awaiting it goes on at once."""

    __slots__ = ()

    def __await__(self) -> Generator[Call[Any], None, None]:
        yield from ()


Branch = Call[Any] | Coroutine[Any, Any, Any]


class GroupCall(Call[Any]):
    """Several branches side by side: all of them, or whichever succeeds first."""

    __slots__ = ("branches", "group", "takes_first")

    def __init__(self, group: str, branches: tuple[Branch, ...], *, takes_first: bool) -> None:
        super().__init__()
        self.group = group
        self.branches = branches
        self.takes_first = takes_first
