"""
`Event` and `Intent[Reply]`: the bases of everything that is said on a topic.

A contract is declared by class keywords and checked the moment its class is made: whatever is wrong
with it is a `DefinitionError` that names file and line. Models are frozen and ignore fields they do
not know; on the wire they are read strictly, so that what is accepted is what the JSON Schema says.
Only a weak note is kept of the classes made, to catch two of them claiming one topic.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    TypeVar,
    Unpack,
    get_args,
    get_origin,
)
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict

from saga.contracts.contract import (
    CONTRACT_NAME_CHARS_MAX,
    INTENT_DONE,
    INTENT_FAILED,
    NAME_PART,
    Contract,
    Kind,
    intent_done_name,
    intent_failed_name,
)
from saga.errors import DefinitionError

if TYPE_CHECKING:
    from saga.contracts.upcast import Upcast

Reply_co = TypeVar("Reply_co", bound="Event | None", covariant=True)

_CONFIG_PROMISED: Mapping[str, object] = {
    "frozen": True,
    "extra": "ignore",
    "allow_inf_nan": False,
    "ser_json_inf_nan": "constants",
}
_claimed: WeakValueDictionary[str, type[ContractModel]] = WeakValueDictionary()


class ContractModel(BaseModel):
    """
    What events, intents and the engine's own messages have in common.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        # A NaN hidden in an `Any` field must fail while it is encoded, not turn into null.
        ser_json_inf_nan="constants",
    )

    __saga_contract__: ClassVar[Contract | None] = None
    __saga_upcast__: ClassVar[Upcast | None] = None
    """How this version becomes the next one."""
    __saga_upcasts_from__: ClassVar[tuple[Upcast, ...]] = ()
    """How older versions become this one."""


class Event(ContractModel):
    """
    A fact: `class OrderPlaced(Event, topic="orders.order-placed", version=1, key="order_id")`.

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
        where = _defined_at()
        _refuse_unknown(cls, unknown, where)
        _declare(cls, Kind.EVENT, topic, version, key=key, reply=None, where=where)


class Intent(ContractModel, Generic[Reply_co]):
    """
    What a saga wants done: `class Pay(Intent[Paid], topic="payments.pay", version=1)`.

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
        where = _defined_at()
        _refuse_unknown(cls, unknown, where)
        reply = None if topic is None else _reply_of(cls, where)
        _declare(cls, Kind.INTENT, topic, version, key=None, reply=reply, where=where)


def contract_of(model: type[BaseModel]) -> Contract:
    """
    The contract that the class *model* declares.

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
    """
    Where an answer to the intent *contract* may arrive: its reply, then the failure.
    """
    if contract.reply is None:
        done = intent_done_name(contract.domain)
    else:
        done = contract_of(contract.reply).contract_name
    return done, intent_failed_name(contract.domain)


def business_key(model: ContractModel) -> str | None:
    """
    The business key that *model* carries in its `key` field; None where its class names none.
    """
    contract = contract_of(type(model))
    if contract.key is None:
        return None
    value = getattr(model, contract.key)
    if value is None:
        return None
    return str(value.value if isinstance(value, Enum) else value)


def complete(model: type[ContractModel]) -> None:
    """
    Resolve annotations that named a class which did not exist yet when *model* was made.

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
    _check_fields(model, contract.where)


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
    """
    Check what the class keywords of *cls* say and note it on the class.
    """
    cls.__saga_contract__ = None
    cls.__saga_upcast__ = None
    cls.__saga_upcasts_from__ = ()
    _check_config(cls, where)
    if topic is None:
        if version is not None or key is not None:
            raise DefinitionError(
                f'{cls.__qualname__} has a version or key but no topic="<domain>.<name>"',
                where=where,
            )
        return
    domain, name = _topic_parts(cls, topic, where)
    contract = Contract(
        domain=domain,
        name=name,
        kind=kind,
        version=_checked_version(cls, version, where),
        model=cls,
        reply=reply,
        key=_checked_key(cls, key, where),
        where=where,
    )
    if len(contract.contract_name) > CONTRACT_NAME_CHARS_MAX:
        raise DefinitionError(
            f"the topic of {cls.__qualname__} is too long: {contract.contract_name!r} has"
            f" {len(contract.contract_name)} characters of at most {CONTRACT_NAME_CHARS_MAX}",
            where=where,
        )
    if cls.__pydantic_complete__:
        _check_fields(cls, where)
    _claim(contract)
    cls.__saga_contract__ = contract


