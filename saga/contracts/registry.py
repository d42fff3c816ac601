"""The closed registry of one application's contracts: what it can read, and as what.

It is built once, from the named classes, their replies, all versions joined by upcasts, and the
engine's own messages: no class is found by a name from a message. The engine's own are lenient
where a service may leave something out, and strict where a wrong guess would do harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from saga.contracts.json_text import canonical, shortened
from saga.contracts.models import (
    CONTRACT_NAME_CHARS_MAX,
    INTENT_CANCELLED,
    INTENT_DONE,
    INTENT_FAILED,
    INTENT_PROGRESS,
    Contract,
    ContractModel,
    Kind,
    Upcast,
    complete,
    contract_of,
    parse_contract_name,
)
from saga.core.events import CancelMode, Json, MarkedAs
from saga.core.history import TIME_END
from saga.core.identity import ID_BYTES_MAX
from saga.core.texts import is_storable, storable
from saga.core.values import value
from saga.errors import DefinitionError, UnknownContract

TEXT_CHARS_MAX = 10_000
"""Of a reason, code or message: they end in histories and on screens."""
DETAILS_CHARS_MAX = 10_000
"""Of the JSON of details: they end in histories, three times."""
MODELS_KEPT_MAX = 1_024
"""Received and not yet read by a saga: more than one batch has."""
KEPT_CHARS_MAX = 16_384
"""Larger payloads are read again: all that are kept take no more than some megabytes."""


@value
class ReadPath:
    """How messages of one contract are read: validate, then go up to the current version."""

    contract: Contract
    name: str
    validate: Callable[..., ContractModel]
    is_strict: bool
    upcasts: tuple[Upcast, ...]
    current: Contract


class ContractRegistry:
    """The contracts of one application, by name.

    Raises:
        DefinitionError: a class is no contract, or two of them have one name.
    """

    __slots__ = ("_contracts", "_families", "_kept", "_sources", "own_keys", "paths", "replies")

    def __init__(self, models: Iterable[type[ContractModel]]) -> None:
        contracts = _closure(models)
        self._contracts = dict(sorted(contracts.items()))
        paths = {name: _read_path(contract) for name, contract in self._contracts.items()}
        self.paths = MappingProxyType(paths)
        """How each contract is read, for the codec."""
        sources: dict[str, tuple[str, ...]] = {}
        for name, path in paths.items():
            current = path.current.contract_name
            sources[current] = (*sources.get(current, ()), name)
        self._sources = sources
        keyed = {name: contract for name, contract in self._contracts.items() if contract.key}
        self.own_keys = MappingProxyType({name: _key_in_json(each) for name, each in keyed.items()})
        """Events that travel under a key of their own: which member of their JSON it is."""
        self.replies = MappingProxyType(
            {
                name: self._replies_to(each)
                for name, each in contracts.items()
                if each.kind is Kind.INTENT
            }
        )
        """Of each intent what its reply may come as: None where it has none of its own."""
        self._families = {(known.domain, known.kind, known.name) for known in contracts.values()}
        self._kept: dict[tuple[str, Json], ContractModel] = {}

    @property
    def contracts(self) -> tuple[Contract, ...]:
        """All contracts, by name; the engine's own included."""
        return tuple(self._contracts.values())

    @property
    def published(self) -> tuple[Contract, ...]:
        return tuple(contract for contract in self._contracts.values() if not contract.is_internal)

    def __contains__(self, contract_name: object) -> bool:
        return contract_name in self._contracts

    def keep(self, contract_name: str, payload: Json, model: ContractModel) -> None:
        """Have *model* at hand for the next reader of its payload."""
        if len(payload) > KEPT_CHARS_MAX:
            return
        if len(self._kept) >= MODELS_KEPT_MAX:
            self._kept.clear()
        self._kept[contract_name, payload] = model

    def take(self, contract_name: str, payload: Json) -> ContractModel | None:
        """The model of a payload that was just received; only once, so that it is never shared."""
        return self._kept.pop((contract_name, payload), None)

    def find(self, contract_name: str) -> Contract:
        """The contract of exactly this name, or UnknownContract, which says what comes near."""
        contract = self._contracts.get(contract_name)
        if contract is None:
            raise UnknownContract(self.explain_unknown(contract_name))
        return contract

    def current(self, contract_name: str) -> Contract:
        """The version as which messages of *contract_name* are read, or UnknownContract."""
        return self.paths[self.find(contract_name).contract_name].current

    def names_read_as(self, contract_name: str) -> tuple[str, ...]:
        """All contracts that are read as the same version as this one, or UnknownContract."""
        return self._sources[self.current(contract_name).contract_name]

    def _replies_to(self, intent: Contract) -> frozenset[str | None]:
        if intent.reply is None:
            return frozenset({None})
        name = contract_of(intent.reply).contract_name
        return frozenset({name, *self.names_read_as(name)})

    def knows_other_versions(self, contract_name: str) -> bool:
        """Whether the topic is known, whatever the version."""
        name = parse_contract_name(contract_name)
        return name is not None and (name.domain, name.kind, name.name) in self._families

    def explain_unknown(self, contract_name: str) -> str:
        """A sentence on why *contract_name* is not known, with the names that come near."""
        shown = shortened(contract_name, CONTRACT_NAME_CHARS_MAX)
        near = get_close_matches(shown, self._contracts, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        if parse_contract_name(contract_name) is None:
            return f"{shown!r} is no contract name like 'orders.evt.order-placed.v1'{hint}"
        if self.knows_other_versions(contract_name):
            return f"no such version of a known contract: {shown}{hint}"
        return f"unknown contract {shown}{hint}"


def findable(name: str) -> str:
    """*name*; ValueError where it cannot be stored."""
    if not is_storable(name):
        raise ValueError("holds a NUL, or half of a surrogate pair")
    return name


def _told(text: str) -> str:
    return storable(text, TEXT_CHARS_MAX)


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(findable)]
"""What something is found by: refused where it cannot be stored."""
Told = Annotated[str, Field(max_length=TEXT_CHARS_MAX), AfterValidator(_told)]
"""What is only told: mended where it cannot be stored."""


