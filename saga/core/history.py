"""One saga's recorded entries: the closed registry of their stable names, and their plain form.

A stored name never imports code: it is looked up here, and a name that is not here is refused.
The plain form is what stores write as JSON, `{"at": …, "cause": …, "source": …, …fields}`; payloads
stay whole, so that whatever a user put into one can never keep an entry from being read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from functools import partial
from itertools import chain
from operator import attrgetter, itemgetter
from types import NoneType
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints, overload

from saga.core.events import (
    Arrival,
    Event,
    Fact,
    Json,
    Message,
    Migrated,
    Parent,
    SagaStarted,
)
from saga.core.identity import Instant, IntentId, MessageId, SagaId
from saga.core.intents import (
    Continued,
    Intent,
    KnownCause,
    Noted,
    PlannedUndo,
    RollbackPlanned,
    Shown,
    Unread,
)
from saga.core.values import value
from saga.errors import UnknownEntry


@value
class Entry:
    """One line of a history, its versions from 1 without gaps."""

    saga_id: SagaId
    version: int
    at: Instant
    cause: MessageId
    body: Fact | Intent
    source: str | None = None
    """Where the cause came from; None for the source that is implied."""


@dataclass(slots=True)
class RecordedTurn:
    """An event, and what was decided on it; *version* is that of its first entry, the fact."""

    saga_id: SagaId
    version: int
    event: Event
    decided: Sequence[Intent]
    made: Sequence[Entry] | None = field(default=None, repr=False, compare=False)
    """The entries, once anybody has asked for them: most turns are only written, or replayed."""

    def __len__(self) -> int:
        return 1 + len(self.decided)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def entries(self) -> Sequence[Entry]:
        if self.made is None:
            event = self.event
            at, cause, source = event.at, event.cause, event.source
            self.made = [
                Entry(self.saga_id, version, at, cause, body, source)
                for version, body in enumerate((event.fact, *self.decided), self.version)
            ]
        return self.made


class Pinned(NamedTuple):
    """What decides a saga."""

    definition: str
    version: int
    fingerprint: str


class History(Sequence[Entry]):
    """A saga's entries in order of version: what was *recorded*, and how many *turns* wrote it.

    Of a saga in its second run or a later one it may begin with the turn that begins the last.
    """

    __slots__ = ("recorded", "turns")

    def __init__(self, recorded: Iterable[RecordedTurn] = (), *, turns: int | None = None) -> None:
        self.recorded = list(recorded)
        self.turns = len(self.recorded) if turns is None else turns

    @property
    def version(self) -> int:
        """That of the last entry: how many the saga has in all, those of earlier runs included."""
        last = self.recorded[-1]
        return last.version + len(last) - 1

    def add(self, turn: RecordedTurn) -> None:
        self.recorded.append(turn)
        self.turns += 1

    def __len__(self) -> int:
        return self.version + 1 - self.recorded[0].version if self.recorded else 0

    def __iter__(self) -> Iterator[Entry]:
        return chain.from_iterable(self.recorded)

    def __reversed__(self) -> Iterator[Entry]:
        return chain.from_iterable(reversed(turn.entries) for turn in reversed(self.recorded))

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it can be added to


FACTS: Final = frozenset(get_args(Fact))
NAMES: Final[dict[str, type]] = {
    re.sub("(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower(): kind
    for kind in (*get_args(Fact), *get_args(Intent))
}
"""Each class under its own name. Stored names are forever: one may be added, none be renamed."""
NAME_OF: Final[dict[type, str]] = {kind: name for name, kind in NAMES.items()}

TIME_END: Final = 253_402_300_800_000_000
"""The first microsecond that no date of four digits tells."""
_Reader = Callable[[Any], Any]
_Getter = Callable[[Any], tuple[Any, ...]]
_Order = Callable[[list[Any]], Sequence[Any]]
_Text = Callable[[Any], Json]
_At = tuple[SagaId, int]
"""The place of an entry: its saga, and its version."""


class _Shape(NamedTuple):
    """How entries of one type are read and written; a field with its default is not written."""

    kind: type
    names: tuple[str, ...]
    readers: tuple[tuple[str, _Reader], ...]
    plain: tuple[tuple[str, type], ...]
    """The fields that JSON has as they are, and what they are."""
    message: str
    """The field that holds a message, if any."""
    json: tuple[str, ...]
    """The fields that hold any JSON."""
    is_by_name: bool
    """Whether it takes its fields by their names only."""


class _Reading(NamedTuple):
    """How entries of one type are read that have the same fields; each is meant by its place."""

    make: Callable[..., Any]
    order: _Order
    """Gives the values as *make* takes them."""
    readers: tuple[tuple[int, _Reader], ...]
    message: int | None
    json: tuple[int, ...]
    read_more: Callable[[_At, dict[str, Any], list[Any], _Text], None] | None
    """Reads what else it has that is no plain field; None of most."""


class _Writer(NamedTuple):
    """How the plain form of one type is made: what is always written, and what is not."""

    name: str
    always: tuple[str, ...]
    get_always: _Getter
    sparse: tuple[str, ...]
    get_sparse: _Getter
    usual: tuple[object, ...]
    """What the *sparse* fields hold where they are not written: their defaults."""
    message: str
    sparse_json: tuple[str, ...]


def _shape(kind: type) -> _Shape:
    hints = get_type_hints(kind)
    types = {
        name: get_args(hint)[0] if NoneType in get_args(hint) else hint
        for name, hint in hints.items()
    }
    readers = ((name, _reader(hint)) for name, hint in types.items())
    return _Shape(
        kind,
        names=tuple(types),
        readers=tuple((name, reader) for name, reader in readers if reader is not None),
        plain=tuple((name, each) for name, hint in types.items() if (each := _plain_type(hint))),
        message=next((name for name, hint in types.items() if hint is Message), ""),
        json=tuple(name for name, hint in types.items() if hint is Json),
        is_by_name=any(each.kw_only for each in fields(kind)),
    )


def _writer(name: str, shape: _Shape) -> _Writer:
    usual = {
        each.name: each.default
        for each in fields(shape.kind)
        if each.default is not MISSING and each.name != shape.message
    }
    always = tuple(each for each in shape.names if each not in {*usual, shape.message})
    sparse = tuple(usual)
    return _Writer(
        name,
        always,
        _getter(always),
        sparse,
        _getter(sparse),
        tuple(usual.values()),
        shape.message,
        tuple(each for each in shape.json if each in usual),
    )


def _getter(names: tuple[str, ...]) -> _Getter:
    """Gives the values of these attributes; of two and more in one call of C."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda body: tuple(getattr(body, name) for name in names)


