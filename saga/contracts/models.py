"""`Event` and `Intent[Reply]`: the bases of everything that is said on a topic.

A contract is declared by class keywords and checked the moment its class is made: whatever is wrong
with it is a `DefinitionError` that names file and line. Models are frozen and ignore fields they do
not know; on the wire they are read strictly, so that what is accepted is what the JSON Schema says.
Only a weak note is kept of the classes made, to catch two of them claiming one topic.
"""

from __future__ import annotations

import gc
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    TypeVar,
    Unpack,
    get_args,
)
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict

from saga.contracts.contract import (
    CONTRACT_NAME_CHARS_MAX,
    Contract,
    Kind,
    intent_done_name,
    intent_failed_name,
)
from saga.contracts.declaration import (
    check_config,
    check_fields,
    checked_key,
    checked_version,
    defined_at,
    refuse_unknown,
    topic_parts,
)
from saga.errors import DefinitionError

if TYPE_CHECKING:
    from saga.contracts.upcast import Upcast

Reply_co = TypeVar("Reply_co", bound="Event | None", covariant=True)

_OPTIONS = ConfigDict(
    frozen=True,
    extra="ignore",
    allow_inf_nan=False,
    # A NaN hidden in an `Any` field must fail while it is encoded, not turn into null.
    ser_json_inf_nan="constants",
)
_FLAT_TYPES = frozenset({str, int, bool, str | None, int | None, bool | None})
_HARMLESS_OPTIONS = frozenset({*_OPTIONS, "title", "strict", "json_schema_extra"})
_MISSING = object()
_claimed: WeakValueDictionary[str, type[ContractModel]] = WeakValueDictionary()


class ContractModel(BaseModel):
    """What events, intents and the engine's own messages have in common."""

    model_config = _OPTIONS

    __saga_contract__: ClassVar[Contract | None] = None
    __saga_is_flat__: ClassVar[bool | None] = None
    __saga_plain_types__: ClassVar[dict[str, frozenset[type]] | None] = None
    __saga_upcast__: ClassVar[Upcast | None] = None
    """How this version becomes the next one."""
    __saga_upcasts_from__: ClassVar[tuple[Upcast, ...]] = ()
    """How older versions become this one."""


class Event(ContractModel):
    """A fact: `class OrderPlaced(Event, topic="orders.order-placed", version=1, key="order_id")`.

    *key* names the field with the business key of the saga that the event starts. A subclass
    without `topic` is only a base for others.
    """

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

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        topic: str | None = None,
        version: int | None = None,
        key: str | None = None,
        **unknown: object,
    ) -> None:
        where = defined_at()
        refuse_unknown(cls, unknown, where)
        _declare(cls, Kind.EVENT, topic, version, key=key, reply=None, where=where)


class Intent(ContractModel, Generic[Reply_co]):
    """What a saga wants done: `class Pay(Intent[Paid], topic="payments.pay", version=1)`.

    The parameter is the event that answers it; `Intent[None]` has no answer of its own.
    """

    def __init_subclass__(
        cls,
        *,
        topic: str | None = None,
        version: int | None = None,
        **config: Unpack[ConfigDict],
    ) -> None:
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        topic: str | None = None,
        version: int | None = None,
        **unknown: object,
    ) -> None:
        where = defined_at()
        refuse_unknown(cls, unknown, where)
        reply = None if topic is None else _reply_of(cls, where)
        _declare(cls, Kind.INTENT, topic, version, key=None, reply=reply, where=where)


def contract_of(model: type[BaseModel]) -> Contract:
    """The contract that the class *model* declares.

    Raises:
        DefinitionError: it declares none.
    """
    contract: Contract | None = model.__dict__.get("__saga_contract__")
    if contract is None:
        raise DefinitionError(
            f'{model.__qualname__} is no contract: give its class topic="<domain>.<name>"'
            " and version=1",
        )
    return contract


def reply_contract_names(contract: Contract) -> tuple[str, ...]:
    """Where an answer to the intent *contract* may arrive: its reply, then the failure."""
    if contract.reply is None:
        done = intent_done_name(contract.domain)
    else:
        done = contract_of(contract.reply).contract_name
    return done, intent_failed_name(contract.domain)


def business_key(model: ContractModel) -> str | None:
    """The business key that *model* carries in its `key` field; None where its class names none."""
    contract = contract_of(type(model))
    if contract.key is None:
        return None
    value = getattr(model, contract.key)
    if value is None:
        return None
    return str(value.value if isinstance(value, Enum) else value)


def is_flat(model: type[ContractModel]) -> bool:
    """Whether a model is nothing but texts, whole numbers and booleans under their own names, so
    that its values are its JSON and no serializer is needed.
    """
    # Remembered in the class itself: a cache would keep it alive, and its contract's name taken.
    known: bool | None = model.__dict__.get("__saga_is_flat__")
    if known is None:
        known = model.__saga_is_flat__ = _is_flat(model)
    return known


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