def _bounded(details: object) -> object:
    if details is not None and len(canonical(details)) > DETAILS_CHARS_MAX:
        raise ValueError(f"has more than {DETAILS_CHARS_MAX:,} characters of JSON")
    return details


Details = Annotated[JsonValue, AfterValidator(_bounded)]
"""What a service says of a refusal or failure, for the saga's code."""


class IntentDone(ContractModel):
    """The reply to an `Intent[None]`: done, with nothing to add."""


class IntentFailed(ContractModel):
    """The reply of a service that did not do it.

    `refused` is final and nothing happened; `failed` is a failed attempt.
    """

    outcome: Literal["refused", "failed"]
    code: Told | None = None
    message: Told | None = None
    details: Details = None


class IntentProgress(ContractModel):
    """A service still works on an intent: the step's deadline begins anew."""

    note: Told | None = None


class IntentCancelled(ContractModel):
    """Nobody waits for the answer to an intent any more: its time is up, or its step was given up.

    A notice to the service that may be at work on it, and no more: an answer counts as ever.
    """

    intent_id: Annotated[str, Field(min_length=1, max_length=ID_BYTES_MAX)]
    reason: Told


class CommandAct(StrEnum):
    SIGNAL = "signal"
    UPDATE = "update"
    """A signal that is answered."""
    CANCEL = "cancel"
    RETRY = "retry"
    SKIP = "skip"
    COMPENSATE = "compensate"
    RELEASE = "release"
    ABANDON = "abandon"
    UNDO = "undo"
    """Of a child: only its parent may ask, in the name of the intent that undoes its step."""
    PAUSE = "pause"
    RESUME = "resume"
    MARK = "mark"
    RERUN = "rerun"
    FIRE_TIMER = "fire-timer"
    MOVE_TIMER = "move-timer"
    MIGRATE = "migrate"


VERSION_MAX: Final = 2**31 - 1
RENAMED_MAX: Final = 1_000
"""So many names may change in one migration."""


class Entered(ContractModel):
    """A message that an operator has entered: a reply, or a trigger."""

    contract: Name
    payload: JsonValue