def _reader(hint: object) -> _Reader | None:
    """How a field of this type is read back; None where JSON has it as it is."""
    if get_origin(hint) is tuple:
        return _READERS.get(get_args(hint)[0], tuple)
    if hint is Parent:
        return _parent
    if isinstance(hint, type) and issubclass(hint, Enum):
        # A look-up of members by value; calling the class costs three times as much.
        return {member.value: member for member in hint}.__getitem__
    return None


def _plain_type(hint: object) -> type | None:
    if hint is Json:
        return None
    hint = getattr(hint, "__supertype__", hint)  # of a new type, such as an id
    return hint if hint in (str, int, bool) else None


def check_origin(at: object, cause: object) -> None:
    """Raise ValueError where these are no time and no text: a store keeps what it is given."""
    if type(at) is not int or not 0 <= at < TIME_END:
        raise ValueError(f"at is {at!r:.60}, no time")
    if type(cause) is not str:
        raise ValueError(f"cause is {cause!r:.60}, no text")


def _check_plain(shape: _Shape, plain: dict[str, Any]) -> None:
    """Raise ValueError where a field is null, or of another type; JSON may be anything."""
    for name, kind in shape.plain:
        if name in plain and type(plain[name]) is not kind:
            raise ValueError(f"{name} is {plain[name]!r:.60}, no {kind.__name__}")
    for name, given in plain.items():
        if given is None and name not in shape.json:
            raise ValueError(f"{name} is null, which is never written")


def _planned(plain: dict[str, Any]) -> PlannedUndo:
    if unknown := plain.keys() - {"step", "after"}:
        raise KeyError(*unknown)
    if "after" in plain:
        plain["after"] = tuple(plain["after"])
    return PlannedUndo(**plain)


