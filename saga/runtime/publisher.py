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

KEYS_MAX = 50_000
"""Sagas published here that are remembered: one may be told something before it began."""


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

    async def commands(self, commands: Sequence[tuple[Command, str]]) -> None:
        """Send these, each with its key, as `command` does."""
        records = [self.writer.command(command, key=key) for command, key in commands]
        await self.bus.publish(records)


class Commands:
    """Sends commands to sagas, under the keys by which the *catalogue* knows them."""

    def __init__(
        self, publisher: Publisher, catalogue: Catalogue, *, new_id: Callable[[], str]
    ) -> None:
        self.publisher = publisher
        self._catalogue = catalogue
        self.new_id = new_id
        self._new: OrderedDict[SagaId, tuple[str | None, str]] = OrderedDict()
        """Of each its definition and key."""

    def remember(self, written: WrittenEvent) -> None:
        """A saga that was just published may be told something before it has begun."""
        key = written.record.key
        if written.saga_id is None or key is None:
            return
        self._new[written.saga_id] = written.definition, key.decode()
        if len(self._new) > KEYS_MAX:
            self._new.popitem(last=False)

    def is_new(self, saga_id: SagaId) -> bool:
        """Whether the saga was published here lately."""
        return saga_id in self._new

    async def send(
        self, saga_id: SagaId, act: CommandAct, *, command_id: str | None = None, **fields: Any
    ) -> str:
        """Send a command; its id. Raises what `Service.command` does."""
        known = self._new.get(saga_id)
        if known is None:
            summaries = await self._catalogue.summaries([saga_id])
            if not summaries:
                raise UnknownSaga(saga_id)
            known = summaries[0].definition, summaries[0].key
        definition, key = known
        name = command_id or self.new_id()
        command = Command(
            command_id=name, act=act, saga_id=saga_id, definition=definition, **fields
        )
        await self.publisher.command(command, key=key)
        return command.command_id

    async def send_to_all(
        self, definition: str, act: CommandAct, *, command_id: str | None = None, **fields: Any
    ) -> str:
        """Send a command to all sagas of a definition; its id."""
        name = command_id or self.new_id()
        command = Command(command_id=name, act=act, definition=definition, **fields)
        await self.publisher.command(command, key=definition)
        return command.command_id
