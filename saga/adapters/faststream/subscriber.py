"""A batch subscriber of FastStream with a consumer of ours below it and an effect service above it.

It is part of its broker: it starts and stops with it, its batches pass the broker's middlewares,
and it is in the broker's AsyncAPI document. Three things FastStream would do otherwise:

- Reading is left to `KafkaConsumer`, which is assigned by range, begins where the group has
  committed, notices what is lost, and gets past records that aiokafka cannot decode.
- Nothing is parsed on the way: FastStream's own parser fails on a header that is null or not UTF-8,
  and a batch whose parser or middleware fails would be skipped. Here it is read again, later.
- Offsets are committed by the service, one by one, after its own commit. The policy is MANUAL,
  so FastStream commits nothing, and `ack` in somebody's middleware does nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
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

from saga.adapters.faststream.handover import Batch, Handover, begins
from saga.adapters.kafka import KafkaConsumer
from saga.core.retry import Retry
from saga.core.values import value
from saga.effects import EffectsService
from saga.errors import SagaError
from saga.logs import get_logger
from saga.ports.bus import Inbound, Source
from saga.ports.effects_store import EffectsStore

BATCH_TIMEOUT_MS: Final = 200
BATCH_RECORDS_MAX: Final = 256
FINISH_POLL_S: Final = 0.01
BACKOFF: Final = Retry(attempts=None, initial="100ms", cap="10s", jitter=0.5)
"""How long to wait before a batch that did not pass the middlewares is read again."""

log = get_logger("saga.kafka")


@value
class Workplace:
    """What a service has while its broker runs. *close* lets go of what was opened for it alone."""

    service: EffectsService
    store: EffectsStore
    close: Callable[[], Awaitable[None]]


class EffectsSubscriber(BatchSubscriber):
    """The subscriber of one effect service.

    Args:
        broker: where it belongs from now on.
        name: the service's.
        group: its consumer group.
        topics: what it reads, as they are called in the cluster.
        make: makes the service and its store; called each time the broker starts.
    """

    def __init__(
        self,
        broker: KafkaBroker,
        *,
        name: str,
        group: str,
        topics: Sequence[str],
        make: Callable[[EffectsSubscriber], Workplace],
    ) -> None:
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
        self.name: Final = name
        self._make = make
        self._handover = Handover()
        self._member: KafkaConsumer | None = None
        self._ending: asyncio.Task[None] | None = None
        self._failures = 0
        self._counted: Counter[str] = Counter()
        self.workplace: Workplace | None = None
        self.attempted_at_s = 0.0
        self.polled_at_s = 0.0
        self(self._take)
        Registrator.subscriber(broker, self)

    # What the broker calls.

    async def start(self) -> None:
        """Start the service, which subscribes. Waits while its store or Kafka is away.

        Raises:
            DefinitionError: a function of `on_start` failed.
        """
        await SubscriberUsecase.start(self)
        loop = asyncio.get_running_loop()
        self.attempted_at_s = self.polled_at_s = loop.time()
        self.workplace = workplace = self._make(self)
        await workplace.service.start()
        self._ending = loop.create_task(workplace.service.wait(), name=f"effects of {self.name}")

    async def stop(self) -> None:
        """Drain the service; what it does not finish in time comes again at the next start."""
        workplace, self.workplace = self.workplace, None
        if workplace is not None:
            await workplace.service.stop()
            self._counted.update(workplace.service.counts)
        ending, self._ending = self._ending, None
        if ending is not None:
            ending.cancel()
            await asyncio.wait([ending])
        await self.halt()
        if workplace is not None:
            await workplace.close()

    def _get_parser_and_decoder(self, *_: Any, **__: Any) -> Any:
        return _parse, _decode  # whatever the broker has: nothing may touch these bytes

    async def get_msg(self, consumer: Any) -> Any:
        """The next batch, once somebody wants one."""
        request = await self._handover.asked()
        loop = asyncio.get_running_loop()
        try:
            records = await consumer.fetch(
                records_max=request.records_max, timeout_s=request.timeout_s
            )
        except Exception as error:  # noqa: BLE001  # it is the business of whoever fetches
            self.attempted_at_s = loop.time()
            self._handover.fail(error)
            return ()
        self.attempted_at_s = self.polled_at_s = loop.time()
        if not records:
            self._handover.nothing()
        return tuple(records)

    async def consume_one(self, msg: Any) -> None:
        """Send a batch through the middlewares to `_take`; one that does not arrive is read
        again.
        """
        batch: Batch = msg
        self._handover.offer(batch)
        await self.consume(msg)
        if not self._handover.withdraw():
            self._failures = 0
            return
        member = self._member
        if member is None or not self.running:
            return  # stopped meanwhile; nothing of it was committed
        self._failures += 1
        where = begins(batch)
        log.error("a batch failed on its way and is read again", group=self.group_id, at=where)
        await member.seek(where)
        delay_us = BACKOFF.delay_us(failed_attempts=self._failures, seed=f"{self.group_id}")
        await asyncio.sleep(delay_us / 1_000_000)

    async def _take(self, batch: Any) -> None:
        if not self._handover.take(batch):
            log.warning("records from nowhere are ignored", group=self.group_id)

    # What the service's consumer calls.

    def begin(self, member: KafkaConsumer) -> None:
        """Read from *member* from now on."""
        self._member = member
        self._handover = Handover()
        self._post_start()
        self.add_task(self._run_consume_loop, (member,))

    async def halt(self) -> None:
        """Read no more."""
        tasks = list(self.tasks)
        await super(LogicSubscriber, self).stop()
        if tasks:
            await asyncio.wait(tasks)
        self._handover.close()
        self._member = None

    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        """What the loop reads next."""
        return await self._handover.fetch(records_max=records_max, timeout_s=timeout_s)

    async def seek(self, offsets: Mapping[Source, int]) -> None:
        """Read on from there."""
        self._handover.drop(offsets)
        if self._member is not None:
            await self._member.seek(offsets)

    async def finish(self, within_s: float) -> bool:
        """Have what is in hand answered and its offsets committed while the partitions are still
        ours, so that whoever reads them next begins behind it. What takes longer is answered all
        the same, and read once more by others, whom the inbox answers.
        """
        workplace = self.workplace
        if workplace is None:
            return True
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        while workplace.service.in_hand and loop.time() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(FINISH_POLL_S)
        if workplace.service.consumer is not None:
            await workplace.service.commit_offsets(workplace.service.consumer)
        return True

    # How it is.

    @property
    def member(self) -> KafkaConsumer | None:
        """Our place in the group; None when not running."""
        return self._member

    @property
    def in_hand(self) -> int:
        """How many records are fetched and not dealt with."""
        return 0 if self.workplace is None else self.workplace.service.in_hand

    @property
    def counts(self) -> Counter[str]:
        """What the service has done, also before it was stopped."""
        total = Counter(self._counted)
        if self.workplace is not None:
            total.update(self.workplace.service.counts)
        return total

    @property
    def failure(self) -> BaseException | None:
        """What the service has ended with, if it has."""
        if self._ending is None or not self._ending.done() or self._ending.cancelled():
            return None
        return self._ending.exception() or SagaError(f"the effects of {self.name} ended")

    @property
    def is_reading(self) -> bool:
        """Whether FastStream's loop runs."""
        return self.running and any(not task.done() for task in self.tasks)

    async def wait(self) -> None:
        """Return when the service has ended, or raise what it has failed with."""
        assert self._ending is not None, "start comes first"
        await asyncio.shield(self._ending)


async def _parse(batch: Batch) -> KafkaMessage:
    """Names the batch and leaves it as it is; cannot fail, whatever is in the records."""
    first = batch[0]
    place = f"{first.topic}/{first.partition}/{first.offset}"
    return KafkaMessage(
        raw_message=batch,  # ours have the fields that middlewares read
        body=[one.value or b"" for one in batch],
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