def _parent(plain: dict[str, Any]) -> Parent:
    if unknown := plain.keys() - {"intent_id", "key"}:
        raise KeyError(*unknown)
    intent, key = plain["intent_id"], plain["key"]
    if type(intent) is not str or type(key) is not str:
        raise ValueError(f"parent is {plain!r:.60}, no intent id and key")
    return Parent(IntentId(intent), key)


def _known_cause(plain: dict[str, Any]) -> KnownCause:
    if unknown := plain.keys() - {"cause", "source", "said"}:
        raise KeyError(*unknown)
    return KnownCause(**plain)


_READERS: Final[dict[object, _Reader]] = {
    PlannedUndo: lambda steps: tuple(map(_planned, steps)),
    KnownCause: lambda causes: tuple(map(_known_cause, causes)),
}
"""How a list of these is read."""
_SHAPES: Final = {name: _shape(kind) for name, kind in NAMES.items()}
_WRITERS: Final = {shape.kind: _writer(name, shape) for name, shape in _SHAPES.items()}
_SOUND: Final[dict[tuple[object, ...], _Reading]] = {}
"""By names, fields and types of entries that were found to be sound: some dozens."""
_NOT_KNOWN: Final = "{} of {!r} is not known to this version of saga"


def turn_of(entries: Sequence[Entry]) -> RecordedTurn:
    """The turn that has these entries."""
    first = entries[0]
    origin = first.saga_id, first.at, first.cause, first.source
    for entry in entries:
        is_shared = (entry.saga_id, entry.at, entry.cause, entry.source) == origin
        assert is_shared, f"entries of one turn differ in time, cause or source: {entries}"
    return _turn_of(list(entries))


def turns(entries: Iterable[Entry]) -> Sequence[RecordedTurn]:
    """A history cut into turns. It begins with a fact, whatever it holds."""
    if isinstance(entries, History):
        return entries.recorded
    cut: list[list[Entry]] = []
    for entry in entries:
        if cut and type(entry.body) not in FACTS:
            cut[-1].append(entry)
        else:
            cut.append([entry])
    return [_turn_of(each) for each in cut]


def beginning_of(history: Sequence[Entry]) -> SagaStarted | Continued | None:
    """What says which definition decides from the beginning of *history* on, and for which key.

    None of a saga that could not begin.
    """
    recorded = turns(history)
    if not recorded or recorded[0].version == 1:
        for turn in recorded:
            if isinstance(turn.event.fact, SagaStarted):
                return turn.event.fact
        return None
    return next(filter(None, map(continued_in, recorded)), None)


def pinned_in(history: Sequence[Entry]) -> Pinned | None:
    """What decides a saga, or its last run: as it began, or where it was migrated to since."""
    begun = beginning_of(history)
    moved = last_migration(turns(history))
    if moved is not None and begun is not None:
        return Pinned(begun.definition, moved.definition_version, moved.fingerprint or "")
    if begun is None:
        return None
    return Pinned(begun.definition, begun.definition_version, begun.fingerprint)


def last_migration(recorded: Iterable[RecordedTurn]) -> Migrated | None:
    """The last migration of the last run, if it had any."""
    moved: Migrated | None = None
    for turn in recorded:
        if (migrated := migration_in(turn)) is not None:
            moved = migrated
        elif moved is not None and continued_in(turn) is not None:
            moved = None
    return moved


def migration_in(turn: RecordedTurn) -> Migrated | None:
    """The migration that *turn* is, if it was not refused."""
    fact = turn.event.fact
    if type(fact) is not Migrated or (turn.decided and type(turn.decided[0]) is Noted):
        return None
    return fact


def continued_in(turn: RecordedTurn) -> Continued | None:
    """What says which run is the last one that *turn* begins, if it begins any."""
    return next((each for each in reversed(turn.decided) if isinstance(each, Continued)), None)


def are_whole(recorded: Iterable[RecordedTurn]) -> bool:
    """Whether each of these begins with a fact, and holds no other."""
    facts = {type(turn.event.fact) for turn in recorded}
    decided = chain.from_iterable([turn.decided for turn in recorded])
    return facts <= FACTS and FACTS.isdisjoint(map(type, decided))


