"""
One saga's recorded entries: the closed registry of their stable names, and their plain form.

A stored name never imports code: it is looked up here, and a name that is not here is refused.
The plain form is what stores write as JSON, `{"at": …, "cause": …, …fields}`; payloads stay whole,
so that whatever a user put into one can never keep an entry from being read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from saga.core import events, intents
from saga.core.events import Event, Fact, Json, Message
from saga.core.identity import Direction, Instant, MessageId, SagaId
from saga.core.intents import Intent
from saga.core.status import StepKind


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One line of a history. Versions count from 1, without gaps.
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

# How a field that is no plain JSON value is read back; payloads are handled by the caller's codec.
_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "outcome": lambda value: value if value is None else events.ReplyOutcome(value),
    "direction": Direction,
    "kind": StepKind,
    "purpose": intents.TimerPurpose,
    "verdict": intents.Verdict,
    "goal": intents.RollbackGoal,
    "mode": events.CancelMode,
    "act": events.Act,
    "groups": lambda value: tuple(tuple(group) for group in value),
    "residue": tuple,
}
_MESSAGES: Final = {
    events.SagaStarted: "trigger",
    events.ReplyReceived: "reply",
    intents.SagaCompleted: "outcome",
    intents.SagaRolledBack: "outcome",
    intents.SagaAbandoned: "outcome",
}
_PAYLOADS: Final = frozenset({events.SignalReceived, intents.IntentIssued, intents.EventPublished})
_FIELDS: Final[dict[type, tuple[str, ...]]] = {
    kind: tuple(field.name for field in fields(kind)) for kind in NAMES.values()
}
_OPTIONAL: Final[dict[type, frozenset[str]]] = {
    kind: frozenset(field.name for field in fields(kind) if "None" in str(field.type))
    for kind in NAMES.values()
}


def entries_of_turn(
    saga_id: SagaId, version: int, event: Event, decided: Sequence[Intent]
) -> list[Entry]:
    """
    The entries of one turn, which follow the entry *version*: the fact, then what was decided.
    """
    at, cause = event.at, event.cause
    entries = [Entry(saga_id, version + 1, at, cause, event.fact)]
    for number, intent in enumerate(decided, version + 2):
        entries.append(Entry(saga_id, number, at, cause, intent))
    return entries


def to_plain(entry: Entry, embed: Callable[[Json], object]) -> dict[str, object]:
    """
    The plain form of *entry*; *embed* makes a payload's text part of the surrounding JSON.

    Fields that are None are left out.
    """
    body = entry.body
    kind = type(body)
    plain: dict[str, object] = {"at": entry.at, "cause": entry.cause}
    message_field = _MESSAGES.get(kind)
    for name in _FIELDS[kind]:
        value = getattr(body, name)
        if value is None:
            continue
        if name == message_field:
            value = {"contract": value.contract, "payload": embed(value.payload)}
        elif name == "payload":
            value = embed(value)
        plain[name] = value
    return plain


def from_plain(
    saga_id: SagaId,
    version: int,
    name: str,
    plain: Mapping[str, Any],
    text: Callable[[Any], Json],
) -> Entry:
    """
    The entry that `to_plain` described; *text* gives back the text of an embedded payload.

    Raises:
        KeyError: *name* is not in the registry, or a field is missing.
        ValueError: a field has a value that this version does not know.
    """
    kind = NAMES[name]
    message_field = _MESSAGES.get(kind)
    values: dict[str, Any] = {}
    for field in _FIELDS[kind]:
        value: Any = plain.get(field)
        if value is None and not (field == "payload" and field in plain):
            if field not in _OPTIONAL[kind]:
                raise KeyError(f"{name}: {field} is missing")
        elif field == message_field:
            value = Message(value["contract"], text(value["payload"]))
        elif field == "payload":
            value = text(value)
        else:
            reader = _READERS.get(field)
            if reader is not None:
                value = reader(value)
        values[field] = value
    return Entry(saga_id, version, Instant(plain["at"]), MessageId(plain["cause"]), kind(**values))
