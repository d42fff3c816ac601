"""What a contract is: `Event`, `Intent[Reply]`, their versions, and the names they have everywhere.

Class keywords declare a contract, and it is checked the moment its class is made. Its name, such as
`orders.evt.order-placed.v1`, is its topic without environment and namespace, its `ce_type`, and
what histories store. An upcast only goes up, the one way there is: no message has two readings.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import field
from enum import StrEnum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    TypeGuard,
    TypeVar,
    Unpack,
    get_args,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, PlainSerializer, WrapSerializer

from saga.contracts.accepted import make_accepted
from saga.contracts.keys import check_key_type, key_text
from saga.contracts.sets import ADVICE, is_open, refuse_lost_sets, set_in_type
from saga.core.values import value
from saga.errors import DefinitionError
from saga.users_code import is_ours

CONTRACT_NAME_CHARS_MAX = 160
"""With environment and namespace it stays below the 249 characters that Kafka allows a topic."""
NAME_PART = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
"""One part of a name: small letters, digits and inner hyphens."""
INTENT_DONE = "intent-done"
INTENT_PROGRESS = "intent-progress"
INTENT_CANCELLED = "intent-cancelled"
INTENT_FAILED = "intent-failed"
_REPLY_NAMES = (INTENT_DONE, INTENT_FAILED, INTENT_PROGRESS)
COMMAND_CONTRACT = "saga.ctl.command.v1"
VERSION_END = 10**6
Reply_co = TypeVar("Reply_co", bound="Event | None", covariant=True)
Upcaster = TypeVar("Upcaster", bound="Callable[[Any], ContractModel]")
_OPTIONS = ConfigDict(  # promised by every contract
    frozen=True,
    extra="ignore",
    allow_inf_nan=False,
    # A NaN hidden in an `Any` field must fail while it is encoded, not turn into null.
    ser_json_inf_nan="constants",
)
_FLAT_TYPES = frozenset({str, int, bool, str | None, int | None, bool | None})
_HARMLESS_OPTIONS = frozenset({*_OPTIONS, "title", "strict", "json_schema_extra"})
_SERIALIZERS = (PlainSerializer, WrapSerializer)
_MACHINERY = ("pydantic.", "abc.", "saga.contracts.")
"""Packages whose frames lie between a class statement and its rules."""


class Kind(StrEnum):
    """What the messages of a topic are."""

    EVENT = "evt"
    INTENT = "int"
    CONTROL = "ctl"
    DEAD_LETTER = "dlq"


_CONTRACT_NAME = re.compile(
    rf"({NAME_PART.pattern})\.({'|'.join(Kind)})\.({NAME_PART.pattern})\.v([1-9][0-9]{{0,5}})"
)


class ContractName(NamedTuple):
    domain: str
    kind: Kind
    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.domain}.{self.kind.value}.{self.name}.v{self.version}"


@value(kw_only=True)
class Contract:
    """One version of one message; *where* its class was written is `file:line`."""

    domain: str
    name: str
    kind: Kind
    version: int
    model: type[ContractModel]
    reply: type[Event] | None = None
    """The event that answers an intent; None for `Intent[None]` and whatever is no intent."""
    key: str | None = None
    """The field that holds the business key of events that start a saga."""
    where: str | None = None
    contract_name: str = field(init=False)

    def __post_init__(self) -> None:
        full = ContractName(self.domain, self.kind, self.name, self.version)
        object.__setattr__(self, "contract_name", str(full))

    @property
    def is_internal(self) -> bool:
        """Whether the engine itself defines this contract: commands, and the common replies."""
        return self.kind is Kind.CONTROL or self.name in _REPLY_NAMES


class ContractModel(BaseModel):
    """The base of all messages; what is noted on a class is not inherited by its subclasses."""

    model_config = _OPTIONS

    __saga_kind__: ClassVar[Kind | None] = None
    __saga_contract__: ClassVar[Contract | None] = None
    __saga_flat_size__: ClassVar[int | None] = None
    __saga_is_open__: ClassVar[bool | None] = None
    __saga_plain_types__: ClassVar[dict[str, frozenset[type]] | None] = None
    __saga_upcast__: ClassVar[Upcast | None] = None
    """How this version becomes the next one."""
    __saga_upcasts_from__: ClassVar[tuple[Upcast, ...]] = ()
    """How older versions become this one."""

    if not TYPE_CHECKING:

        def __init__(self, /, **values: object) -> None:
            # As pydantic's own, but for what a history says was accepted before the rules grew.
            __tracebackhide__ = True
            try:
                self.__pydantic_validator__.validate_python(values, self_instance=self)
            except BaseException as error:  # validators are users' code
                if is_ours(error) or not make_accepted(self, values):
                    raise
            if (self.__saga_flat_size__ or 0) <= 0:
                refuse_lost_sets(self, values)

        # Without it pydantic would take it for a method of users, and call it for every message.
        __init__.__pydantic_base_init__ = True

    @classmethod
    def __pydantic_init_subclass__(cls, **keywords: Any) -> None:
        cls.__saga_contract__ = cls.__saga_upcast__ = None
        cls.__saga_flat_size__ = cls.__saga_is_open__ = cls.__saga_plain_types__ = None
        cls.__saga_upcasts_from__ = ()
        if cls.__saga_kind__ is not None and "__saga_kind__" not in vars(cls):
            where = _defined_at()
            with _refused_as(cls.__qualname__, where):
                cls.__saga_contract__ = _declared(cls, cls.__saga_kind__, where, **keywords)


class Event(ContractModel):
    """A fact: `class OrderPlaced(Event, topic="orders.order-placed", version=1, key="order_id")`.

    *key* names the field with the business key; without `topic` it is only a base for others.
    """

    __saga_kind__ = Kind.EVENT

    def __init_subclass__(
        cls,
        *,
        topic: str | None = None,
        version: int | None = None,
        key: str | None = None,
        **config: Unpack[ConfigDict],
    ) -> None:
        # Called before there are fields: `__pydantic_init_subclass__` looks at the keywords.
        super().__init_subclass__()


class Intent(ContractModel, Generic[Reply_co]):
    """What a saga wants done: `class Pay(Intent[Paid], topic="payments.pay", version=1)`.

    The parameter is the event that answers it; `Intent[None]` has no answer of its own.
    """

    __saga_kind__ = Kind.INTENT

    def __init_subclass__(
        cls, *, topic: str | None = None, version: int | None = None, **config: Unpack[ConfigDict]
    ) -> None:
        super().__init_subclass__()


@value
class Upcast:
    old: type[ContractModel]
    new: type[ContractModel]
    function: Callable[[Any], ContractModel]
    where: str


def upcast(function: Upcaster) -> Upcaster:
    """Join two versions of a contract by a pure function that is annotated `(old) -> new`.

    A message on which it raises is a dead letter.

    Raises:
        DefinitionError: these are no two versions of one contract, or *old* has another way up.
    """
    where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    caller = sys._getframe(1)  # noqa: SLF001  # annotations may name classes local to the caller
    with _refused_as(f"upcast {function.__qualname__}", where):
        old, new = _ends(function, caller.f_locals)
    known = old.__saga_upcast__
    if known is not None:
        before = known.function
        if (before.__module__, before.__qualname__) != (function.__module__, function.__qualname__):
            raise DefinitionError(
                f"{contract_of(old).contract_name} already has a way up,"
                f" {before.__qualname__} ({known.where}); a message can be read in one way"
                " only",
                where=where,
            )
        others = (step for step in known.new.__saga_upcasts_from__ if step is not known)
        known.new.__saga_upcasts_from__ = tuple(others)
    made = Upcast(old=old, new=new, function=function, where=where)
    old.__saga_upcast__ = made
    new.__saga_upcasts_from__ = (*new.__saga_upcasts_from__, made)
    return function


def contract_of(model: BaseModel | type[BaseModel]) -> Contract:
    """The contract that *model* or its class declares; DefinitionError if there is none."""
    contract: Contract | None = getattr(model, "__saga_contract__", None)
    if contract is not None:
        return contract
    kind = model if isinstance(model, type) else type(model)
    raise DefinitionError(
        f'{kind.__qualname__} is no contract: give its class topic="<domain>.<name>" and version=1'
    )


def business_key(model: ContractModel) -> str | None:
    """The business key that *model* carries in its `key` field; None where there is none.

    Raises:
        ValueError: it is empty or too long, or cannot be stored.
    """
    contract = contract_of(model)
    if contract.key is None:
        return None
    key = getattr(model, contract.key)
    return None if key is None else key_text(key)


def reply_contract_names(contract: Contract) -> tuple[str, ...]:
    """Where an answer to the intent *contract* may arrive: its reply, then the failure."""
    if contract.reply is None:
        done = intent_done_name(contract.domain)
    else:
        done = contract_of(contract.reply).contract_name
    return done, intent_failed_name(contract.domain)


def parse_contract_name(text: str) -> ContractName | None:
    """The parts of a contract's name, or None where *text* is none."""
    if len(text) > CONTRACT_NAME_CHARS_MAX or (found := _CONTRACT_NAME.fullmatch(text)) is None:
        return None
    domain, kind, name, version = found.groups()
    return ContractName(domain, Kind(kind), name, int(version))


