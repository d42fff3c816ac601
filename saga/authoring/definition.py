"""What the runtime knows of a saga, in whichever way it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel

from saga.authoring.determinism import Nondeterminism
from saga.authoring.listening import KeySpec, Listening
from saga.contracts import ContractModel, ContractRegistry, Event
from saga.core.program import Definition

WhenStuck = Literal["halt", "continue"]


@runtime_checkable
class SagaDefinition(Protocol):
    """One version of a kind of saga. Give it to `SagaApp(sagas=[…])`."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def where(self) -> str:
        """File and line of what defines it."""

    @property
    def fingerprint(self) -> str:
        """A hash of what it says; each run pins that of the code it began with."""

    @property
    def starts_on(self) -> tuple[type[Event], ...]: ...

    @property
    def key(self) -> KeySpec | None:
        """A field name or a function of the trigger; None: the event's own key."""

    @property
    def listens(self) -> tuple[Listening, ...]: ...

    @property
    def parallel_undo(self) -> bool: ...

    @property
    def when_stuck(self) -> WhenStuck: ...

    @property
    def deadline_us(self) -> int | None: ...

    @property
    def has_children(self) -> bool:
        """Whether it may start other sagas."""

    @property
    def nondeterminism(self) -> tuple[Nondeterminism, ...]:
        """What its source does that no replay gives again."""

    @property
    def code(self) -> tuple[Callable[..., Any], ...]:
        """The functions of users that decide for it."""

    def key_of(self, trigger: Event, own_key: str | None = None) -> str:
        """The business key of the saga that *trigger* starts; ValueError if it gives none.

        *own_key* is what its contract's key field says, where that is known.
        """

    def why_no_trigger(self, trigger: BaseModel, key: str) -> str | None:
        """Why *trigger* begins no run of the saga of this *key*; None where it does."""

    def diagram(self) -> str | None:
        """The saga as Mermaid; None where its way of writing has no diagram."""

    def contracts(self) -> frozenset[type]:
        """The events and intents that it names."""

    def bind(
        self,
        registry: ContractRegistry,
        newest: Callable[[], SagaDefinition] | None = None,
        find: Callable[[int | None], Definition | None] | None = None,
    ) -> Definition:
        """The definition as the kernel knows it, reading its messages through *registry*.

        *newest* and *find* give its other versions; there are none without.
        """


Services = Mapping[str, frozenset[str]]
"""The effect services of an application, and which intents each handles."""


@runtime_checkable
class UnresolvedSaga(Protocol):
    """A saga that has names for its contracts, until it is known which contracts there are."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    def contracts(self) -> frozenset[type]:
        """Those that it brings itself."""

    def resolve(
        self,
        models: Iterable[type[ContractModel]],
        services: Services | None = None,
        spare: Iterable[type[ContractModel]] = (),
    ) -> SagaDefinition:
        """The definition, where its names mean what an application has.

        Args:
            models: the contracts of the application.
            services: its effect services; None: they are not known.
            spare: contracts that are known beside, and give way to those of the application.

        Raises:
            DefinitionError: a name is not known, or what it means does not fit.
        """
