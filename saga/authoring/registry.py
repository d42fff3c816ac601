"""The sagas of one application: found by name and version, and by what starts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from saga.authoring.declaration import check_key_field
from saga.authoring.definition import SagaDefinition
from saga.authoring.listening import Listening
from saga.authoring.listening import check_key_field as check_listened_key
from saga.contracts import ContractRegistry, contract_of
from saga.core.decider import Decider
from saga.core.identity import SagaId, saga_id
from saga.core.kernel import decider_for
from saga.core.program import Definition
from saga.core.values import value
from saga.errors import DefinitionError, DuplicateSaga


@value
class Registered:
    saga: SagaDefinition
    decider: Decider


Reached = tuple[Registered, Listening]
"""A version of a saga that an event may reach, and how."""


class SagaRegistry:
    """Every definition and version that this application can run.

    Raises:
        DuplicateSaga: two sagas share name and version.
        DefinitionError: a saga starts on a contract that is not the newest of its line.
    """

    def __init__(self, sagas: Iterable[SagaDefinition], contracts: ContractRegistry) -> None:
        self._by_name: dict[tuple[str, int], Registered] = {}
        self._bound: dict[tuple[str, int], Definition] = {}
        for definition in sagas:
            self._add(definition, contracts)
        self._names = tuple(dict.fromkeys(name for name, _ in self._by_name))
        by_trigger: dict[str, dict[str, Registered]] = {}
        for each in sorted(self._by_name.values(), key=lambda each: each.saga.version):
            for trigger in each.saga.starts_on:
                # A newer version takes the place of an older one.
                starters = by_trigger.setdefault(contract_of(trigger).contract_name, {})
                starters[each.saga.name] = each
        self._by_trigger = {name: list(sagas.values()) for name, sagas in by_trigger.items()}
        self._listening: dict[str, list[Reached]] = {}
        for each in self._by_name.values():
            for listening in each.saga.listens:
                name = listening.contract.contract_name
                self._listening.setdefault(name, []).append((each, listening))

    def find(self, name: str, version: int) -> Registered | None:
        return self._by_name.get((name, version))

    def newest(self, name: str) -> Registered | None:
        versions = [saga for (known, _), saga in self._by_name.items() if known == name]
        return max(versions, key=lambda registered: registered.saga.version, default=None)

    def name_of(self, saga: SagaId, key: str) -> str | None:
        """The definition here whose saga of this business key is *saga*; None if there is none."""
        return next((name for name in self._names if saga_id(name, key) == saga), None)

    def has(self, name: str) -> bool:
        """Whether any version of the definition *name* is here."""
        return name in self._names

    def started_by(self, contract: str) -> list[Registered]:
        """The newest version of every saga that a message of *contract* starts."""
        return self._by_trigger.get(contract, [])

    def listening_to(self, contract: str) -> list[Reached]:
        """Every version of every saga that a message of *contract* may reach, and how."""
        return self._listening.get(contract, [])

    def all(self) -> Mapping[tuple[str, int], Registered]:
        return self._by_name

    def triggers(self) -> frozenset[str]:
        return frozenset(self._by_trigger)

    def listened(self) -> frozenset[str]:
        """The events that may reach running sagas."""
        return frozenset(self._listening)

    def early_us(self) -> frozenset[int]:
        """How long events wait for sagas that are not there yet."""
        listening = (each for heard in self._listening.values() for _, each in heard)
        return frozenset(each.early_us for each in listening if each.early_us)

    def _add(self, definition: SagaDefinition, contracts: ContractRegistry) -> None:
        name = (definition.name, definition.version)
        known = self._by_name.get(name)
        if known is not None:
            raise DuplicateSaga(
                f"saga {definition.name!r} version {definition.version} is also defined at "
                f"{known.saga.where}: give one of them another name, or a new version",
                where=definition.where,
            )
        for trigger in definition.starts_on:
            contract = contract_of(trigger).contract_name
            current = contracts.current(contract).contract_name
            if current != contract:
                raise DefinitionError(
                    f"saga {definition.name!r} starts on {contract}, which is upcast to {current}: "
                    f"let it start on that",
                    where=definition.where,
                )
            check_key_field(definition.name, trigger, definition.key)  # its types are known by now
        for listening in definition.listens:
            _check_listening(definition, listening, contracts)
        bound = self._bound[name] = definition.bind(
            contracts,
            newest=partial(self._newest_of, definition.name),
            find=partial(self._version_of, definition.name),
        )
        self._by_name[name] = Registered(definition, decider_for(bound))

    def _newest_of(self, name: str) -> SagaDefinition:
        found = self.newest(name)
        assert found is not None, name
        return found.saga

    def _version_of(self, name: str, version: int | None) -> Definition | None:
        """The definition of this version; None: the newest."""
        wanted = self._newest_of(name).version if version is None else version
        return self._bound.get((name, wanted))


def _check_listening(
    definition: SagaDefinition, listening: Listening, contracts: ContractRegistry
) -> None:
    contract = listening.contract.contract_name
    current = contracts.current(contract).contract_name
    if current != contract:
        raise DefinitionError(
            f"saga {definition.name!r} listens to {contract}, which is upcast to {current}: "
            f"let it listen to that",
            where=definition.where,
        )
    try:
        check_listened_key(listening.event, listening.key)  # its types are known by now
    except DefinitionError as error:
        raise DefinitionError(
            f"saga {definition.name!r} listens to it: {error.problem}", where=definition.where
        ) from None
