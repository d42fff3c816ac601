"""What a difference is like: of which kind, at which entry, in which fields, where in the code.

`core.replay` finds the first entry that today's code does not decide, and stops there; here it is
told so that a person, or a pipeline, knows what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, Final

import orjson

from saga.core import intents
from saga.core.events import Fact, Json, Message
from saga.core.history import FACTS, NAME_OF, Entry, body_to_plain
from saga.core.identity import Instant
from saga.core.intents import Intent
from saga.core.program import Contracts
from saga.core.replay import STANDS, Compared
from saga.core.texts import storable
from saga.core.values import value
from saga.errors import CorruptHistory, ReplayMismatch, UnknownEntry

CHANGES_MAX: Final = 30
"""So many fields are told of that differ, and how many more there are."""
VALUE_CHARS_MAX: Final = 200


class Kind(StrEnum):
    """In which way today's code differs from a history, as people say it."""

    OTHER_PAYLOAD = "other payload"
    """The same decision with other contents."""
    OTHER_ORDER = "other order"
    """What the code decides here is recorded further on in the same turn, or the other way."""
    STEP_MISSING = "step missing"
    STEP_MORE = "step more"
    OTHER_STEP = "other step"
    TIMER_MISSING = "timer missing"
    TIMER_MORE = "timer more"
    OTHER_END = "other end"
    """One of both ends, rolls back or parks here."""
    OTHER_DECISION = "other decision"
    NOT_TAKEN = "not taken"
    """The code makes something else of what has come: a duplicate, or unknown to it."""
    CODE_RAISED = "code raised"
    NO_SUCH_VERSION = "no such version"
    UNKNOWN_ENTRY = "unknown entry"
    """A newer release of saga has written it."""
    CANNOT_BE_READ = "cannot be read"
    TOOK_TOO_LONG = "took too long"
    PROCESS_DIED = "process died"


@value
class Change:
    """A field that differs: its path, and both values as JSON; None where it is not there."""

    path: str
    recorded: str | None
    decided: str | None


@value(kw_only=True)
class Finding:
    """The first difference of one history; *type* and *at* are those of the entry, if there is one.

    *unsaid* counts the changes that are left out.
    """

    kind: Kind
    version: int
    recorded: str
    decided: str
    type: str | None = None
    at: Instant | None = None
    where: str | None = None
    changes: tuple[Change, ...] = ()
    unsaid: int = 0

    def as_error(self) -> ReplayMismatch:
        return ReplayMismatch(self.version, self.recorded, self.decided, where=self.where)


@value
class Raised:
    """What stands in the place of `Compared` where the code has raised, when told of *fact*."""

    fact: Entry


def finding_of(mismatch: ReplayMismatch, contracts: Contracts) -> Finding:
    """What *mismatch*, which a replay has raised, is like."""
    compared = mismatch.compared
    entry: Entry | None
    stood: Entry | None
    changes: Iterator[Change]
    if isinstance(compared, Raised):
        kind, entry = Kind.CODE_RAISED, compared.fact
        stood, changes = entry, iter(())
    else:
        assert isinstance(compared, Compared), mismatch
        kind, entry = _kind_of(compared), compared.entry
        stood = next(reversed(compared.recorded), None) if entry is None else entry
        changes = _changes(compared, contracts)
    told = tuple(islice(changes, CHANGES_MAX))
    return Finding(
        kind=kind,
        version=mismatch.version,
        recorded=mismatch.recorded,
        decided=mismatch.decided,
        type=None if entry is None else NAME_OF[type(entry.body)],
        at=None if stood is None else stood.at,
        where=mismatch.where,
        changes=told,
        unsaid=sum(1 for _ in changes),
    )


def has_gone_on(mismatch: ReplayMismatch) -> bool:
    """Whether nothing in the code waits for what it has decided: it has ended, or goes on else."""
    compared = mismatch.compared
    if not isinstance(compared, Compared) or isinstance(compared.intent, _WAITED_FOR):
        return False
    return _kind_of(compared) is not Kind.NOT_TAKEN


def finding_of_unreadable(history: CorruptHistory) -> Finding:
    is_unknown = isinstance(history, UnknownEntry)
    return Finding(
        kind=Kind.UNKNOWN_ENTRY if is_unknown else Kind.CANNOT_BE_READ,
        version=history.version,
        recorded=history.problem,
        decided="nothing: it cannot be read",
    )