def _turn_of(entries: list[Entry]) -> RecordedTurn:
    first = entries[0]
    event = Event(first.body, first.at, first.cause, first.source)  # type: ignore[arg-type]  # the first is a fact
    decided: list[Any] = [entry.body for entry in entries[1:]]
    return RecordedTurn(first.saga_id, first.version, event, decided, made=entries)


def to_plain(entry: Entry, embed: Callable[[Json], object]) -> dict[str, object]:
    """The plain form of *entry*, without None and defaults; *embed* puts payload text into JSON."""
    plain = {"at": entry.at, "cause": entry.cause} | body_to_plain(entry.body, embed)
    del plain["type"]
    if entry.source is not None:
        plain["source"] = entry.source
    return plain


def body_to_plain(body: Fact | Intent, embed: Callable[[Json], object]) -> dict[str, object]:
    """What `to_plain` gives of one entry, and not of the whole turn; with its name as `type`."""
    name, always, get_always, sparse, get_sparse, usual, message_field, json = _WRITERS[type(body)]
    plain: dict[str, object] = dict(zip(always, get_always(body), strict=True))
    plain["type"] = name
    if "payload" in plain:
        plain["payload"] = embed(body.payload)  # type: ignore[union-attr,arg-type]  # it has one, as seen
    elif message_field:
        message = getattr(body, message_field)
        if message is not None:
            payload = embed(message.payload)
            plain[message_field] = {"contract": message.contract, "payload": payload}
    elif type(body) is RollbackPlanned:
        plain["steps"] = [
            {"step": planned.step}
            if planned.after is None
            else {"step": planned.step, "after": planned.after}
            for planned in body.steps
        ]
    elif type(body) is Shown:
        plain["fields"] = {name: embed(text) for name, text in body.fields}
    values = get_sparse(body)
    if values != usual:
        told = zip(sparse, values, usual, strict=True)
        plain |= {field: value for field, value, default in told if value != default}
        for field in json:
            if field in plain:
                plain[field] = embed(getattr(body, field))
        if type(body) is SagaStarted and body.parent is not None:
            plain["parent"] = {"intent_id": body.parent.intent_id, "key": body.parent.key}
        if type(body) is Migrated and body.steps:
            plain["steps"] = dict(body.steps)
        if type(body) is Continued:
            _embed_past(plain, body, embed)
    return plain


def _embed_past(plain: dict[str, object], body: Continued, embed: Callable[[Json], object]) -> None:
    """Tell what passes over to the next run in JSON's own types."""
    if body.causes:
        told = ((each.cause, each.source, each.said) for each in body.causes)
        names = ("cause", "source", "said")
        plain["causes"] = [
            {name: value for name, value in zip(names, cause, strict=True) if value is not None}
            for cause in told
        ]
    if body.unread:
        plain["unread"] = [
            body_to_plain(each.arrival, embed) | {"version": each.version} for each in body.unread
        ]
    if body.shown:
        plain["shown"] = {name: embed(said) for name, said in body.shown}
    if body.parent is not None:
        plain["parent"] = {"intent_id": body.parent.intent_id, "key": body.parent.key}


def from_plain(
    saga_id: SagaId, version: int, name: str, plain: dict[str, Any], text: Callable[[Any], Json]
) -> Entry:
    """The entry that `to_plain` described; *text* reverses *embed*.

    Raises:
        UnknownEntry: a newer release wrote it: its name, a field or a value is not known here.
        KeyError, TypeError, ValueError: a field is missing, or has no such value.
    """
    body = {"type": name, **plain}
    at, cause, source = body.pop("at"), body.pop("cause"), body.pop("source", None)
    check_origin(at, cause)
    return Entry(saga_id, version, at, cause, body_from_plain(saga_id, version, body, text), source)


