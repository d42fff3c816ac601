"""What can happen to a saga: the facts that its decider is asked about.

An `Event` is one fact with its time and its cause. Facts are a closed union; each becomes the first
entry of the turn it leads to. Payloads are opaque here: canonical JSON text of a named contract.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Final, NamedTuple, NewType

from saga.core.identity import UNDO, Instant, IntentId, MessageId, SagaId, TimerId, parse_intent_id
from saga.core.values import value

Json = NewType("Json", str)
"""Canonical JSON text: sorted keys, no spaces, no numbers that JSON does not know."""

EMPTY_JSON = Json("{}")


@value
class Message:
    """A payload and the name of its contract, for example `orders.evt.order-placed.v1`."""

    contract: str
    payload: Json


class ReplyOutcome(StrEnum):
    """How an attempt ended, in the words of the service that made it."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


REPLY_DONE: Final = ReplyOutcome.DONE
REPLY_FAILED: Final = ReplyOutcome.FAILED
"""By name, as `identity.DO` is."""


class CancelMode(StrEnum):
    GRACEFUL = "graceful"
    IMMEDIATE = "immediate"
    ABANDON = "abandon"


class Act(StrEnum):
    """What an operator can do to a saga, beside cancelling it."""

    RETRY = "retry"
    SKIP = "skip"
    COMPENSATE = "compensate"
    RELEASE = "release"
    MARK = "mark"
    RERUN = "rerun"
    FIRE_TIMER = "fire-timer"
    MOVE_TIMER = "move-timer"


class MarkedAs(StrEnum):
    """What an operator has found a step to be."""

    DONE = "done"
    UNDONE = "undone"


@value
class Parent:
    """The step of another saga that has started this one, and the business key of that saga."""

    intent_id: IntentId
    key: str


@value
class SagaStarted:
    """A trigger arrived; says which definition is to decide the saga."""

    definition: str
    definition_version: int
    fingerprint: str
    key: str
    trigger: Message
    traceparent: str | None = None
    format: int | None = None
    """1 in a history that was begun before 0.1.0, and None in others."""
    parent: Parent | None = None
    rerun_of: SagaId | None = None
    """The ended saga that an operator ran again under this key."""
    paused: bool = False
    """Whether its definition was paused: its code begins when the saga is resumed."""


@value
class ReplyReceived:
    """A service answered an intent. *reply* is there when the outcome is `done`."""

    intent_id: IntentId
    outcome: ReplyOutcome
    reply: Message | None = None
    code: str | None = None
    message: str | None = None
    details: Json | None = None
    """Of a refusal or failure, as the service gave them."""


@value(kw_only=True)
class ProgressReceived:
    """A service said that it still works on an attempt, which takes its time."""

    intent_id: IntentId
    note: str | None = None


@value(kw_only=True)
class TimerFired:
    timer_id: TimerId


@value(kw_only=True)
class SignalReceived:
    name: str
    payload: Json
    actor: str | None = None


@value(kw_only=True)
class EventReceived:
    """An event of another service, to which the saga's definition listens."""

    contract: str
    payload: Json


@value(kw_only=True)
class UpdateReceived:
    """Somebody asks the saga and waits for an answer; *update* is the id of what was asked."""

    update: str
    name: str
    payload: Json
    actor: str | None = None


Arrival = SignalReceived | EventReceived | UpdateReceived
"""What is kept in order of arrival until the saga takes it."""


class ArrivalKind(StrEnum):
    SIGNAL = "signal"
    EVENT = "event"
    UPDATE = "update"


class Channel(NamedTuple):
    """What can be waited for. All versions of one event are one channel."""

    kind: ArrivalKind
    name: str


def signal_channel(name: str) -> Channel:
    return Channel(ArrivalKind.SIGNAL, name)


def event_channel(contract: str) -> Channel:
    """That of `shipping.evt.delivered.v2` is `shipping.evt.delivered`."""
    return Channel(ArrivalKind.EVENT, contract.rpartition(".v")[0] or contract)


def update_channel(name: str) -> Channel:
    return Channel(ArrivalKind.UPDATE, name)


def channel_of(arrival: Arrival) -> Channel:
    if isinstance(arrival, SignalReceived):
        return signal_channel(arrival.name)
    if isinstance(arrival, UpdateReceived):
        return update_channel(arrival.name)
    return event_channel(arrival.contract)


@value(kw_only=True)
class CancelRequested:
    mode: CancelMode
    reason: str
    actor: str | None = None
    undo: IntentId | None = None
    """The intent of the parent that has this child undone, which one that completed takes too."""


