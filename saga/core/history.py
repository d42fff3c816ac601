"""One saga's recorded entries: the closed registry of their stable names, and their plain form.

A stored name never imports code: it is looked up here, and a name that is not here is refused.
The plain form is what stores write as JSON, `{"at": …, "cause": …, …fields}`; payloads stay whole,
so that whatever a user put into one can never keep an entry from being read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, Final, NamedTuple, TypeVar

from saga.core import events, intents
from saga.core.events import Event, Fact, Json, Message
from saga.core.identity import Direction, Instant, MessageId, SagaId
from saga.core.intents import Intent
from saga.core.status import StepKind


class Entry(NamedTuple):
    """One line of a history. Versions count from 1, without gaps.

    A named tuple, because a replay makes more of them than of anything else.
    """

    saga_id: SagaId
    version: int
    at: Instant
    cause: MessageId
    body: Fact | Intent


NAMES: Final[dict[str, type]] = {
    "saga-started": events.SagaStarted,
    "reply-received": events.ReplyReceived,
    "timer-fired": events.TimerFired,
    "signal-received": events.SignalReceived,
    "cancel-requested": events.CancelRequested,
    "operator-acted": events.OperatorActed,
    "turn-failed": events.TurnFailed,
    "intent-issued": intents.IntentIssued,
    "event-published": intents.EventPublished,
    "timer-armed": intents.TimerArmed,
    "timer-cancelled": intents.TimerCancelled,
    "signal-awaited": intents.SignalAwaited,
    "noted": intents.Noted,
    "rollback-planned": intents.RollbackPlanned,
    "undo-appended": intents.UndoAppended,
    "undo-stuck": intents.UndoStuck,
    "saga-parked": intents.SagaParked,
    "saga-completed": intents.SagaCompleted,
    "saga-rolled-back": intents.SagaRolledBack,
    "saga-cleaned-up": intents.SagaCleanedUp,
    "saga-abandoned": intents.SagaAbandoned,
}
"""Stored names are forever: one may be added, none renamed or given another meaning."""

NAME_OF: Final[dict[type, str]] = {kind: name for name, kind in NAMES.items()}
FACTS: Final = frozenset(
    {
        events.SagaStarted,
        events.ReplyReceived,
        events.TimerFired,
        events.SignalReceived,
        events.CancelRequested,
        events.OperatorActed,
        events.TurnFailed,
    }
)

E = TypeVar("E", bound=Enum)


def _member(kind: type[E]) -> Callable[[Any], E]:
    """What finds a member by its value; a lookup in a dict, where calling the class costs thrice
    that.
    """
    return {member.value: member for member in kind}.__getitem__


_CONVERTERS: Final[dict[str, Callable[[Any], Any]]] = {
    "direction": _member(Direction),
    "kind": _member(StepKind),
    "purpose": _member(intents.TimerPurpose),
    "verdict": _member(intents.Verdict),
    "goal": _member(intents.RollbackGoal),
    "mode": _member(events.CancelMode),
    "act": _member(events.Act),
    "groups": lambda value: tuple(tuple(group) for group in value),
    "residue": tuple,
}
"""How a field that is no plain JSON value is read back; `outcome` is two things, see `_shape`."""

_MESSAGES: Final = {
    events.SagaStarted: "trigger",
    events.ReplyReceived: "reply",
    intents.SagaCompleted: "outcome",
    intents.SagaRolledBack: "outcome",
    intents.SagaAbandoned: "outcome",
}


class _Shape(NamedTuple):
    """What reading and writing an entry needs to know of its type, in one lookup.

    *absent* are the fields that are not written when they are None and have no default.
    """

    kind: type
    names: tuple[str, ...]
    converters: tuple[tuple[str, Callable[[Any], Any]], ...]
    message: str | None
    has_payload: bool
    absent: dict[str, None]


def _shape(kind: type) -> _Shape:
    found = fields(kind)
    names = tuple(field.name for field in found)
    converters = [(name, _CONVERTERS[name]) for name in names if name in _CONVERTERS]
    if kind is events.ReplyReceived:
        converters.append(("outcome", _member(events.ReplyOutcome)))
    optional = [one.name for one in found if "None" in str(one.type) and one.default is MISSING]
    return _Shape(
        kind,
        names,
        tuple(converters),
        _MESSAGES.get(kind),
        "payload" in names,
        dict.fromkeys(optional),
    )


_SHAPES: Final = {name: _shape(kind) for name, kind in NAMES.items()}
_SHAPE_OF: Final = {shape.kind: shape for shape in _SHAPES.values()}


def entries_of_turn(
    saga_id: SagaId, version: int, event: Event, decided: Sequence[Intent]
) -> list[Entry]:
    """The entries of one turn, which follow the entry *version*: the fact, then what was
    decided.
    """
    at, cause = event.at, event.cause
    entries = [Entry(saga_id, version + 1, at, cause, event.fact)]
    for number, intent in enumerate(decided, version + 2):
        entries.append(Entry(saga_id, number, at, cause, intent))
    return entries


def to_plain(entry: Entry, embed: Callable[[Json], object]) -> dict[str, object]:
    """The plain form of *entry*; *embed* makes a payload's text part of the surrounding JSON.

    Fields that are None are left out.
    """
    body = entry.body
    shape = _SHAPE_OF[type(body)]
    plain: dict[str, object] = {"at": entry.at, "cause": entry.cause}
    for name in shape.names:
        value = getattr(body, name)
        if value is not None:
            plain[name] = value
    if shape.has_payload:
        plain["payload"] = embed(body.payload)  # type: ignore[union-attr]  # its shape says so
    elif shape.message is not None and shape.message in plain:
        message = getattr(body, shape.message)
        plain[shape.message] = {"contract": message.contract, "payload": embed(message.payload)}
    return plain


def from_plain(
    saga_id: SagaId,
    version: int,
    name: str,
    plain: dict[str, Any],
    text: Callable[[Any], Json],
) -> Entry:
    """The entry that `to_plain` described; *text* gives back the text of an embedded payload.

    *plain* is used up. Fields that this version does not know are ignored.

    Raises:
        KeyError: *name* is not in the registry, or a value is unknown.
        TypeError, ValueError: a field is missing, or has no such value.
    """
    kind, names, converters, message_field, has_payload, absent = _SHAPES[name]
    at, cause = plain.pop("at"), plain.pop("cause")
    if has_payload:
        plain["payload"] = text(plain["payload"])
    elif message_field is not None and message_field in plain:
        message = plain[message_field]
        plain[message_field] = Message(message["contract"], text(message["payload"]))
    for value in plain.values():
        if value is None:
            raise ValueError(f"{name} has a null, which is never written")
    for field, convert in converters:
        if field in plain:
            plain[field] = convert(plain[field])
    if absent:
        plain = {**absent, **plain}
    try:
        body = kind(**plain)
    except TypeError:
        body = kind(**{key: value for key, value in plain.items() if key in names})
    return Entry(saga_id, version, at, cause, body)