def has_plain_values(model: ContractModel) -> bool:
    """Whether what a model holds can be read again because of its types alone.

    It is flat, nobody has put in a value unchecked, and no validator has a say.
    """
    kind = type(model)
    types = kind.__dict__.get("__saga_plain_types__")
    if types is None:
        types = kind.__saga_plain_types__ = _plain_types(kind)
    values = model.__dict__
    return bool(types) and all(type(values.get(name, _MISSING)) in types[name] for name in types)


def _plain_types(model: type[ContractModel]) -> dict[str, frozenset[type]]:
    """What may be in each field; empty where a validator or an option has a say."""
    decorators = model.__pydantic_decorators__
    validators = (
        decorators.validators,
        decorators.field_validators,
        decorators.root_validators,
        decorators.model_validators,
    )
    options = {name for name in model.model_config if name not in _HARMLESS_OPTIONS}
    aliases = [field for field in model.model_fields.values() if field.validation_alias]
    has_say = any(validators) or options or aliases or model.__pydantic_post_init__
    if has_say or not is_flat(model):
        return {}
    return {
        name: frozenset(get_args(field.annotation) or (field.annotation,))
        for name, field in model.model_fields.items()
    }


def complete(model: type[ContractModel]) -> None:
    """Resolve annotations that named a class which did not exist yet when *model* was made.

    Raises:
        DefinitionError: one of them still cannot be resolved, or its fields cannot be a contract.
    """
    if model.__pydantic_complete__:
        return
    contract = contract_of(model)
    try:
        model.model_rebuild()
    except NameError as error:
        raise DefinitionError(
            f"{model.__qualname__} has a field whose type cannot be found: {error}",
            where=contract.where,
        ) from error
    check_fields(model, contract.where)


def _declare(
    cls: type[ContractModel],
    kind: Kind,
    topic: str | None,
    version: int | None,
    *,
    key: str | None,
    reply: type[Event] | None,
    where: str,
) -> None:
    """Check what the class keywords of *cls* say and note it on the class."""
    cls.__saga_contract__ = None
    cls.__saga_upcast__ = None
    cls.__saga_upcasts_from__ = ()
    check_config(cls, where)
    if topic is None:
        if version is not None or key is not None:
            raise DefinitionError(
                f'{cls.__qualname__} has a version or key but no topic="<domain>.<name>"',
                where=where,
            )
        return
    domain, name = topic_parts(cls, topic, where)
    contract = Contract(
        domain=domain,
        name=name,
        kind=kind,
        version=checked_version(cls, version, where),
        model=cls,
        reply=reply,
        key=checked_key(cls, key, where),
        where=where,
    )
    if len(contract.contract_name) > CONTRACT_NAME_CHARS_MAX:
        raise DefinitionError(
            f"the topic of {cls.__qualname__} is too long: {contract.contract_name!r} has"
            f" {len(contract.contract_name)} characters of at most {CONTRACT_NAME_CHARS_MAX}",
            where=where,
        )
    if cls.__pydantic_complete__:
        check_fields(cls, where)
    _claim(contract)
    cls.__saga_contract__ = contract


def _reply_of(cls: type[ContractModel], where: str) -> type[Event] | None:
    """The `Reply` in the `Intent[Reply]` that *cls* derives from."""
    for ancestor in cls.__mro__:
        generic = ancestor.__dict__.get("__pydantic_generic_metadata__")
        if generic is None or generic["origin"] is not Intent:
            continue
        (reply,) = generic["args"]
        if reply is None or reply is type(None):
            return None
        is_event = isinstance(reply, type) and issubclass(reply, Event)
        if is_event and reply.__dict__.get("__saga_contract__") is not None:
            return reply  # type: ignore[no-any-return]  # `is_event` has narrowed it
        raise DefinitionError(
            f"{cls.__qualname__} is answered by {getattr(reply, '__qualname__', reply)!r}: expected"
            " an Event class with a topic, or None",
            where=where,
        )
    raise DefinitionError(
        f"{cls.__qualname__} does not say what answers it: derive from Intent[SomeEvent] or"
        " Intent[None]",
        where=where,
    )


def _claim(contract: Contract) -> None:
    """Refuse a second class of this name, unless it is the first one made again (a reload)."""
    mine = contract.model
    other = _claimed.get(contract.contract_name)
    if other is not None and not _is_same_definition(mine, other):
        # Perhaps nobody has the other class any more: classes are freed by the collector only.
        del other
        gc.collect()
        other = _claimed.get(contract.contract_name)
    if other is not None and not _is_same_definition(mine, other):
        raise DefinitionError(
            f"{mine.__qualname__} and {other.__qualname__} ({contract_of(other).where}) both are"
            f" {contract.contract_name}; give one another topic or version",
            where=contract.where,
        )
    _claimed[contract.contract_name] = mine


def _is_same_definition(one: type[Any], other: type[Any]) -> bool:
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