@value(kw_only=True)
class OperatorActed:
    """An operator did something to this saga; *step* where the act is about one."""

    act: Act
    reason: str
    step: str | None = None
    actor: str | None = None
    state: MarkedAs | None = None
    """Of a step that is marked: with *evidence*, and the *reply* that its service did not give."""
    evidence: str | None = None
    reply: Message | None = None
    timer_id: TimerId | None = None
    due_at: Instant | None = None
    """When a timer is due that is moved."""
    key: str | None = None
    saga_id: SagaId | None = None
    """Key and id of the saga that a rerun starts."""


class ChildStatus(StrEnum):
    """How a child ended, in the words of its saga; `refused`: there is no child, or no undo."""

    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    ROLLED_BACK_WITH_RESIDUE = "rolled_back_with_residue"
    ABANDONED = "abandoned"
    REFUSED = "refused"


@value(kw_only=True)
class ChildStarted:
    """A saga has begun as the child of the step that *intent_id* does."""

    intent_id: IntentId
    saga_id: SagaId
    definition: str
    key: str


@value(kw_only=True)
class ChildEnded:
    """What became of the child, or of the intent to undo it; which saga it is, where there is one.

    *reason*, *code*, *failed_step* and *residue* are the report of a child that was rolled back.
    """

    intent_id: IntentId
    status: ChildStatus
    saga_id: SagaId | None = None
    definition: str | None = None
    key: str | None = None
    outcome: Message | None = None
    reason: str | None = None
    code: str | None = None
    failed_step: str | None = None
    residue: tuple[str, ...] = ()

    def as_reply(self) -> ReplyReceived:
        """What it says of the intent, as a service would have answered."""
        name = parse_intent_id(self.intent_id)
        is_undo = name is not None and name.direction is UNDO
        outcome = (_UNDO_ANSWERS if is_undo else _ANSWERS)[self.status]
        return ReplyReceived(self.intent_id, outcome, self.outcome, self.code, self.reason)


_ANSWERS: Final = {
    ChildStatus.COMPLETED: ReplyOutcome.DONE,
    ChildStatus.ROLLED_BACK: ReplyOutcome.REFUSED,
    ChildStatus.ROLLED_BACK_WITH_RESIDUE: ReplyOutcome.FAILED,
    ChildStatus.ABANDONED: ReplyOutcome.FAILED,
    ChildStatus.REFUSED: ReplyOutcome.REFUSED,
}
_UNDO_ANSWERS: Final = dict.fromkeys(ChildStatus, ReplyOutcome.REFUSED) | {
    ChildStatus.ROLLED_BACK: ReplyOutcome.DONE
}


class PauseScope(StrEnum):
    DEFINITION = "definition"
    """All sagas of the definition are meant."""


@value(kw_only=True)
class Paused:
    """The saga acts on nothing that comes, until it is resumed; no *scope*: this saga alone."""

    reason: str
    actor: str | None = None
    scope: PauseScope | None = None


@value(kw_only=True)
class Resumed:
    """The pause of this scope has ended."""

    reason: str
    actor: str | None = None
    scope: PauseScope | None = None


@value(kw_only=True)
class Migrated:
    """An operator moved the saga to another version of its definition.

    *steps* are the names that changed, each with the one that it has in the new code.
    """

    from_version: int
    definition_version: int
    reason: str
    actor: str | None = None
    steps: tuple[tuple[str, str], ...] = ()
    from_fingerprint: str | None = None
    fingerprint: str | None = None
    """Of the code that was replayed; None where it was refused before there was any."""

    def as_asked(self) -> Migrated:
        """What the command said, which knows nothing of anybody's code."""
        return replace(self, from_fingerprint=None, fingerprint=None)


@value(kw_only=True)
class TurnFailed:
    """The code at hand raised while it took a turn; *position* is the record that it took."""

    error: str
    position: str | None = None
    definition: str | None = None
    """With version and key: whose history this is, where there is no `SagaStarted` yet."""
    definition_version: int | None = None
    key: str | None = None


@value(kw_only=True)
class TimersAdded:
    """The code at hand has timeouts that the history had not: from here on they are armed."""


Fact = (
    SagaStarted
    | ReplyReceived
    | ProgressReceived
    | TimerFired
    | SignalReceived
    | EventReceived
    | UpdateReceived
    | CancelRequested
    | OperatorActed
    | ChildStarted
    | ChildEnded
    | Paused
    | Resumed
    | Migrated
    | TurnFailed
    | TimersAdded
)


@value
class Event:
    """A fact that reached a saga, when, and what caused it (a message, timer or command id).

    *source*: who said so; None where nobody did, or who is expected to.
    """

    fact: Fact
    at: Instant
    cause: MessageId
    source: str | None = None