def intent_done_name(domain: str) -> str:
    """The contract that says an `Intent[None]` of *domain* is done."""
    return f"{domain}.evt.{INTENT_DONE}.v1"


def intent_failed_name(domain: str) -> str:
    """The contract that says an intent of *domain* was refused or failed."""
    return f"{domain}.evt.{INTENT_FAILED}.v1"


def intent_progress_name(domain: str) -> str:
    """The contract by which a service says that it still works on an intent of *domain*."""
    return f"{domain}.evt.{INTENT_PROGRESS}.v1"


def intent_cancelled_name(domain: str) -> str:
    """The contract that tells services of *domain* that nobody waits for an intent any more."""
    return f"{domain}.ctl.{INTENT_CANCELLED}.v1"


def dlq_name(contract_name: str) -> str:
    """The contract name of the dead letters of *contract_name*; ValueError if that is none."""
    name = parse_contract_name(contract_name)
    if name is None:
        raise ValueError(f"{contract_name!r} is no contract name like 'orders.evt.order-placed.v1'")
    return str(name._replace(kind=Kind.DEAD_LETTER))


def flat_size(model: ContractModel) -> int:
    """How many values a model has that is only texts, whole numbers and booleans: -1 for others.

    Where it has them all, they are its JSON.
    """
    known = model.__saga_flat_size__
    if known is None:
        kind = type(model)
        known = kind.__saga_flat_size__ = len(kind.model_fields) if _is_flat(kind) else -1
    return known


