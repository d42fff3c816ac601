"""What a state gives back beside the next one: what is to be done, as values.

The verbs are those of `Context`. Nothing here acts; an intent by itself is `do(intent)`, an event
by itself is published, and beside a final state it is the outcome.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, TypeVar

from saga.authoring.machines.states import State
from saga.authoring.steps import StepKindName, UndoOf, UndoSpec
from saga.contracts import Event, Intent
from saga.core.durations import Duration
from saga.core.retry import Retry
from saga.core.values import value


@value
class StepDone:
    """The end of a step whose intent has no reply of its own, or of a child without an outcome.

    *step* names it; *intent* is what was issued, of a child the event that began it.
    """

    step: str = ""
    intent: Intent[Any] | Event | None = None


@value(kw_only=True)
class Do:
    intent: Intent[Any]
    undo: UndoSpec | None = None
    id: str | None = None
    kind: StepKindName | None = None
    retry: Retry | None = None
    timeout: Duration | None = None
    undo_retry: Retry | None = None


@value
class Publish:
    event: Event


@value(kw_only=True)
class StartChild:
    trigger: Event
    outcome: type[Event] | None
    timeout: Duration | None
    id: str | None


@value
class Tell:
    intent: Intent[Any]


@value
class Answer:
    value: object


@value
class Refuse:
    code: str
    message: str


@value
class Drop:
    step: str


@value
class Continue:
    trigger: Event


Act: TypeAlias = (
    Intent[Any] | Event | Do | Publish | StartChild | Tell | Answer | Refuse | Drop | Continue
)
ACT_CLASSES: Final = (
    *(Intent, Event, Do, Publish, StartChild, Tell, Answer, Refuse, Drop, Continue),
)
Acts: TypeAlias = Act | tuple[Act, ...]
"""What `enter` gives: one act, several, or `()`."""

S = TypeVar("S", bound=State)
ReplyT = TypeVar("ReplyT", bound=Event | None)
Next: TypeAlias = S | tuple[S, *tuple[Act, ...]]
"""What `handle` gives: a state, alone or followed by acts."""


def do(
    intent: Intent[ReplyT],
    *,
    undo: UndoOf[ReplyT] | None = None,
    id: str | None = None,
    kind: StepKindName | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    undo_retry: Retry | None = None,
) -> Do:
    """Have a service do something; its reply comes to `handle`. As `Context.do`."""
    return Do(
        intent=intent,
        undo=undo,
        id=id,
        kind=kind,
        retry=retry,
        timeout=timeout,
        undo_retry=undo_retry,
    )


def publish(event: Event) -> Publish:
    """Tell everybody a fact; beside a final state it is not the outcome. As `Context.publish`."""
    return Publish(event)


def child(
    trigger: Event,
    *,
    outcome: type[Event] | None = None,
    timeout: Duration | None = None,
    id: str | None = None,
) -> StartChild:
    """Start another saga; its outcome comes to `handle`. As `Context.child`."""
    return StartChild(trigger=trigger, outcome=outcome, timeout=timeout, id=id)


def tell(intent: Intent[Any]) -> Tell:
    """Have a service do something of which no answer is waited for. As `Context.tell`."""
    return Tell(intent)


def answer(value: object = None) -> Answer:
    """Answer the update that is handled, with what JSON can say, a model too."""
    return Answer(value)


def refuse(code: str, message: str = "") -> Refuse:
    """Say no to the update that is handled: *code* for programs, *message* for people."""
    return Refuse(code, message)


def drop(step: str) -> Drop:
    """Give up a step by its id: what it may have done is undone, its reply is not delivered."""
    return Drop(step)


def continue_as_new(trigger: Event) -> Continue:
    """Beside a final state: end this run, and begin the next. As `Context.continue_as_new`."""
    return Continue(trigger)
