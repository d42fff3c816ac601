"""What every way to write a saga says alike: checked here, and bound for the kernel.

A front-end adds its own: what it is made of, a program of that, and a fingerprint of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import field
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Final, TypedDict

import pydantic
from pydantic import BaseModel

from saga.authoring.definition import SagaDefinition, WhenStuck
from saga.authoring.determinism import Nondeterminism
from saga.authoring.listening import KeySpec, Listening, listenings
from saga.authoring.listening import check_key_field as check_field
from saga.authoring.mapping import check_rolled_back
from saga.authoring.messages import RolledBack
from saga.authoring.source import referenced_contracts, sources_of
from saga.contracts import (
    ContractRegistry,
    Event,
    Kind,
    accepting,
    as_read,
    contract_of,
    reads_as,
)
from saga.contracts.between_sagas import ChildEnded, ChildStarted
from saga.contracts.keys import key_text
from saga.core.durations import Duration, duration_us
from saga.core.events import Message, event_channel
from saga.core.identity import SagaId
from saga.core.program import Definition, Program
from saga.core.snapshots import FORMAT
from saga.core.values import value
from saga.errors import DefinitionError

NAME_CHARS_MAX = 100
RELEASE: Final = version("saga")
Listens = type[Event] | Listening | Iterable[type[Event] | Listening]


class Declared(TypedDict):
    """The fields of a `Declaration` that `declared` has checked."""

    name: str
    version: int
    starts_on: tuple[type[Event], ...]
    key: KeySpec | None
    listens: tuple[Listening, ...]
    rolled_back: RolledBack | None
    parallel_undo: bool
    when_stuck: WhenStuck
    deadline_us: int | None
    where: str


@value(kw_only=True)
class Surroundings:
    """What a program knows of the application that it runs in.

    *heard*: the events that may reach its saga, and whether other versions of one may, too.
    *why_no_trigger*: why an event begins no next run of the saga of a key.
    """

    registry: ContractRegistry
    heard: Mapping[str, bool]
    why_no_trigger: Callable[[BaseModel, str], str | None]


@value(kw_only=True)
class Declaration(ABC):
    """A kind of saga, up to what its own way of writing makes it do."""

    name: str
    version: int
    starts_on: tuple[type[Event], ...]
    rolled_back: RolledBack | None
    parallel_undo: bool
    when_stuck: WhenStuck
    where: str
    fingerprint: str
    key: KeySpec | None = field(default=None, repr=False)
    nondeterminism: tuple[Nondeterminism, ...] = field(default=(), repr=False)
    """What its source does that no replay gives again."""
    listens: tuple[Listening, ...] = ()
    deadline_us: int | None = None

    @property
    @abstractmethod
    def has_children(self) -> bool:
        """Whether it may start other sagas."""

    @property
    @abstractmethod
    def code(self) -> tuple[Callable[..., Any], ...]:
        """The functions of users that decide for it."""

    @abstractmethod
    def named(self) -> frozenset[type]:
        """The events and intents that it names, beside those of its declaration."""

    @abstractmethod
    def program(self, around: Surroundings, saga_id: SagaId, key: str, run: int) -> Program:
        """What decides for one saga, in the run of this number."""

    def key_of(self, trigger: Event, own_key: str | None = None) -> str:
        """The business key of the saga that *trigger* starts; ValueError if it gives none.

        *own_key* is what its contract's key field says, where that is known.
        """
        if self.key is None and own_key is not None:
            return own_key
        spec = self.key if self.key is not None else contract_of(trigger).key
        key = spec(trigger) if callable(spec) else getattr(trigger, str(spec))
        if key is None or key == "":
            raise ValueError(f"{type(trigger).__name__} gives an empty business key")
        return key_text(key)

    def why_no_trigger(self, trigger: BaseModel, key: str) -> str | None:
        """Why *trigger* begins no run of the saga of this *key*; None where it does."""
        if not isinstance(trigger, self.starts_on):
            starts = " or ".join(each.__name__ for each in self.starts_on)
            return f"version {self.version} of saga {self.name!r}, the newest, starts on {starts}"
        own = self.key_of(trigger)
        if own != key:
            return (
                f"its key is {own!r}, and this saga's {key!r}: a run keeps to its saga's key, so "
                f"fill that of its trigger from ctx.key; a saga that was run again has another key "
                f"than its trigger says"
            )
        return None

    def diagram(self) -> str | None:
        """The saga as Mermaid; None where its way of writing has no diagram."""
        return None

    def told_by(self) -> Iterable[object]:
        """The functions and classes that its snapshots follow from; none of what has none."""
        return ()

    def contracts(self) -> frozenset[type]:
        """The events and intents that it names."""
        named = {*self.named(), *self.starts_on, *(each.event for each in self.listens)}
        if self.has_children:
            named |= {ChildStarted, ChildEnded}
        if isinstance(self.rolled_back, type):
            named.add(self.rolled_back)
        elif self.rolled_back is not None:
            named |= referenced_contracts(self.rolled_back)
        return frozenset(named)

    def _code(self) -> str:
        """A hash of what decides, as snapshots have it: of saga's release, and its own sources."""
        told_by = [*self.told_by()]
        if not told_by:
            return ""
        sources = sources_of([*told_by, *self.code, *self.contracts()])
        text = f"{FORMAT} {RELEASE} {pydantic.VERSION} {self.fingerprint} {sources}"
        return sha256(text.encode()).hexdigest()[:32]

    def bind(
        self,
        registry: ContractRegistry,
        newest: Callable[[], SagaDefinition] | None = None,
        find: Callable[[int | None], Definition | None] | None = None,
    ) -> Definition:
        """The definition as the kernel knows it, reading its messages through *registry*.

        *newest* and *find* give its other versions; there are none without.
        """

        def why_no_trigger(trigger: BaseModel, key: str) -> str | None:
            return (newest() if newest is not None else self).why_no_trigger(trigger, key)

        around = Surroundings(
            registry=registry, heard=_heard(self.listens), why_no_trigger=why_no_trigger
        )
        return Definition(
            self.name,
            self.version,
            self.fingerprint,
            partial(self.program, around),
            parallel_undo=self.parallel_undo,
            continue_when_stuck=self.when_stuck == "continue",
            deadline_us=self.deadline_us,
            code=self._code(),
            contracts=RegisteredContracts(registry),
            find=find,
        )