_STEPS: Final = (intents.IntentIssued, intents.IntentTold)
_WAITED_FOR: Final = (
    intents.IntentIssued,
    intents.TimerArmed,
    intents.SignalAwaited,
    intents.EventAwaited,
)
_ENDS: Final = (
    intents.SagaCompleted,
    intents.SagaFinishing,
    intents.SagaRolledBack,
    intents.SagaAbandoned,
    intents.SagaParked,
    intents.RollbackDue,
    intents.RollbackPlanned,
    intents.Continued,
)
_NAMED_BY: Final[Mapping[type, tuple[str, ...]]] = {
    intents.IntentIssued: ("step", "direction", "attempt", "contract"),
    intents.IntentTold: ("step", "contract"),
    intents.EventPublished: ("publication", "contract"),
    intents.CommandSent: ("command", "act"),
    intents.UpdateAnswered: ("update",),
    intents.TimerArmed: ("timer_id",),
    intents.SignalAwaited: ("wait",),
    intents.EventAwaited: ("wait",),
    intents.StepSettled: ("step", "direction", "status"),
}
"""What makes a decision the same one, whatever its contents."""
_WITH_CONTENTS: Final = (
    *_STEPS,
    *(intents.EventPublished, intents.CommandSent, intents.UpdateAnswered),
    *(intents.SagaCompleted, intents.SagaFinishing, intents.SagaRolledBack, intents.Continued),
)


def _kind_of(compared: Compared) -> Kind:
    intent = compared.intent
    body = None if compared.entry is None else compared.entry.body
    if type(body) in FACTS:
        return Kind.NOT_TAKEN
    if body is not None and intent is not None and _name(body) == _name(intent):
        return Kind.OTHER_PAYLOAD if isinstance(body, _WITH_CONTENTS) else Kind.OTHER_DECISION
    if isinstance(body, intents.TimerArmed) and intent is None:
        return Kind.TIMER_MISSING
    if isinstance(intent, intents.TimerArmed) and body is None:
        return Kind.TIMER_MORE
    if body is not None and intent is not None and _is_moved(compared, body, intent):
        return Kind.OTHER_ORDER
    match isinstance(body, _STEPS), isinstance(intent, _STEPS):
        case True, True:
            return Kind.OTHER_STEP
        case True, False:
            return Kind.STEP_MISSING
        case False, True:
            return Kind.STEP_MORE
    is_end = isinstance(body, _ENDS) or isinstance(intent, _ENDS)
    return Kind.OTHER_END if is_end else Kind.OTHER_DECISION


def _is_moved(compared: Compared, body: Fact | Intent, intent: Intent) -> bool:
    was_recorded = {_name(entry.body) for entry in compared.recorded}
    return _name(intent) in was_recorded or _name(body) in set(map(_name, compared.decided))


def _name(body: object) -> tuple[object, ...]:
    return (type(body), *(getattr(body, name) for name in _NAMED_BY.get(type(body), ())))


def _changes(compared: Compared, contracts: Contracts) -> Iterator[Change]:
    """The fields of one decision that differ; none where it is another one."""
    body, intent = compared.entry and compared.entry.body, compared.intent
    if body is None or intent is None or type(body) is not type(intent):
        return
    recorded, decided = body_to_plain(body, _parsed), body_to_plain(intent, _parsed)
    for name in STANDS.get(type(body), ()):
        if name not in _MESSAGES:  # what is recorded stands, whatever the code says
            recorded.pop(name, None)
            decided.pop(name, None)
    for name in _MESSAGES:
        message = getattr(body, name, None)
        contract = getattr(body, "contract", None)
        if isinstance(message, Message):
            recorded[name] = _plain(contracts.as_read(message))
        elif isinstance(message, str) and isinstance(contract, str):
            recorded[name] = _parsed(contracts.as_read(Message(contract, Json(message))).payload)
    yield from _differing(recorded, decided)


def _plain(message: Message) -> dict[str, Any]:
    return {"contract": message.contract, "payload": _parsed(message.payload)}


def _parsed(text: Json) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


_MESSAGES: Final = ("payload", "outcome", "trigger")
_ABSENT: Final = object()


def _differing(recorded: object, decided: object) -> Iterator[Change]:
    """The leaves in which two plain values differ, in their order."""
    left: list[tuple[str, object, object]] = [("", recorded, decided)]
    while left:  # a payload may be nested deeper than calls may
        path, theirs, ours = left.pop()
        if isinstance(theirs, dict) and isinstance(ours, dict):
            names = dict.fromkeys((*theirs, *ours))
            pairs = [
                (_member(path, name), theirs.get(name, _ABSENT), ours.get(name, _ABSENT))
                for name in names
            ]
            left += reversed(pairs)
        elif isinstance(theirs, list | tuple) and isinstance(ours, list | tuple):
            length = max(len(theirs), len(ours))
            left += [
                (f"{path}[{at}]", _at(theirs, at), _at(ours, at)) for at in reversed(range(length))
            ]
        elif theirs is not ours and _dumped(theirs) != _dumped(ours):
            yield Change(path, _shown(theirs), _shown(ours))


def _member(path: str, name: object) -> str:
    text = str(name)
    if not text.isidentifier():
        return f"{path}[{storable(orjson.dumps(text).decode(), VALUE_CHARS_MAX)}]"
    return f"{path}.{text}" if path else text


def _at(items: Sequence[object], at: int) -> object:
    return items[at] if at < len(items) else _ABSENT


def _dumped(plain: object) -> str:
    if plain is _ABSENT:
        return ""
    return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode()


def _shown(plain: object) -> str | None:
    return storable(_dumped(plain), VALUE_CHARS_MAX) or None