def may_hold_sets(model: ContractModel) -> bool:
    """Whether only its values can tell that there is no set in it."""
    known = model.__saga_is_open__
    if known is None:
        known = type(model).__saga_is_open__ = is_open(type(model))
    return known


def has_plain_values(model: ContractModel) -> bool:
    """Whether the types of its values alone say that what a model holds can be read again."""
    types = model.__saga_plain_types__
    if types is None:
        types = type(model).__saga_plain_types__ = _plain_types(model)
    values = model.__dict__
    # In the order of its fields, as a model has them that was validated.
    is_whole = bool(types) and tuple(values) == tuple(types)
    return is_whole and all(map(frozenset.__contains__, types.values(), map(type, values.values())))


def complete(model: type[ContractModel]) -> None:
    """Resolve annotations of classes made after *model*; DefinitionError where that cannot be."""
    if model.__pydantic_complete__:
        return
    with _refused_as(model.__qualname__, contract_of(model).where):
        try:
            model.model_rebuild()
        except NameError as error:
            raise DefinitionError(f"has a field whose type cannot be found: {error}") from error
        _check_fields(model, contract_of(model).key)


def _is_flat(model: type[ContractModel]) -> bool:
    decorators = model.__pydantic_decorators__
    if decorators.field_serializers or decorators.model_serializers or model.model_computed_fields:
        return False
    return all(
        field.annotation in _FLAT_TYPES
        and field.serialization_alias is None
        and not field.exclude
        and not field.metadata
        for field in model.model_fields.values()
    )


