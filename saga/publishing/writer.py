"""From an event to the record that says it: topic, key, bytes, headers and an id, all of them
final.

Whatever publishes the record later, once or again, publishes the same bytes under the same id, by
which its readers recognise a repeat. Nothing is written that its readers could not read.
"""

from __future__ import annotations

from typing import Final

from saga.adapters.ids import new_id
from saga.contracts import (
    ContractRegistry,
    Event,
    TopicNames,
    Unreadable,
    business_key,
    contract_of,
    decode,
    encode,
)
from saga.contracts.cloudevents import headers_for
from saga.core.values import value
from saga.errors import MalformedMessage
from saga.ports import Clock, Record

KEY_CHARS_MAX: Final = 1_000
ID_CHARS_MAX: Final = 1_000


@value
class WrittenEvent:
    """An event as it will be published, and the id by which a repeat of it is recognised."""

    record: Record
    message_id: str


class EventWriter:
    """Writes the events of one program. *source* is their `ce_source`: who says so."""

    def __init__(self, names: TopicNames, *, clock: Clock, source: str, bytes_max: int) -> None:
        self._names = names
        self._clock = clock
        self._source = source
        self._bytes_max = bytes_max
        self._registries: dict[type[Event], ContractRegistry] = {}

    def write(
        self,
        event: Event,
        *,
        key: str | None = None,
        message_id: str | None = None,
        causation_id: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
    ) -> WrittenEvent:
        """The record of *event*.

        Args:
            key: the business key, where no field of the event says it.
            message_id: its id, where the program has one that stays the same when it tries again.
            causation_id: the id of the message that led to this one.
            correlation_id: what all messages of one business process have in common.
            traceparent: the W3C trace context.

        Raises:
            MessageError: the event has no key, has another key than the one given, is too large,
                or cannot be said in JSON.
            DefinitionError: its class declares no contract.
        """
        contract_name = contract_of(type(event)).contract_name
        value = encode(event).encode()
        found = decode(self._registry(type(event)), contract_name, value, bytes_max=self._bytes_max)
        if isinstance(found, Unreadable):
            raise found.error()
        if message_id is not None and not 0 < len(message_id.strip()) <= ID_CHARS_MAX:
            raise MalformedMessage(
                "bad_id", f"a message id has 1 to {ID_CHARS_MAX} characters, and not only spaces"
            )
        given = message_id if message_id is not None else new_id()
        headers = headers_for(
            id=given,
            contract_name=contract_name,
            source=self._source,
            at=self._clock.now(),
            correlation_id=correlation_id,
            causation_id=causation_id,
            traceparent=traceparent,
        )
        topic = self._names.topic(contract_name)
        return WrittenEvent(Record(topic, _key(event, key).encode(), value, headers), given)

    def _registry(self, model: type[Event]) -> ContractRegistry:
        registry = self._registries.get(model)
        if registry is None:
            registry = self._registries[model] = ContractRegistry([model])
        return registry


def _key(event: Event, given: str | None) -> str:
    own = business_key(event)
    key = own if given is None else given
    name = contract_of(type(event)).contract_name
    if not key or not key.strip() or len(key) > KEY_CHARS_MAX:
        raise MalformedMessage(
            "no_key",
            f"{name} needs a business key of 1 to {KEY_CHARS_MAX} characters: fill its key field, "
            f"or give a key",
        )
    if own is not None and key != own:
        raise MalformedMessage("wrong_key", f"the key is {key[:100]!r}, the event's {own[:100]!r}")
    return key
