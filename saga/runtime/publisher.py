"""Publishing facts and commands: what the first user of all, a team with events, does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from saga.authoring.registry import Registered, SagaRegistry
from saga.contracts import (
    COMMAND_CONTRACT,
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
)
from saga.contracts.cloudevents import headers_for
from saga.core.identity import SagaId, saga_id
from saga.core.values import value
from saga.errors import MalformedMessage
from saga.ports import Bus, Clock, Record

KEY_CHARS_MAX = 1_000


@value
class Prepared:
    """A record ready to be published, and the saga that it starts, if it starts one."""

    record: Record
    message_id: str
    saga_id: SagaId | None


class Publisher:
    """Turns events into records on their topics; checks them first, so that nothing bad
    gets out.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        contracts: ContractRegistry,
        sagas: SagaRegistry,
        names: TopicNames,
        clock: Clock,
        new_id: Callable[[], str],
        source: str,
    ) -> None:
        self._bus = bus
        self._contracts = contracts
        self._sagas = sagas
        self._names = names
        self._clock = clock
        self._new_id = new_id
        self._source = source

    async def publish(self, event: Event, *, key: str | None = None) -> SagaId | None:
        """Publish one event; the id of the saga that it starts, None where that is none or several.

        Raises:
            MessageError: the event has no key or cannot be encoded.
            BusUnavailable: it was not published.
        """
        prepared = self.prepare(event, key=key)
        await self.send([prepared])
        return prepared.saga_id

    def prepare(
        self, event: ContractModel, *, key: str | None = None, message_id: str | None = None
    ) -> Prepared:
        """The record of *event*. The same *message_id* again is recognised as a repeat.

        Raises:
            MessageError: the event has no key or cannot be encoded.
        """
        contract = contract_of(type(event))
        name = contract.contract_name
        value = encode(event).encode()
        found = decode(self._contracts, name, value)
        if isinstance(found, Unreadable):
            raise found.error()
        own_key = business_key(event) or business_key(found.model)
        key = self._key(found, own_key, key)
        return self._prepared(name, value, found, key=key, message_id=message_id)

    def prepare_json(
        self,
        contract_name: str,
        value: bytes,
        *,
        key: str | None = None,
        message_id: str | None = None,
    ) -> Prepared:
        """The record of a JSON text that claims to be of *contract_name*; published as it is.

        Raises:
            MessageError: it is not, or has no key; names the field.
        """
        found = decode(self._contracts, contract_name, value)
        if isinstance(found, Unreadable):
            raise found.error()
        key = self._key(found, business_key(found.model), key)
        return self._prepared(contract_name, value, found, key=key, message_id=message_id)

    async def send(self, prepared: Sequence[Prepared]) -> None:
        """Publish all of them, in order.

        Raises:
            TopicMissing: there is no topic for one of them.
            BusUnavailable: some may not have been published; send all again.
        """
        await self._bus.publish([one.record for one in prepared])

    async def command(self, command: Command, *, key: str) -> None:
        """Send *command* to the saga whose business key is *key*.

        Raises:
            TopicMissing: there is no topic for commands.
            BusUnavailable: it was not sent.
        """
        headers = headers_for(
            id=command.command_id,
            contract_name=COMMAND_CONTRACT,
            source=self._source,
            at=self._clock.now(),
            subject=command.saga_id,
            correlation_id=command.saga_id,
        )
        topic = self._names.topic(COMMAND_CONTRACT)
        await self._bus.publish([Record(topic, key.encode(), encode(command).encode(), headers)])

    def _key(self, found: Decoded, own_key: str | None, given: str | None) -> str:
        """The key of the record: the one given, the payload's own, or that of the saga it
        starts.
        """
        key = given if given is not None else own_key
        started = self._sagas.started_by(found.contract_name)
        if key is None and len(started) == 1 and isinstance(found.model, Event):
            key = self._saga_key(started[0], found.model)
        if not key or not key.strip() or len(key) > KEY_CHARS_MAX:
            raise MalformedMessage(
                "no_key",
                f"{found.contract_name} needs a business key of 1 to {KEY_CHARS_MAX} characters: "
                f"fill its key field, or give a key",
            )
        if own_key is not None and key != own_key:
            raise MalformedMessage(
                "wrong_key", f"the key is {key[:100]!r}, the payload's {own_key[:100]!r}"
            )
        return key

    def _prepared(
        self, contract_name: str, value: bytes, found: Decoded, *, key: str, message_id: str | None
    ) -> Prepared:
        given = message_id or self._new_id()
        headers = headers_for(
            id=given,
            contract_name=contract_name,
            source=self._source,
            at=self._clock.now(),
        )
        topic = self._names.topic(contract_name)
        record = Record(topic, key.encode(), value, headers)
        return Prepared(record, given, self._starts(found))

    def _starts(self, found: Decoded) -> SagaId | None:
        started = self._sagas.started_by(found.contract_name)
        if len(started) != 1 or not isinstance(found.model, Event):
            return None
        return saga_id(started[0].decider.name, self._saga_key(started[0], found.model))

    def _saga_key(self, registered: Registered, event: Event) -> str:
        try:
            return registered.saga.key_of(event)
        except ValueError as error:
            raise MalformedMessage("no_key", str(error)) from None