def _plain_types(model: ContractModel) -> dict[str, frozenset[type]]:
    """What may be in each field; empty where a validator or an option has a say."""
    decorators = model.__pydantic_decorators__
    validators = (
        *(decorators.validators, decorators.field_validators),
        *(decorators.root_validators, decorators.model_validators),
    )
    model_fields = type(model).model_fields
    options = {name for name in model.model_config if name not in _HARMLESS_OPTIONS}
    aliases = [field for field in model_fields.values() if field.validation_alias]
    has_say = any(validators) or options or aliases or model.__pydantic_post_init__
    if has_say or flat_size(model) < 0:
        return {}
    return {
        name: frozenset(get_args(field.annotation) or (field.annotation,))
        for name, field in model_fields.items()
    }


@contextmanager
def _refused_as(name: str, where: str | None) -> Iterator[None]:
    """Have a refusal say what was refused, and where that was written."""
    try:
        yield
    except DefinitionError as refusal:
        raise DefinitionError(f"{name} {refusal.problem}", where=where) from refusal.__cause__


def _defined_at() -> str:
    """`file:line` of the class statement that is being executed."""
    frame = sys._getframe(1)  # noqa: SLF001  # the caller's place is the point of the message
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if not f"{module}.".startswith(_MACHINERY):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _declared(
    cls: type[ContractModel],
    kind: Kind,
    where: str,
    *,
    topic: object = None,
    version: object = None,
    key: object = None,
    **unknown: object,
) -> Contract | None:
    if key is not None and kind is Kind.INTENT:
        unknown["key"] = key
    _check_options(cls, unknown)
    if topic is None:
        if version is not None or key is not None:
            raise DefinitionError('has a version or key but no topic="<domain>.<name>"')
        return None
    domain, name = _topic_parts(topic)
    if type(version) is not int or not 1 <= version < VERSION_END:
        raise DefinitionError(
            f"has version={version!r}: expected its major version, a whole number from 1 on"
        )
    if key is not None and not (isinstance(key, str) and key in cls.model_fields):
        raise DefinitionError(
            f"has key={key!r}, which is none of its fields:"
            f" {', '.join(cls.model_fields) or 'it has none'}"
        )
    contract = Contract(
        domain=domain,
        name=name,
        kind=kind,
        version=version,
        model=cls,
        reply=_reply_of(cls) if kind is Kind.INTENT else None,
        key=key,
        where=where,
    )
    if len(contract.contract_name) > CONTRACT_NAME_CHARS_MAX:
        raise DefinitionError(
            f"has a topic that is too long: {contract.contract_name!r} has"
            f" {len(contract.contract_name)} characters of at most {CONTRACT_NAME_CHARS_MAX}"
        )
    if cls.__pydantic_complete__:
        _check_fields(cls, key)
    return contract


def _check_options(cls: type[BaseModel], unknown: Iterable[str]) -> None:
    """Refuse keywords that mean nothing, and options under which no promise could be kept."""
    if names := ", ".join(unknown):
        raise DefinitionError(
            f"has the class keyword {names}: expected topic and version, and for events key"
        )
    for option, promised in _OPTIONS.items():
        if cls.model_config.get(option) != promised:
            raise DefinitionError(
                f"sets {option}={cls.model_config.get(option)!r} in its configuration; contracts"
                f" are always {option}={promised!r}"
            )


