"""What an application is made of: the sagas, effect services and contracts of one deployment.

Checked as a whole when it is made; nothing is opened or started.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Final

from saga.authoring import SagaDefinition, SagaRegistry, UnresolvedSaga
from saga.contracts import ContractModel, ContractRegistry, Kind, contract_of, dlq_name, is_contract
from saga.contracts.between_sagas import CHILD_CONTRACTS
from saga.effects import Effects
from saga.errors import DefinitionError
from saga.ports import TopicSpec
from saga.runtime.middleware import AroundTurn
from saga.runtime.router import Router

if TYPE_CHECKING:
    from saga.contracts import TopicNames
    from saga.service import Service
    from saga.settings import Settings


_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
ROLES = ("orchestrator", "effects")


class Application:
    """The definitions that belong together; `SagaApp` documents the arguments."""

    def __init__(
        self,
        *,
        sagas: Sequence[SagaDefinition | UnresolvedSaga] = (),
        effects: Sequence[Effects] = (),
        contracts: Sequence[type[ContractModel] | ModuleType] = (),
        name: str | None = None,
        around_turns: Sequence[AroundTurn] = (),
    ) -> None:
        if name is not None and not _NAME.fullmatch(name):
            raise DefinitionError(
                f"{name[:100]!r} cannot be an application's name: give up to 100 letters, digits, "
                "dots, hyphens and underscores"
            )
        for saga in sagas:
            if not isinstance(saga, SagaDefinition | UnresolvedSaga):
                raise DefinitionError(f"{saga!r} is no saga: decorate its function with @saga")
        _check_services(effects)
        self.sagas = _resolved(sagas, effects, contracts)
        self.effects = tuple(effects)
        self.around_turns = tuple(around_turns)
        self.contracts = ContractRegistry(_all_contracts(self.sagas, effects, contracts))
        self.registry = SagaRegistry(self.sagas, self.contracts)
        # Its first saga's: no other application of the namespace has that, and it seldom changes.
        self.name = name or next((saga.name for saga in self.sagas), "saga")

    def build_service(
        self, settings: Settings, *, roles: Collection[str] = ROLES, has_probes: bool = False
    ) -> Service:
        """A service that does not run yet; a subclass that knows the adapters supplies this method.

        Raises:
            SettingsError, StoreUnavailable, StoreTooNew: bus or store cannot be opened.
        """
        raise NotImplementedError

    def group(self, settings: Settings) -> str:
        """The consumer group of its orchestrators: that of no other application."""
        return settings.topic_names.topic(settings.group or f"saga-orchestrator.{self.name}")

    def topics(self, names: TopicNames) -> list[str]:
        """Every topic that this application publishes to or reads."""
        router = Router(self.registry, self.contracts, names)
        topics = {names.topic(contract.contract_name) for contract in self.contracts.contracts}
        if self.sagas:  # any saga may be another one's child
            topics.update(map(names.topic, CHILD_CONTRACTS))
        topics.update(router.topics)
        read = [*map(names.contract_name, router.topics), *self._handled]
        topics.update(names.topic(dlq_name(name)) for name in read if name is not None)
        return sorted(topics)

    def topic_specs(self, settings: Settings) -> list[TopicSpec]:
        return [
            TopicSpec(topic, settings.partitions, settings.retention_s)
            for topic in self.topics(settings.topic_names)
        ]

    @cached_property
    def _handled(self) -> list[str]:
        models = [model for service in self.effects for model in (*service.intents, *service.facts)]
        return [contract_of(model).contract_name for model in models]

    def unhandled_intents(self) -> list[str]:
        """Intents that no effect service of this application handles; others may."""
        published = self.contracts.published
        intents = [each.contract_name for each in published if each.kind is Kind.INTENT]
        return [name for name in intents if name not in self._handled]


def _check_services(effects: Sequence[Effects]) -> None:
    """Refuse two services of one name, and two that would both do what is to be done once."""
    names: dict[str, str] = {}
    handlers: dict[type[ContractModel], str] = {}
    for service in effects:
        if service.name in names:
            raise DefinitionError(
                f"effect service {service.name!r} is also made at {names[service.name]}: two of "
                f"one name would share an inbox and a consumer group",
                where=service.where,
            )
        names[service.name] = service.where
        for model, handler in service.intents.items():
            if model in handlers:
                raise DefinitionError(
                    f"{contract_of(model).contract_name} is also handled by {handlers[model]}: an "
                    f"intent is done once, so only one service of an application may handle it",
                    where=handler.where,
                )
            handlers[model] = handler.name


def _resolved(
    sagas: Iterable[SagaDefinition | UnresolvedSaga],
    effects: Sequence[Effects],
    given: Sequence[type[ContractModel] | ModuleType],
) -> tuple[SagaDefinition, ...]:
    """The definitions, where names mean the contracts of all that belongs to the application."""
    sagas = list(sagas)
    models = _all_contracts(sagas, effects, given)
    services = {
        each.name: frozenset(contract_of(model).contract_name for model in each.intents)
        for each in effects
    }
    found: list[SagaDefinition] = []
    for saga in sagas:
        if isinstance(saga, UnresolvedSaga):
            definition = saga.resolve(models, services)
            models.update(filter(is_contract, definition.contracts()))
        else:
            definition = saga
        found.append(definition)
    return tuple(found)


def _all_contracts(
    sagas: Iterable[SagaDefinition | UnresolvedSaga],
    effects: Iterable[Effects],
    given: Iterable[type[ContractModel] | ModuleType],
) -> set[type[ContractModel]]:
    models: set[type[ContractModel]] = set()
    for definition in sagas:
        models.update(filter(is_contract, definition.contracts()))
    for service in effects:
        models.update(service.intents, service.facts)
    for each in given:
        if isinstance(each, ModuleType):
            models.update(filter(is_contract, vars(each).values()))
        else:
            models.add(contract_of(each).model)
    return models