def body_from_plain(
    saga_id: SagaId, version: int, plain: dict[str, Any], text: Callable[[Any], Json]
) -> Any:  # noqa: ANN401  # a fact or an intent, which is which says its place
    """What `body_to_plain` described; *text* reverses *embed*. Raises as `from_plain`."""
    values = [*plain.values()]
    # Whether it is sound, and how it is read, follows from which fields there are, of what types.
    seen = (plain["type"], *plain, *map(type, values))
    reading = _SOUND.get(seen)
    if reading is None:
        reading = _SOUND[seen] = _reading(saga_id, version, plain)
    make, order, readers, message, json, read_more = reading
    for place in json:
        values[place] = text(values[place])
    if message is not None:
        said = values[message]
        values[message] = Message(said["contract"], text(said["payload"]))
    if read_more is not None:
        read_more((saga_id, version), plain, values, text)
    place = 0
    try:
        for place, read in readers:
            values[place] = read(values[place])
    except KeyError as error:
        unknown = f"{error} in {[*plain][place]!r}"
        raise UnknownEntry(saga_id, version, _NOT_KNOWN.format(unknown, seen[0])) from None
    return make(*order(values))


def _read_shown(_: _At, plain: dict[str, Any], values: list[Any], text: _Text) -> None:
    """Read an object of any members."""
    for place, (name, told) in enumerate(plain.items()):
        if name == "fields":
            values[place] = tuple((each, text(said)) for each, said in told.items())


def _read_steps(_: _At, plain: dict[str, Any], values: list[Any], __: _Text) -> None:
    """Read which names changed."""
    for place, (name, told) in enumerate(plain.items()):
        if name == "steps":
            if not all(type(new) is str for new in told.values()):
                raise ValueError(f"steps is {told!r:.60}, no names by their old ones")
            values[place] = [*told.items()]


def _read_past(at: _At, plain: dict[str, Any], values: list[Any], text: _Text) -> None:
    """Read what passes over to the next run."""
    for place, (name, told) in enumerate(plain.items()):
        if name == "unread":
            values[place] = [_unread(at, arrival, text) for arrival in told]
        elif name == "shown":
            values[place] = [(each, text(said)) for each, said in told.items()]


def _unread(at: _At, plain: dict[str, Any], text: _Text) -> Unread:
    saga_id, version = at
    if NAMES.get(plain["type"]) not in get_args(Arrival):
        unknown = _NOT_KNOWN.format(repr(plain["type"]), "continued")
        raise UnknownEntry(saga_id, version, unknown)
    arrived = {name: told for name, told in plain.items() if name != "version"}
    return Unread(
        version=int(plain["version"]), arrival=body_from_plain(saga_id, version, arrived, text)
    )


_READ_MORE: Final = {Shown: _read_shown, Continued: _read_past, Migrated: _read_steps}


def _reading(saga_id: SagaId, version: int, plain: dict[str, Any]) -> _Reading:
    """How an entry is read that has no other fields than *plain*."""
    name = plain["type"]
    shape = _SHAPES.get(name)
    if shape is None:
        raise UnknownEntry(saga_id, version, f"there is no entry {name!r} in this version of saga")
    _check_plain(shape, plain)
    if unknown := ", ".join(sorted(plain.keys() - {"type", *shape.names})):
        raise UnknownEntry(saga_id, version, _NOT_KNOWN.format(unknown, name))
    given = [*plain]
    present = tuple(field for field in shape.names if field in plain)
    # Names cost as much as all else, so they are given only where others would take the places.
    is_by_place = present == shape.names[: len(present)] and not shape.is_by_name
    return _Reading(
        shape.kind if is_by_place else partial(_by_name, shape.kind, present),
        _order([given.index(field) for field in present]),
        tuple((given.index(field), read) for field, read in shape.readers if field in plain),
        given.index(shape.message) if shape.message in plain else None,
        tuple(given.index(field) for field in shape.json if field in plain),
        _READ_MORE.get(shape.kind),
    )


def _order(places: Sequence[int]) -> _Order:
    if len(places) > 1:
        return itemgetter(*places)
    first = min(places, default=0)
    return itemgetter(slice(first, first + len(places)))  # of one place it gives no sequence


def _by_name(kind: type, names: tuple[str, ...], *values: object) -> Any:  # noqa: ANN401  # as above
    return kind(**dict(zip(names, values, strict=True)))
