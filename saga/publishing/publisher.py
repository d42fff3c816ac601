"""`Publisher`: typed events onto their topics, from any asyncio program."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from saga.adapters.clocks import SystemClock
from saga.contracts import Event
from saga.core.durations import SECOND_US, duration_us
from saga.errors import BusUnavailable, TopicMissing
from saga.ports import Bus, TopicSpec
from saga.publishing.writer import EventWriter, WrittenEvent
from saga.settings import Settings

if TYPE_CHECKING:
    from saga.adapters.opening import OpenedBus

TIMEOUT: Final = timedelta(seconds=30)
RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 2.0


class Publisher:
    """Publishes events from a program that is not the saga service itself.

    ```python
    async with Publisher(source="/checkout") as publisher:
        await publisher.publish(OrderPlaced(order_id="o-1", amount=10))
    ```

    Each event is checked first, so that nothing is published which its readers would refuse. A
    call returns once its events are durable; while the bus is away it tries again with the same
    bytes under the same ids, so that a repeat is recognised. Calls made one after another keep
    their order for each key; calls made side by side have none.

    Args:
        source: who says so, as a URI reference; `ce_source` of every record.
        timeout: how long one call goes on trying.
        settings: as in the environment, for example `bus="kafka://localhost:9092"`.

    Raises:
        SettingsError: a setting is unknown or illegal.
    """

    def __init__(
        self, *, source: str | None = None, timeout: timedelta | str = TIMEOUT, **settings: Any
    ) -> None:
        self._settings = Settings.read(**settings)
        self._timeout_s = duration_us(timeout) / SECOND_US
        self._clock = SystemClock()
        self._writer = EventWriter(
            self._settings.topic_names,
            clock=self._clock,
            source=source or f"/{self._settings.env}/{self._settings.namespace}/publisher",
            bytes_max=self._settings.record_bytes,
        )
        self._opened: OpenedBus | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def timeout_s(self) -> float:
        """How long one call goes on trying."""
        return self._timeout_s

    async def open(self) -> None:
        """Open the bus; nothing where it is open. Kafka is connected to when there is something to
        publish, so that a program starts while it is away.

        Raises:
            StoreUnavailable: the file of the local bus cannot be opened.
        """
        from saga.adapters.opening import open_bus  # events are defined without adapters

        if self._opened is None:
            self._opened = open_bus(self._settings)

    async def close(self) -> None:
        """Let go of the bus. What a call has returned for is durable; no other call may be under
        way.
        """
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    def left_to_parent(self) -> object:
        """What a forked child must neither use nor close; the next `open` opens its own."""
        opened, self._opened = self._opened, None
        return opened

    async def publish(
        self,
        event: Event,
        *,
        key: str | None = None,
        message_id: str | None = None,
        causation_id: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
    ) -> str:
        """Publish one event, and return its message id.

        A program that may publish the same event again, after a crash or an error of this call,
        gives it a *message_id* of its own. The other arguments are those of `EventWriter.write`.

        Raises:
            MessageError: the event has no key, or its readers could not read it.
            TopicMissing: its topic does not exist.
            MessageTooLarge: its topic takes no record of this size.
            BusUnavailable: it may not have been published; try again with the same id.
        """
        written = self.write(
            event,
            key=key,
            message_id=message_id,
            causation_id=causation_id,
            correlation_id=correlation_id,
            traceparent=traceparent,
        )
        await self.send([written])
        return written.message_id

    async def publish_all(self, events: Iterable[Event]) -> list[str]:
        """Publish many events at once, in order for each key, and return their message ids.

        All are checked before the first one is published. Events without a key field, or with ids
        of the program's own, go through `write` and `send`.

        Raises:
            MessageError, TopicMissing, MessageTooLarge, BusUnavailable: as `publish`; some of them
                may have been published.
        """
        written = [self.write(event) for event in events]
        await self.send(written)
        return [one.message_id for one in written]

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
        """The record of *event*, for `send`: now, later, or again.

        Raises:
            MessageError: the event has no key, or its readers could not read it.
        """
        return self._writer.write(
            event,
            key=key,
            message_id=message_id,
            causation_id=causation_id,
            correlation_id=correlation_id,
            traceparent=traceparent,
        )

    async def send(self, written: Sequence[WrittenEvent]) -> None:
        """Publish what was written, in order for each key; trying again does no harm.

        Raises:
            TopicMissing, MessageTooLarge, BusUnavailable: as `publish`; some of them may have been
                published.
        """
        if self._opened is None:
            raise RuntimeError("the publisher is not open: use it with `async with`")
        bus = self._opened.bus
        pause_s = RETRY_FIRST_S
        last: BusUnavailable | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    try:
                        await self._send_once(bus, written)
                    except BusUnavailable as error:
                        last = error
                        await asyncio.sleep(pause_s)
                        pause_s = min(pause_s * 2, RETRY_MAX_S)
                    else:
                        return
        except TimeoutError as error:
            reason = last or "no answer"
            raise BusUnavailable(f"not published within {self._timeout_s:g} s: {reason}") from error

    async def _send_once(self, bus: Bus, written: Sequence[WrittenEvent]) -> None:
        records = [one.record for one in written]
        try:
            await bus.publish(records)
        except TopicMissing:
            if not self._settings.bus.startswith("local:"):
                raise
            # Nobody else prepares the embedded bus; the records come again with the next try.
            settings = self._settings
            topics = dict.fromkeys(record.topic for record in records)
            await bus.create_topics(
                [TopicSpec(topic, settings.partitions, settings.retention_s) for topic in topics]
            )
            await bus.publish(records)
