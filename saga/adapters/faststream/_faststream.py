"""Every private part of FastStream that we use, each behind a name that says its purpose.

These uses are known to be right for the versions that `check_version` lets pass, and for no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from faststream import AckPolicy
from faststream._internal.broker.registrator import Registrator
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream._internal.endpoint.subscriber.usecase import SubscriberUsecase
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaMessage
from faststream.kafka.schemas import Topic
from faststream.kafka.subscriber.config import (
    KafkaSubscriberConfig,
    KafkaSubscriberSpecificationConfig,
)
from faststream.kafka.subscriber.specification import KafkaSubscriberSpecification
from faststream.kafka.subscriber.usecase import BatchSubscriber, LogicSubscriber
from typing_extensions import override

from saga.adapters.versions import check_version
from saga.ports.bus import Consumer, Inbound

BATCH_TIMEOUT_MS: Final = 200
BATCH_RECORDS_MAX: Final = 256

Batch = tuple[Inbound, ...]


def connection_arguments(broker: KafkaBroker) -> dict[str, Any]:
    """Servers, encryption and credentials of *broker*."""
    return dict(broker._connection_kwargs)


class UnparsedSubscriber(BatchSubscriber):
    """A batch subscriber that makes no consumer of its own, and whose batches stay bytes.

    A subclass gives `get_msg`, which reads the next batch, `consume_one`, which sends it through
    the broker's middlewares, `accept`, which gets it behind them, and `reading_ended`, which is
    told what nobody else would see; *name* is for AsyncAPI.

    Raises:
        SettingsError: the FastStream that is installed is none that this adapter knows.
    """

    def __init__(
        self, broker: KafkaBroker, *, name: str, group: str, topics: Sequence[str]
    ) -> None:
        check_version("faststream", setting="SAGA_BUS")
        calls = CallsCollection[Any]()
        declared = [Topic(topic, declare=False) for topic in topics]
        config: Any = broker.config
        super().__init__(
            KafkaSubscriberConfig(
                topics=declared,
                group_id=group,
                no_reply=True,
                _outer_config=config,
                _ack_policy=AckPolicy.MANUAL,
            ),
            KafkaSubscriberSpecification(
                _outer_config=config,
                calls=calls,
                specification_config=KafkaSubscriberSpecificationConfig(
                    topics=declared,
                    title_=f"effects:{name}",
                    description_=f"The effect service {name}.",
                    include_in_schema=True,
                ),
            ),
            calls,
            batch_timeout_ms=BATCH_TIMEOUT_MS,
            max_records=BATCH_RECORDS_MAX,
        )
        self(self.accept)
        Registrator.subscriber(broker, self)

    async def accept(self, batch: Any) -> None:
        raise NotImplementedError

    async def prepare(self) -> None:
        """As FastStream's `start`, without making a consumer."""
        await SubscriberUsecase.start(self)

    def begin_reading(self, consumer: Consumer) -> None:
        """Run FastStream's consume loop, which hands *consumer* to `get_msg`."""
        self._post_start()
        self.add_task(self._run_consume_loop, (consumer,))

    @override
    def add_task(self, *args: Any, **kwargs: Any) -> None:
        super().add_task(*args, **kwargs)
        self.tasks[-1].add_done_callback(self._loop_ended)

    def _loop_ended(self, loop: asyncio.Task[Any]) -> None:
        # FastStream has begun it anew by now, if it failed with an error; not if it was cancelled.
        if self.running and not self.is_reading:
            self.reading_ended(loop)

    def reading_ended(self, loop: asyncio.Task[Any]) -> None:
        raise NotImplementedError

    async def end_reading(self) -> None:
        tasks = list(self.tasks)
        await super(LogicSubscriber, self).stop()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def is_reading(self) -> bool:
        return self.running and any(not task.done() for task in self.tasks)

    @override
    def _get_parser_and_decoder(self, *_: Any, **__: Any) -> Any:
        return _parse, _decode  # never the broker's: nothing may touch these bytes


async def _parse(batch: Batch) -> KafkaMessage:
    """No record can make this fail."""
    first = batch[0]
    place = f"{first.topic}/{first.partition}/{first.offset}"
    return KafkaMessage(
        raw_message=batch,  # ours have the fields that middlewares read
        body=[record.value or b"" for record in batch],
        headers={},
        batch_headers=[],
        reply_to="",
        content_type=None,
        message_id=place,
        correlation_id=place,
        consumer=FAKE_CONSUMER,
    )


async def _decode(message: KafkaMessage) -> object:
    return message.raw_message
