"""From an event to its record: topic, key, bytes, headers and id, all of them final.

Every publisher writes its events here; readers recognise a repeat by the id, which stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self, TypedDict, Unpack

from saga.adapters.clocks import SystemClock
from saga.adapters.ids import new_id
from saga.authoring.registry import Registered, SagaRegistry
from saga.contracts import (
    COMMAND_CONTRACT,
    VALUE_BYTES_MAX,
    Command,
    ContractModel,
    ContractRegistry,
    Decoded,
    Event,
    TopicNames,
    Unreadable,
    business_key,
    contract_of,
    decode,
    encode,
    encode_for_readers,
)
from saga.contracts.cloudevents import Said
from saga.contracts.keys import key_text
from saga.contracts.signatures import SigningKeys
from saga.core.identity import ID_BYTES_MAX, SagaId, flaw_of_id, saga_id
from saga.core.texts import described
from saga.core.values import value
from saga.errors import MalformedMessage, SettingsError
from saga.ports import Clock, Record
from saga.settings import Settings
from saga.users_code import is_ours

_NAMES: Final = ("message_id", "causation_id", "correlation_id", "traceparent")
"""What a program may say of an event that ends in headers, and in others' histories."""


class PublishOptions(TypedDict, total=False):
    """What a program may say about an event beside the event itself.

    Attributes:
        key: the business key, where no field of the event says it.
        message_id: one that stays the same when the program tries again.
        causation_id: the id of the message that led to this one.
        correlation_id: what all messages of one business process have in common.
        traceparent: the W3C trace context.
    """

    key: str | None
    message_id: str | None
    causation_id: str | None
    correlation_id: str | None
    traceparent: str | None


@value
class WrittenEvent:
    """*saga_id* is the one saga that the event starts, where the writer knows sagas."""

    record: Record
    message_id: str
    saga_id: SagaId | None = None
    definition: str | None = None


class EventWriter:
    """Without *contracts* an event is checked against its own class alone.

    With *sagas* an event without a key of its own takes that of the saga it starts.

    Raises:
        SettingsError: *source* is empty or too long.
    """

    def __init__(
        self,
        names: TopicNames,
        *,
        clock: Clock,
        source: str,
        bytes_max: int = VALUE_BYTES_MAX,
        contracts: ContractRegistry | None = None,
        sagas: SagaRegistry | None = None,
        new_id: Callable[[], str] = new_id,
        signing: SigningKeys | None = None,
    ) -> None:
        if (flaw := flaw_of_id(source)) is not None:
            raise SettingsError("source", f"it {flaw}; expected a URI reference, such as /checkout")
        self._names = names
        self._clock = clock
        self._source = source
        self._bytes_max = bytes_max
        self._contracts = contracts
        self._sagas = sagas
        self._new_id = new_id
        self._signing = signing
        self._own: dict[type[ContractModel], ContractRegistry] = {}

    @classmethod
    def of(
        cls,
        settings: Settings,
        source: str | None = None,
        *,
        contracts: ContractRegistry | None = None,
        sagas: SagaRegistry | None = None,
    ) -> Self:
        return cls(
            settings.topic_names,
            clock=SystemClock(),
            source=source or settings.source,
            bytes_max=settings.record_bytes,
            contracts=contracts,
            sagas=sagas,
            signing=settings.signing,
        )

    def record(self, event: ContractModel, **options: Unpack[PublishOptions]) -> WrittenEvent:
        """The record of *event*.

        Raises:
            MessageError: it has no key or another than given, is too large, or cannot be JSON.
            DefinitionError: its class declares no contract.
        """
        registry = self._registry(type(event))
        text, message = encode_for_readers(registry, event, bytes_max=self._bytes_max)
        name = contract_of(type(event)).contract_name
        event_key = None if message.model is event else own_key(event)
        return self._written(name, text, message, event_key, options)

    def record_json(
        self, contract_name: str, text: bytes, **options: Unpack[PublishOptions]
    ) -> WrittenEvent:
        """The record of a JSON text, published as it is.

        Raises:
            MessageError: the text is not of *contract_name*, or has no key; names the field.
        """
        assert self._contracts is not None, "a text has no class to be checked against"
        message = decode(self._contracts, contract_name, text, bytes_max=self._bytes_max)
        if isinstance(message, Unreadable):
            raise message.error()
        return self._written(contract_name, text, message, None, options)

    def command(self, command: Command, *, key: str) -> Record:
        headers = Said(
            id=command.command_id,
            contract_name=COMMAND_CONTRACT,
            source=self._source,
            at=self._clock.now(),
            saga_id=command.saga_id,
        )
        topic, value = self._names.topic(COMMAND_CONTRACT), encode(command).encode()
        if self._signing is not None:
            headers = self._signing.signed(topic, key.encode(), value, headers)
        return Record(topic, key.encode(), value, headers)

    def _written(
        self,
        contract_name: str,
        text: bytes,
        message: Decoded,
        event_key: str | None,
        options: PublishOptions,
    ) -> WrittenEvent:
        message_id = _checked_id(options, self._new_id)
        starts = self._starts(message)
        own = own_key(message.model)
        saga_key = None if starts is None else _key_of(message, starts.saga.key_of, own)
        given = options.get("key")
        own = own or event_key
        other_key = saga_key
        if own is None and given is None and saga_key is None:
            other_key = self._reached_key(message)
        key = _checked_key(message, own=own, given=given, saga_key=other_key)
        headers = Said(message_id, contract_name, self._source, self._clock.now())
        if options:
            headers.correlation_id = options.get("correlation_id")
            headers.causation_id = options.get("causation_id")
            headers.traceparent = options.get("traceparent")
        record = Record(self._names.topic(contract_name), key.encode(), text, headers)
        if starts is None or saga_key is None:
            return WrittenEvent(record, message_id)
        name = starts.decider.name
        return WrittenEvent(record, message_id, saga_id(name, saga_key), name)

    def _registry(self, model: type[ContractModel]) -> ContractRegistry:
        if self._contracts is not None:
            return self._contracts
        registry = self._own.get(model)
        if registry is None:
            registry = self._own[model] = ContractRegistry([model])
        return registry

    def _starts(self, message: Decoded) -> Registered | None:
        """The one saga that a message starts; None where that is none, or more than one."""
        if self._sagas is None or not isinstance(message.model, Event):
            return None
        started = self._sagas.started_by(message.contract_name)
        return started[0] if len(started) == 1 else None

    def _reached_key(self, message: Decoded) -> str | None:
        """The key of the sagas that an event reaches; None where there is none, or several."""
        if self._sagas is None or not isinstance(message.model, Event):
            return None
        keys: set[str | None] = set()
        for _, listening in self._sagas.listening_to(message.contract_name):
            keys.add(_key_of(message, listening.key_of, None))
        return keys.pop() if len(keys) == 1 else None