def _refuse_unknown(cls: type[ContractModel], unknown: dict[str, object], where: str) -> None:
    if unknown:
        raise DefinitionError(
            f"{cls.__qualname__} has the class keyword {', '.join(unknown)}: expected topic and"
            " version, and for events key",
            where=where,
        )


def _check_config(cls: type[ContractModel], where: str) -> None:
    for option, promised in _CONFIG_PROMISED.items():
        if cls.model_config.get(option) != promised:
            raise DefinitionError(
                f"{cls.__qualname__} sets {option}={cls.model_config.get(option)!r} in its"
                f" configuration; contracts are always {option}={promised!r}",
                where=where,
            )


def _topic_parts(cls: type[ContractModel], topic: object, where: str) -> tuple[str, str]:
    domain, _, name = topic.partition(".") if isinstance(topic, str) else ("", "", "")
    if not (NAME_PART.fullmatch(domain) and NAME_PART.fullmatch(name)):
        raise DefinitionError(
            f'{cls.__qualname__} has topic={topic!r}: expected "<domain>.<name>", two parts of'
            ' small letters, digits and hyphens, for example "orders.order-placed"',
            where=where,
        )
    if name in (INTENT_DONE, INTENT_FAILED):
        raise DefinitionError(
            f"{cls.__qualname__} has topic={topic!r}: {INTENT_DONE!r} and {INTENT_FAILED!r} are"
            " the names of the replies that every domain has; choose another name",
            where=where,
        )
    return domain, name


def _checked_version(cls: type[ContractModel], version: object, where: str) -> int:
    if type(version) is not int or not 1 <= version < 10**6:
        raise DefinitionError(
            f"{cls.__qualname__} has version={version!r}: expected its major version,"
            " a whole number from 1 on",
            where=where,
        )
    return version


def _checked_key(cls: type[ContractModel], key: object, where: str) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or key not in cls.model_fields:
        raise DefinitionError(
            f"{cls.__qualname__} has key={key!r}, which is none of its fields:"
            f" {', '.join(cls.model_fields) or 'it has none'}",
            where=where,
        )
    return key


def _reply_of(cls: type[ContractModel], where: str) -> type[Event] | None:
    """
    The `Reply` in the `Intent[Reply]` that *cls* derives from.
    """
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


def _check_fields(cls: type[BaseModel], where: str | None) -> None:
    """
    Refuse sets: their order differs from process to process, so they have no canonical JSON.
    """
    seen: set[object] = set()

    def visit(annotation: object, path: str) -> None:
        kind = get_origin(annotation) or annotation
        if isinstance(kind, type) and issubclass(kind, AbstractSet):
            raise DefinitionError(
                f"{cls.__qualname__} has a set in {path!r}: sets have no order, and a message must"
                " have one form only; use a tuple",
                where=where,
            )
        for argument in get_args(annotation):
            visit(argument, path)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
            seen.add(kind)
            for name, info in kind.model_fields.items():
                visit(info.annotation, f"{path}.{name}" if path else name)

    visit(cls, "")


def _claim(contract: Contract) -> None:
    """
    Refuse a second class of this name, unless it is the first one made again (a reload).
    """
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


def _defined_at() -> str:
    """
    `file:line` of the class statement that is being executed.
    """
    frame = sys._getframe(1)  # noqa: SLF001  # the caller's place is the point of the message
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if module != __name__ and module.partition(".")[0] not in ("pydantic", "abc"):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