class Command(ContractModel):
    """A signal, a cancel or an operator's act, for one saga.

    *command_id* is the sender's: the same command sent twice is done once. *definition*
    is the saga's: whose application does not have it leaves the command alone. Without a saga a
    definition is meant, which can be paused and resumed. *name* and *payload* belong to signals and
    updates, *mode* to cancels, *step* to acts about one step, *state*, *evidence* and *reply* to
    marks, *timer* and *due_at* to acts about timers, *key* and *trigger* to reruns, *from_version*,
    *to_version* and *steps* (old names and new ones) to migrations. *requested_at* and *due_at* are
    in microseconds UTC.
    """

    command_id: Name
    act: CommandAct
    saga_id: Name | None = None
    definition: Name | None = None
    name: Name | None = None
    payload: JsonValue = None
    mode: CancelMode = CancelMode.GRACEFUL
    step: Told | None = None
    reason: Told | None = None
    actor: Told | None = None
    requested_at: int | None = Field(default=None, ge=0)
    state: MarkedAs | None = None
    evidence: Told | None = None
    reply: Entered | None = None
    timer: Told | None = None
    due_at: int | None = Field(default=None, ge=0, lt=TIME_END)
    key: Name | None = None
    trigger: Entered | None = None
    from_version: int | None = Field(default=None, ge=1, le=VERSION_MAX)
    to_version: int | None = Field(default=None, ge=1, le=VERSION_MAX)
    steps: dict[Name, Name] | None = Field(default=None, max_length=RENAMED_MAX)

    @property
    def is_for_all(self) -> bool:
        """Whether it is for all sagas of its definition."""
        is_possible = self.act in {CommandAct.PAUSE, CommandAct.RESUME}
        return self.saga_id is None and self.definition is not None and is_possible

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.saga_id is None and not self.is_for_all:
            raise ValueError("it names no saga; only a definition is paused or resumed as a whole")
        if self.act in {CommandAct.SIGNAL, CommandAct.UPDATE} and self.name is None:
            raise ValueError(f"a {self.act.value} needs a name")
        if (lacking := self._lacks()) is not None:
            raise ValueError(lacking)
        gives_up = self.act is CommandAct.ABANDON or self.mode is CancelMode.ABANDON
        if gives_up and not self.reason:
            raise ValueError("to abandon a saga needs a reason")
        return self

    def _lacks(self) -> str | None:
        """What an act needs, and this one does not say."""
        match self.act:
            case CommandAct.MARK if self.step is None or self.state is None or not self.evidence:
                return "to mark a step needs the step, a state (done or undone) and evidence"
            case CommandAct.FIRE_TIMER | CommandAct.MOVE_TIMER if self.timer is None:
                return "an act about a timer needs the timer"
            case CommandAct.MOVE_TIMER if self.due_at is None:
                return "to move a timer needs when it is due"
            case CommandAct.RERUN if self.key is None or self.definition is None:
                return "a rerun needs the definition, and a key of its own"
            case CommandAct.MIGRATE:
                return self._lacks_to_migrate()
        return None

    def _lacks_to_migrate(self) -> str | None:
        if self.definition is None or self.from_version is None or self.to_version is None:
            return "a migration needs the definition, and the versions from which and to which"
        if self.from_version == self.to_version:
            return "a migration needs two versions that are not the same"
        if not self.reason:
            return "to migrate a saga needs a reason"
        steps = self.steps or {}
        if len({*steps.values()}) < len(steps):
            return "steps: two names would be one"
        return None


COMMAND = Contract(domain="saga", name="command", kind=Kind.CONTROL, version=1, model=Command)


_OF_EVERY_DOMAIN: Final = (
    (INTENT_DONE, Kind.EVENT, IntentDone),
    (INTENT_FAILED, Kind.EVENT, IntentFailed),
    (INTENT_PROGRESS, Kind.EVENT, IntentProgress),
    (INTENT_CANCELLED, Kind.CONTROL, IntentCancelled),
)


def internal_contracts(domain: str) -> list[Contract]:
    """What is said of the intents of *domain*, beside their own replies."""
    return [
        Contract(domain=domain, name=name, kind=kind, version=1, model=model)
        for name, kind, model in _OF_EVERY_DOMAIN
    ]


def _closure(models: Iterable[type[ContractModel]]) -> dict[str, Contract]:
    """*models*, what they reach through replies and upcasts, and the engine's own contracts."""
    contracts: dict[str, Contract] = {}
    waiting = list(models)
    while waiting:
        contract = contract_of(waiting.pop())
        known = contracts.get(contract.contract_name)
        if known is None:
            complete(contract.model)
            contracts[contract.contract_name] = contract
            waiting.extend(_neighbours(contract))
        elif known.model is not contract.model:
            raise DefinitionError(
                f"{contract.model.__qualname__} and {known.model.__qualname__} ({known.where}) both"
                f" are {contract.contract_name}, and this application uses both",
                where=contract.where,
            )
    domains = {contract.domain for contract in contracts.values() if contract.kind is Kind.INTENT}
    internal = [COMMAND, *(each for domain in domains for each in internal_contracts(domain))]
    return contracts | {contract.contract_name: contract for contract in internal}


def _neighbours(contract: Contract) -> list[type[ContractModel]]:
    model = contract.model
    near: list[type[ContractModel]] = [step.old for step in model.__saga_upcasts_from__]
    if model.__saga_upcast__ is not None:
        near.append(model.__saga_upcast__.new)
    if contract.reply is not None:
        near.append(contract.reply)
    return near


def _key_in_json(contract: Contract) -> str:
    assert contract.key is not None, contract
    field = contract.model.model_fields[contract.key]
    return field.serialization_alias or contract.key


def _read_path(contract: Contract) -> ReadPath:
    upcasts: list[Upcast] = []
    model = contract.model
    while (step := model.__saga_upcast__) is not None:
        upcasts.append(step)
        model = step.new
    return ReadPath(
        contract=contract,
        name=contract.contract_name,
        validate=contract.model.__pydantic_validator__.validate_json,
        is_strict=contract.model.model_config.get("strict") is not False,
        upcasts=tuple(upcasts),
        current=contract_of(model) if upcasts else contract,
    )