def own_key(event: ContractModel) -> str | None:
    """The key that *event* carries in its key field; MalformedMessage where it can be none."""
    try:
        return business_key(event)
    except ValueError as error:
        raise _no_key(contract_of(event).contract_name, str(error)) from None


def _checked_id(options: PublishOptions, new_id: Callable[[], str]) -> str:
    """The message id; refuses what no reader would keep."""
    if not options:
        return new_id()
    for name in _NAMES:
        text: str | None = options.get(name)  # type: ignore[assignment]  # its keys
        if text is not None and (flaw := flaw_of_id(text)) is not None:
            raise MalformedMessage("bad_id", f"the {name} {flaw}")
    message_id = options.get("message_id")
    return new_id() if message_id is None else message_id


def _checked_key(
    message: Decoded, *, own: str | None, given: str | None, saga_key: str | None
) -> str:
    try:
        key = own if given is None else key_text(given)
    except ValueError as error:
        raise _no_key(message.contract_name, str(error)) from None
    if key is None:
        key = saga_key
    if key is None:
        raise _no_key(message.contract_name, "it has none")
    if own is not None and key != own:
        raise MalformedMessage(
            "wrong_key", f"the key is {key[:100]!r}, the message's own {own[:100]!r}"
        )
    return key


def _no_key(contract_name: str, problem: str) -> MalformedMessage:
    return MalformedMessage(
        "no_key",
        f"{contract_name} needs a business key of 1 to {ID_BYTES_MAX} bytes: {problem}; "
        f"fill its key field, or give a key",
    )


def _key_of(
    message: Decoded, key_of: Callable[[Any, str | None], str | None], own: str | None
) -> str | None:
    assert isinstance(message.model, Event), message.model
    try:
        return key_of(message.model, own)
    except BaseException as error:  # users' code: a key function may raise anything
        if is_ours(error):
            raise
        raise _no_key(message.contract_name, described(error)) from error