def _topic_parts(topic: object) -> tuple[str, str]:
    """Domain and name of `topic=`; refuse what is no legal name or one of the engine's."""
    domain, _, name = topic.partition(".") if isinstance(topic, str) else ("", "", "")
    if not (NAME_PART.fullmatch(domain) and NAME_PART.fullmatch(name)):
        raise DefinitionError(
            f'has topic={topic!r}: expected "<domain>.<name>", two parts of small letters, digits'
            ' and hyphens, for example "orders.order-placed"'
        )
    if name in _REPLY_NAMES:
        raise DefinitionError(
            f"has topic={topic!r}: {', '.join(map(repr, _REPLY_NAMES))} are the names of the"
            " replies that every domain has; choose another name"
        )
    return domain, name


def _reply_of(cls: type[ContractModel]) -> type[Event] | None:
    """The `Reply` in the `Intent[Reply]` that *cls* derives from."""
    for ancestor in cls.__mro__:
        generic = ancestor.__dict__.get("__pydantic_generic_metadata__")
        if generic is None or generic["origin"] is not Intent:
            continue
        (reply,) = generic["args"]
        if reply is None or reply is type(None):
            return None
        if is_contract(reply) and issubclass(reply, Event):
            return reply
        raise DefinitionError(
            f"is answered by {getattr(reply, '__qualname__', reply)!r}: expected an Event class"
            " with a topic, or None"
        )
    raise DefinitionError(
        "does not say what answers it: derive from Intent[SomeEvent] or Intent[None]"
    )


def _check_fields(cls: type[BaseModel], key: str | None) -> None:
    """Refuse fields without one canonical JSON, and a key without one text."""
    path = set_in_type(cls)
    if path is not None:
        raise DefinitionError(f"has a set in {path!r}: {ADVICE}")
    if key is None:
        return
    info = cls.model_fields[key]
    check_key_type(info.annotation, key)
    decorators = cls.__pydantic_decorators__
    serialized = [
        name for each in decorators.field_serializers.values() for name in each.info.fields
    ]
    has_own = {key, "*"} & set(serialized) or any(
        isinstance(each, _SERIALIZERS) for each in info.metadata
    )
    if has_own or info.exclude or decorators.model_serializers:
        raise DefinitionError(
            f"writes its key {key!r} in its own way, or not at all: readers must find the key in"
            " the payload as it is; leave out its serializer and exclude"
        )


def _ends(
    function: Callable[[Any], ContractModel], names: dict[str, Any]
) -> tuple[type[ContractModel], type[ContractModel]]:
    try:
        hints = get_type_hints(function, localns=names)
    except NameError as error:
        raise DefinitionError(f"has annotations that cannot be resolved: {error}") from error
    parameters = list(inspect.signature(function).parameters.values())
    old = hints.get(parameters[0].name) if len(parameters) == 1 else None
    new = hints.get("return")
    if not (is_contract(old) and is_contract(new)):
        raise DefinitionError(
            "must be annotated (old) -> new with two contract classes, and nothing else"
        )
    if inspect.iscoroutinefunction(function):
        raise DefinitionError("must be a plain function, not async")
    before, after = contract_of(old), contract_of(new)
    if (before.domain, before.kind, before.name) != (after.domain, after.kind, after.name):
        raise DefinitionError(
            f"goes from {before.contract_name} to {after.contract_name}: both must be versions of"
            " one topic"
        )
    if before.version >= after.version:
        raise DefinitionError(
            f"goes from version {before.version} to {after.version}: it must go up"
        )
    return old, new


def is_contract(model: object) -> TypeGuard[type[ContractModel]]:
    if not (isinstance(model, type) and issubclass(model, ContractModel)):
        return False
    return model.__saga_contract__ is not None
