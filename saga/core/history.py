"""One saga's recorded entries: the closed registry of their stable names, and their plain form.

A stored name never imports code: it is looked up here, and a name that is not here is refused.
The plain form is what stores write as JSON, `{"at": …, "cause": …, …fields}`; payloads stay whole,
so that whatever a user put into one can never keep an entry from being read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from enum import Enum
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar

from saga.core import events, intents
from saga.core.events import Event, Fact, Json, Message
from saga.core.identity import Direction, Instant, MessageId, SagaId
from saga.core.intents import Intent, PlannedUndo
from saga.core.status import StepKind, StepStatus
from saga.errors import UnknownEntry


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
    "step-settled": intents.StepSettled,
    "branch-dropped": intents.BranchDropped,
    "event-published": intents.EventPublished,
    "timer-armed": intents.TimerArmed,
    "timer-cancelled": intents.TimerCancelled,
    "signal-awaited": intents.SignalAwaited,
    "noted": intents.Noted,
    "rollback-planned": intents.RollbackPlanned,
    "undo-appended": intents.UndoAppended,
    "saga-parked": intents.SagaParked,
    "saga-resumed": intents.SagaResumed,
    "saga-finishing": intents.SagaFinishing,
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
    """A look-up of members by value; calling the class costs three times as much."""
    return {member.value: member for member in kind}.__getitem__


def _planned(steps: Sequence[dict[str, Any]]) -> tuple[PlannedUndo, ...]:
    planned = []
    for step in steps:
        unknown = step.keys() - {"step", "after"}
        if unknown:
            raise KeyError(*unknown)
        if "step" not in step:
            raise ValueError(f"a planned undo names no step: {step}")
        after = tuple(step["after"]) if "after" in step else None
        planned.append(PlannedUndo(step=step["step"], after=after))
    return tuple(planned)


_CONVERTERS: Final[dict[str, Callable[[Any], Any]]] = {
    "direction": _member(Direction),
    "kind": _member(StepKind),
    "status": _member(StepStatus),
    "purpose": _member(intents.TimerPurpose),
    "verdict": _member(intents.Verdict),
    "goal": _member(intents.RollbackGoal),
    "mode": _member(events.CancelMode),
    "act": _member(events.Act),
    "after": tuple,
    "residue": tuple,
    "steps": tuple,
    "sleeps": tuple,
    "waits": tuple,
}
"""How a field that is no plain JSON value is read back."""

_OWN_CONVERTERS: Final[dict[type, dict[str, Callable[[Any], Any]]]] = {
    events.ReplyReceived: {"outcome": _member(events.ReplyOutcome)},
    intents.RollbackPlanned: {"steps": _planned},
}
"""The same where one name means two things."""

_MESSAGES: Final = {
    events.SagaStarted: "trigger",
    events.ReplyReceived: "reply",
    intents.SagaFinishing: "outcome",
    intents.SagaCompleted: "outcome",
    intents.SagaRolledBack: "outcome",
    intents.SagaAbandoned: "outcome",
}


class _Shape(NamedTuple):
    """What reading and writing an entry needs to know of its type, in one lookup.

    *absent* are the fields that are not written when they are None and have no default; *defaults*
    those that are not written when they have another default.
    """

    kind: type
    names: tuple[str, ...]
    converters: tuple[tuple[str, Callable[[Any], Any]], ...]
    message: str | None
    has_payload: bool
    absent: dict[str, None]
    defaults: dict[str, object]


def _shape(kind: type) -> _Shape:
    kind_fields = fields(kind)
    names = tuple(field.name for field in kind_fields)
    converters = {**_CONVERTERS, **_OWN_CONVERTERS.get(kind, {})}
    absent = [f.name for f in kind_fields if "None" in str(f.type) and f.default is MISSING]
    return _Shape(
        kind,
        names,
        tuple((name, converters[name]) for name in names if name in converters),
        _MESSAGES.get(kind),
        "payload" in names,
        dict.fromkeys(absent),
        {f.name: f.default for f in kind_fields if f.default not in (MISSING, None)},
    )


_SHAPES: Final = {name: _shape(kind) for name, kind in NAMES.items()}
_SHAPE_OF: Final = {shape.kind: shape for shape in _SHAPES.values()}


def entries_of_turn(
    saga_id: SagaId, version: int, event: Event, decided: Sequence[Intent]
) -> list[Entry]:
    """The entries of one turn, the fact first; they follow the entry *version*."""
    at, cause = event.at, event.cause
    entries = [Entry(saga_id, version + 1, at, cause, event.fact)]
    for number, intent in enumerate(decided, version + 2):
        entries.append(Entry(saga_id, number, at, cause, intent))
    return entries


def turns(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Sequence[Entry]]]:
    """A history cut into turns: the fact, and what was decided on it."""
    for begin, end in turn_bounds([entry.body for entry in entries]):
        yield entries[begin], entries[begin + 1 : end]


def turn_bounds(bodies: Sequence[Fact | Intent]) -> Iterator[tuple[int, int]]:
    """Where each turn begins and ends. A history begins with a fact, whatever it holds."""
    begins = [number for number, kind in enumerate(map(type, bodies)) if kind in FACTS]
    if bodies and begins[:1] != [0]:
        begins.insert(0, 0)
    return pairwise([*begins, len(bodies)])


def to_plain(entry: Entry, embed: Callable[[Json], object]) -> dict[str, object]:
    """The plain form of *entry*; *embed* makes a payload's text part of the surrounding JSON.

    Fields that are None, or have their default, are left out.
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
    elif type(body) is intents.RollbackPlanned:
        plain["steps"] = [
            {"step": planned.step}
            if planned.after is None
            else {"step": planned.step, "after": planned.after}
            for planned in body.steps
        ]
    elif shape.defaults:
        for name, default in shape.defaults.items():
            if plain[name] == default:
                del plain[name]
    return plain


def from_plain(
    saga_id: SagaId,
    version: int,
    name: str,
    plain: dict[str, Any],
    text: Callable[[Any], Json],
) -> Entry:
    """The entry that `to_plain` described; *text* gives back the text of an embedded payload.

    *plain* is used up.

    Raises:
        UnknownEntry: a newer release wrote it: its name, a field or a value is not known here.
        KeyError, TypeError, ValueError: a field is missing, or has no such value.
    """
    shape = _SHAPES.get(name)
    if shape is None:
        raise UnknownEntry(saga_id, version, f"there is no entry {name!r} in this version of saga")
    kind, names, converters, message_field, has_payload, absent, _ = shape
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
            try:
                plain[field] = convert(plain[field])
            except KeyError as error:
                problem = f"{error} in {field!r} of {name!r} is not known to this version of saga"
                raise UnknownEntry(saga_id, version, problem) from None
    if absent:
        plain = {**absent, **plain}
    try:
        body = kind(**plain)
    except TypeError:
        unknown = sorted(plain.keys() - set(names))
        if not unknown:
            raise
        problem = f"{', '.join(unknown)} of {name!r} is not known to this version of saga"
        raise UnknownEntry(saga_id, version, problem) from None
    return Entry(saga_id, version, at, cause, body)
