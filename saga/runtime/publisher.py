"""Publishing from a running service: events, and commands to sagas that there are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Unpack

from saga.contracts import Command, CommandAct, ContractModel
from saga.core.identity import SagaId
from saga.errors import UnknownSaga
from saga.ports import Bus, Catalogue
from saga.publishing.writer import EventWriter, PublishOptions, WrittenEvent

KEYS_MAX = 10_000
"""Keys of sagas published here that are remembered: one may be told something before it began."""


class Publisher:
    """Puts events on their topics; checks them first, so that nothing bad gets out."""

    def __init__(self, bus: Bus, writer: EventWriter) -> None:
        self.bus = bus
        self.writer = writer

    async def publish(
        self, event: ContractModel, **options: Unpack[PublishOptions]
    ) -> WrittenEvent:
        """Publish one event. Durable when it returns.

        Raises:
            MessageError: the event has no key or cannot be encoded.
            BusUnavailable: it was not published.
        """
        written = self.writer.record(event, **options)
        await self.send([written])
        return written

    async def send(self, written: Sequence[WrittenEvent]) -> None:
        """Publish all of them, in order.

        Raises:
            TopicMissing: there is no topic for one of them.
            BusUnavailable: some may not have been published; send all again.
        """
        await self.bus.publish([event.record for event in written])

    async def command(self, command: Command, *, key: str) -> None:
        """Send *command* to the saga whose business key is *key*.

        Raises:
            TopicMissing: there is no topic for commands.
            BusUnavailable: it was not sent.
        """
        await self.bus.publish([self.writer.command(command, key=key)])


class Commands:
    """Sends commands to sagas, under the keys by which the *catalogue* knows them."""

    def __init__(
        self, publisher: Publisher, catalogue: Catalogue, *, new_id: Callable[[], str]
    ) -> None:
        self.publisher = publisher
        self._catalogue = catalogue
        self._new_id = new_id
        self._keys: OrderedDict[SagaId, str] = OrderedDict()

    def remember(self, written: WrittenEvent) -> None:
        """A saga that was just published may be told something before it has begun."""
        key = written.record.key
        if written.saga_id is None or key is None:
            return
        self._keys[written.saga_id] = key.decode()
        if len(self._keys) > KEYS_MAX:
            self._keys.popitem(last=False)

    def is_new(self, saga_id: SagaId) -> bool:
        """Whether the saga was published here lately."""
        return saga_id in self._keys

    async def send(
        self, saga_id: SagaId, act: CommandAct, *, command_id: str | None = None, **fields: Any
    ) -> str:
        """Send a command; its id. Raises what `Service.command` does."""
        key = self._keys.get(saga_id)
        if key is None:
            summaries = await self._catalogue.summaries([saga_id])
            if not summaries:
                raise UnknownSaga(saga_id)
            key = summaries[0].key
        name = command_id or self._new_id()
        command = Command(command_id=name, act=act, saga_id=saga_id, **fields)
        await self.publisher.command(command, key=key)
        return command.command_id
