"""`@saga` makes a definition of a function, and refuses with file and line what cannot work."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Literal

from pydantic import BaseModel

from saga.authoring.functions.determinism import Nondeterminism, warned_of
from saga.authoring.functions.inspection import (
    check_awaited,
    check_next,
    check_scopes,
    check_steps,
    fingerprint,
    may_call,
    place_of,
    referenced_contracts,
)
from saga.authoring.functions.program import (
    FunctionProgram,
    RegisteredContracts,
    RolledBack,
    SagaFunction,
)
from saga.authoring.listening import KeySpec, Listening, listenings
from saga.authoring.listening import check_key_field as check_field
from saga.authoring.mapping import check_rolled_back
from saga.contracts import ContractRegistry, Event, Kind, contract_of
from saga.contracts.between_sagas import ChildEnded, ChildStarted
from saga.contracts.keys import key_text
from saga.core.durations import Duration, duration_us
from saga.core.events import event_channel
from saga.core.identity import SagaId
from saga.core.program import Definition
from saga.core.values import value
from saga.errors import DefinitionError

NAME_CHARS_MAX = 100
Listens = type[Event] | Listening | Iterable[type[Event] | Listening]


@value
class SagaDefinition:
    """A kind of saga written as a durable function. Give it to `SagaApp(sagas=[…])`."""

    name: str
    version: int
    function: SagaFunction
    starts_on: tuple[type[Event], ...]
    rolled_back: RolledBack | None
    parallel_undo: bool
    when_stuck: Literal["halt", "continue"]
    where: str
    fingerprint: str
    key: KeySpec | None = field(default=None, repr=False)
    nondeterminism: tuple[Nondeterminism, ...] = field(default=(), repr=False)
    """What its source does that no replay gives again."""
    listens: tuple[Listening, ...] = ()
    deadline_us: int | None = None

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

    def contracts(self) -> frozenset[type]:
        """The events and intents that the function's source names."""
        named = set(referenced_contracts(self.function)) | set(self.starts_on)
        named |= {listening.event for listening in self.listens}
        if self.has_children:
            named |= {ChildStarted, ChildEnded}
        if self.rolled_back is not None:
            if isinstance(self.rolled_back, type):
                named.add(self.rolled_back)
            else:
                named |= referenced_contracts(self.rolled_back)
        return frozenset(named)

    @property
    def has_children(self) -> bool:
        """Whether its function may start other sagas, which is seen from its source."""
        return may_call(self.function, "child")

    def why_no_trigger(self, trigger: BaseModel, key: str) -> str | None:
        """Why *trigger* begins no run of the saga of this *key*; None where it does."""
        if not isinstance(trigger, self.starts_on):
            starts = " or ".join(each.__name__ for each in self.starts_on)
            return f"version {self.version} of saga {self.name!r}, the newest, starts on {starts}"
        own = self.key_of(trigger)
        if own != key:
            return f"its key is {own!r}, and this saga's {key!r}: a run keeps to its saga's key"
        return None

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

        function, version, rolled_back = self.function, self.version, self.rolled_back
        heard = _heard(self.listens)

        def program(saga_id: SagaId, key: str, run: int) -> FunctionProgram:
            return FunctionProgram(
                saga_id,
                key,
                function=function,
                version=version,
                rolled_back=rolled_back,
                registry=registry,
                heard=heard,
                run=run,
                why_no_trigger=why_no_trigger,
            )

        return Definition(
            self.name,
            self.version,
            self.fingerprint,
            program,
            parallel_undo=self.parallel_undo,
            continue_when_stuck=self.when_stuck == "continue",
            deadline_us=self.deadline_us,
            contracts=RegisteredContracts(registry),
            find=find,
        )