class RegisteredContracts:
    """The contracts of an application, as the kernel asks for them."""

    __slots__ = ("_registry",)

    def __init__(self, registry: ContractRegistry) -> None:
        self._registry = registry

    def reads_as(self, recorded: Message, message: Message) -> bool:
        return reads_as(self._registry, recorded, message)

    def as_read(self, recorded: Message) -> Message:
        return as_read(self._registry, recorded)

    def accepting(self, recorded: Iterable[Message]) -> AbstractContextManager[None]:
        return accepting(self._registry, recorded)


def declared(
    name: str,
    *,
    version: int,
    starts_on: type[Event] | tuple[type[Event], ...],
    key: KeySpec | None,
    listens: Listens,
    rolled_back: RolledBack | None,
    parallel_undo: bool,
    when_stuck: WhenStuck,
    deadline: Duration | None,
    where: str,
    by: str = "@saga",
) -> Declared:
    """What a definition says of itself, which is made at *where*, with *by*.

    Raises:
        DefinitionError: it cannot work as it is written; names file and line.
    """
    triggers = starts_on if isinstance(starts_on, tuple) else (starts_on,)
    try:
        heard = listenings(listens)
        _check_names(name, version, when_stuck)
        deadline_us = _deadline_us(name, deadline)
        _check_triggers(name, triggers, key, rolled_back, by)
    except DefinitionError as error:
        problem = error.problem
        if problem.startswith("listens to"):
            problem = f"saga {name!r} {problem}"
        raise DefinitionError(problem, where=error.where or where) from None
    return Declared(
        name=name,
        version=version,
        starts_on=triggers,
        key=key,
        listens=heard,
        rolled_back=rolled_back,
        parallel_undo=parallel_undo,
        when_stuck=when_stuck,
        deadline_us=deadline_us,
        where=where,
    )


def check_key_field(name: str, trigger: type[Event], key: KeySpec | None) -> None:
    """Refuse a field as the key of a saga whose values have no text, or several."""
    try:
        check_field(trigger, key)
    except DefinitionError as error:
        raise DefinitionError(f"saga {name!r}: {error.problem}") from None


def _heard(listens: tuple[Listening, ...]) -> dict[str, bool]:
    """The events that may reach a saga: whether other versions of one may, too."""
    names = {each.contract.contract_name for each in listens}
    versions = Counter(map(event_channel, names))
    return {name: versions[event_channel(name)] > 1 for name in names}


def _deadline_us(name: str, deadline: Duration | None) -> int | None:
    if deadline is None:
        return None
    try:
        length_us = duration_us(deadline)
    except ValueError as error:
        raise DefinitionError(f"saga {name!r}: deadline={error}") from None
    if not length_us:
        raise DefinitionError(f"saga {name!r}: deadline={deadline!r} passes before it has begun")
    return length_us


def _check_names(name: str, version: int, when_stuck: str) -> None:
    if not name or "/" in name or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise DefinitionError(
            f"saga name {name!r}: 1 to {NAME_CHARS_MAX} printable characters without '/'"
        )
    if version < 1:
        raise DefinitionError(f"saga {name!r}: version {version} is no positive number")
    if when_stuck not in ("halt", "continue"):
        raise DefinitionError(f"saga {name!r}: when_stuck is 'halt' or 'continue'")


def _check_triggers(
    name: str,
    triggers: tuple[type[Event], ...],
    key: KeySpec | None,
    rolled_back: RolledBack | None,
    by: str,
) -> None:
    if not triggers:
        raise DefinitionError(f"saga {name!r} starts on nothing")
    for trigger in triggers:
        _check_trigger(name, trigger, key, by)
        if isinstance(rolled_back, type):
            check_rolled_back(trigger, rolled_back)


def _check_trigger(name: str, trigger: object, key: KeySpec | None, by: str) -> None:
    if not (isinstance(trigger, type) and issubclass(trigger, Event)):
        raise DefinitionError(f"saga {name!r} starts on {trigger!r}, which is no Event class")
    contract = contract_of(trigger)
    if contract.kind is not Kind.EVENT:
        raise DefinitionError(f"saga {name!r} starts on {trigger.__name__}, which is no fact")
    if isinstance(key, str) and key not in trigger.model_fields:
        raise DefinitionError(f"saga {name!r}: key {key!r} is no field of {trigger.__name__}")
    if trigger.__pydantic_complete__:
        check_key_field(name, trigger, key)
    if key is None and contract.key is None:
        raise DefinitionError(
            f"saga {name!r}: {trigger.__name__} names no key; "
            f"give one to the event (key=…) or to {by}(key=…)"
        )
