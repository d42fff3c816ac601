"""Publishing from a FastStream service, through the broker that it has. Needs `saga[kafka]`.

FastStream alone would choose other bytes and headers, and one partition for all keys of a batch;
here each event goes out as `Publisher` would send it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, Unpack
from uuid import UUID, uuid5

from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from faststream.kafka import KafkaBroker, KafkaMessage

from saga.contracts import Event, contract_of, encode
from saga.contracts.cloudevents import CORRELATION_ID, read_headers
from saga.core.durations import SECOND_US, duration_us
from saga.errors import BusUnavailable, MessageTooLarge
from saga.publishing.publisher import TIMEOUT
from saga.publishing.writer import EventWriter, PublishOptions, WrittenEvent, own_key
from saga.settings import Settings

__all__ = ["FastStreamPublisher"]

IDS: Final = UUID("6d8c5c1e-7f0b-5a39-9a6e-2f5b9f0d4c11")
"""The namespace of message ids that are made of their cause; it must never change."""


class FastStreamPublisher:
    """Publishes events through a FastStream broker.

    ```python
    broker = KafkaBroker("localhost:9092", enable_idempotence=True)
    events = FastStreamPublisher(broker, source="/checkout")

    @broker.subscriber("carts", group_id="checkout", ack_policy=AckPolicy.NACK_ON_ERROR)
    async def on_cart(cart: Cart, message: KafkaMessage):
        await events.publish(OrderPlaced(order_id=cart.id, amount=cart.sum), cause=message)
    ```

    With *cause*, a handler that runs again publishes the same event under the same id. Make the
    broker with `enable_idempotence=True` and Kafka's own partitioner. Topics are not made.

    Args:
        broker: the service's broker; it is connected when the first event comes.
        source: who says so, as a URI reference; `ce_source` of every record.
        settings: as in the environment; *env* and *namespace* name the topics.

    Raises:
        SettingsError: a setting is unknown or illegal.
    """

    def __init__(
        self,
        broker: KafkaBroker,
        *,
        source: str | None = None,
        timeout: timedelta | str = TIMEOUT,
        **settings: Any,
    ) -> None:
        self._broker = broker
        self._timeout_s = duration_us(timeout) / SECOND_US
        self._writer = EventWriter.of(Settings.read(**settings), source)

    async def publish(
        self,
        event: Event,
        *,
        cause: KafkaMessage | ConsumerRecord | None = None,
        **options: Unpack[PublishOptions],
    ) -> str:
        """Publish one event, and return its message id.

        Args:
            cause: the message, or one record of a batch, that led to it and gives missing options.

        Raises:
            MessageError: the event has no key, or its readers could not read it.
            MessageTooLarge: the broker's settings or its topic allow no record of this size.
            BusUnavailable: it may not have been published; try again with the same id or cause.
        """
        written = self._write(event, cause, options)
        await self._send([written])
        return written.message_id

    async def publish_all(
        self, events: Iterable[Event], *, cause: KafkaMessage | ConsumerRecord | None = None
    ) -> list[str]:
        """Publish many events at once, in order for each key, and return their message ids.

        Raises:
            MessageError, MessageTooLarge, BusUnavailable: some may be published.
        """
        written = [self._write(event, cause, {}) for event in events]
        await self._send(written)
        return [event.message_id for event in written]

    def _write(
        self, event: Event, cause: KafkaMessage | ConsumerRecord | None, options: PublishOptions
    ) -> WrittenEvent:
        if cause is None:
            return self._writer.record(event, **options)
        record: Any = getattr(cause, "raw_message", cause)
        if isinstance(record, tuple):
            raise TypeError("a batch is no cause: give the one record of it that led to the event")
        headers = read_headers(tuple(record.headers))
        cause_id = headers.id or f"{record.topic}/{record.partition}/{record.offset}"
        made: PublishOptions = {
            "key": options.get("key"),
            "message_id": options.get("message_id"),
            "causation_id": options.get("causation_id") or cause_id,
            "correlation_id": options.get("correlation_id") or headers.correlation_id,
            "traceparent": options.get("traceparent") or headers.traceparent,
        }
        if made["message_id"] is None:
            name, key = contract_of(type(event)).contract_name, made["key"] or own_key(event)
            seed = "\n".join((cause_id, name, str(key), encode(event)))
            made["message_id"] = str(uuid5(IDS, seed))
        return self._writer.record(event, **made)

    async def _send(self, written: Sequence[WrittenEvent]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._broker.connect()
                # One after another into the producer, which keeps this order, then all together.
                sent = [await self._hand_over(event) for event in written]
                await asyncio.gather(*sent)
        except TimeoutError as error:
            raise BusUnavailable(f"not published within {self._timeout_s:g} s") from error
        except MessageSizeTooLargeError as error:
            text = f"the broker takes no record as large as one of these: {error}"
            raise MessageTooLarge(text) from error
        except KafkaError as error:
            raise BusUnavailable(f"kafka: not all was published: {error!r}") from error

    async def _hand_over(self, written: WrittenEvent) -> asyncio.Future[Any]:
        record = written.record
        headers = {name: (value or b"").decode() for name, value in record.headers}
        sent: Any = await self._broker.publish(
            record.value,
            topic=record.topic,
            key=record.key,
            headers=headers,
            correlation_id=headers.get(CORRELATION_ID, written.message_id),
            no_confirm=True,
        )
        return sent  # type: ignore[no-any-return]  # a future, as `no_confirm` says