def saga(
    name: str,
    *,
    version: int,
    starts_on: type[Event] | tuple[type[Event], ...],
    key: KeySpec | None = None,
    listens: Listens = (),
    rolled_back: RolledBack | None = None,
    parallel_undo: bool = False,
    when_stuck: Literal["halt", "continue"] = "halt",
    deadline: Duration | None = None,
) -> Callable[[SagaFunction], SagaDefinition]:
    """Make a saga of an `async def (ctx, trigger) -> Event | None`.

    Args:
        name: every saga's id is made from it, so it is never to be changed.
        version: running sagas keep the one they began with.
        starts_on: the event, or events, that start one.
        key: a field name or a function of the trigger; by default the event's own key.
        listens: the events of other services that reach a running saga: classes, or `on(…)`.
        rolled_back: the outcome then: an event class, filled by field name from trigger and report
            (`reason`, `code`, `failed_step`, `residue`), or a function `(trigger, report)`.
        parallel_undo: undo side by side what did not depend on each other.
        when_stuck: `halt`: a step that cannot be undone parks the saga; `continue`: it is residue.

        deadline: for the whole saga, from its start: past it the saga is rolled back, with the code
            `deadline`; past the pivot that is only noted.

    Raises:
        DefinitionError: it cannot work as it is written; names file and line.
    """
    triggers = starts_on if isinstance(starts_on, tuple) else (starts_on,)

    def decorate(function: SagaFunction) -> SagaDefinition:
        where = place_of(function)
        try:
            heard = listenings(listens)
            _check_names(name, version, when_stuck)
            deadline_us = _deadline_us(name, deadline)
            _check_function(name, function)
            _check_triggers(name, triggers, key, rolled_back)
        except DefinitionError as error:
            problem = error.problem
            if problem.startswith("listens to"):
                problem = f"saga {name!r} {problem}"
            raise DefinitionError(problem, where=error.where or where) from None
        check_steps(function)
        check_next(function, [listening.event for listening in heard])
        check_awaited(function)
        check_scopes(function)
        nondeterminism = warned_of(name, function, rolled_back)
        return SagaDefinition(
            name=name,
            version=version,
            function=function,
            starts_on=triggers,
            rolled_back=rolled_back,
            parallel_undo=parallel_undo,
            when_stuck=when_stuck,
            where=where,
            # A deadline more or less is other code; how long it is, a running saga keeps.
            fingerprint=fingerprint(function, "" if deadline is None else "deadline"),
            deadline_us=deadline_us,
            nondeterminism=nondeterminism,
            key=key,
            listens=heard,
        )

    return decorate


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


def _heard(listens: tuple[Listening, ...]) -> dict[str, bool]:
    """The events that may reach a saga: whether other versions of one may, too."""
    names = {each.contract.contract_name for each in listens}
    versions = Counter(map(event_channel, names))
    return {name: versions[event_channel(name)] > 1 for name in names}


def _check_names(name: str, version: int, when_stuck: str) -> None:
    if not name or "/" in name or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise DefinitionError(
            f"saga name {name!r}: 1 to {NAME_CHARS_MAX} printable characters without '/'"
        )
    if version < 1:
        raise DefinitionError(f"saga {name!r}: version {version} is no positive number")
    if when_stuck not in ("halt", "continue"):
        raise DefinitionError(f"saga {name!r}: when_stuck is 'halt' or 'continue'")


def _check_function(name: str, function: SagaFunction) -> None:
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(f"saga {name!r} must be an `async def (ctx, trigger)`")
    if len(inspect.signature(function).parameters) != len(("ctx", "trigger")):
        raise DefinitionError(
            f"saga {name!r} takes exactly two arguments: the context, the trigger"
        )


def _check_triggers(
    name: str,
    triggers: tuple[type[Event], ...],
    key: KeySpec | None,
    rolled_back: RolledBack | None,
) -> None:
    if not triggers:
        raise DefinitionError(f"saga {name!r} starts on nothing")
    for trigger in triggers:
        _check_trigger(name, trigger, key)
        if isinstance(rolled_back, type):
            check_rolled_back(trigger, rolled_back)


def _check_trigger(name: str, trigger: object, key: KeySpec | None) -> None:
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
            f"give one to the event (key=…) or to @saga(key=…)"
        )


def check_key_field(name: str, trigger: type[Event], key: KeySpec | None) -> None:
    """Refuse a field as the key of a saga whose values have no text, or several."""
    try:
        check_field(trigger, key)
    except DefinitionError as error:
        raise DefinitionError(f"saga {name!r}: {error.problem}") from None
