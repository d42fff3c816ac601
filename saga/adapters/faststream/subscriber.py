"""An effect service on a FastStream broker: a subscriber, a consumer below and a service above it.

The subscriber is part of its broker: it starts and stops with it, its batches pass the broker's
middlewares, and it is in the broker's AsyncAPI document. Three things differ from FastStream's own:

- Reading is left to `KafkaConsumer`, which is assigned by range, begins where the group has
  committed, notices lost records, and gets past records that aiokafka cannot decode.
- Nothing is parsed on the way. FastStream's own parser fails on a header that is null or not UTF-8,
  and skips a batch whose parser or middleware fails. Here such a batch is read again, later.
- The service commits offsets one by one, after its own commit. The policy is MANUAL, so that
  FastStream commits nothing, and `ack` in somebody's middleware does nothing.

Answers are published by the idempotent producer of `KafkaBus`, never by FastStream's, whose
settings are the user's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from faststream.kafka import KafkaBroker
from typing_extensions import override

from saga.adapters.clocks import SystemClock
from saga.adapters.faststream._faststream import Batch, UnparsedSubscriber
from saga.adapters.kafka import KafkaBus, KafkaConsumer
from saga.core.retry import Retry
from saga.core.values import value
from saga.effects import EffectsService, Subscription
from saga.errors import BusUnavailable, SagaError
from saga.ports.bus import (
    Bus,
    Consumer,
    Inbound,
    Progress,
    Record,
    ResumeAt,
    Source,
    TopicSpec,
)
from saga.ports.effects_store import EffectsStore
from saga.retrying import Backoff

DRAIN_POLL_S: Final = 0.01
BACKOFF: Final = Retry(attempts=None, initial="100ms", cap="10s", jitter=0.5)
"""How long to wait before a batch that did not pass the middlewares is read again."""

log = logging.getLogger(__name__)


@value
class RunningService:
    """A service while its broker runs; *close* closes its bus and store if they are its own."""

    service: EffectsService
    store: EffectsStore
    close: Callable[[], Awaitable[None]]


class EffectsSubscriber(UnparsedSubscriber):
    """The subscriber of one effect service.

    Args:
        broker: where it belongs from now on.
        name: the service's.
        group: its consumer group.
        topics: the topics that it reads, by their names in the cluster.
        make: makes the service and its store; called each time the broker starts.
    """

    def __init__(
        self,
        broker: KafkaBroker,
        *,
        name: str,
        group: str,
        topics: Sequence[str],
        make: Callable[[EffectsSubscriber], RunningService],
    ) -> None:
        self.name: Final = name
        self._make = make
        self._queue = PullQueue()
        self._ending: asyncio.Task[None] | None = None
        self._backoff = Backoff(f"{group}", SystemClock(), BACKOFF)
        self._counts_before: Counter[str] = Counter()
        self.member: KafkaConsumer | None = None
        self.running_service: RunningService | None = None
        self.attempted_at_s = 0.0
        self.polled_at_s = 0.0
        super().__init__(broker, name=name, group=group, topics=topics)

    @classmethod
    def of(
        cls,
        broker: KafkaBroker,
        subscription: Subscription,
        make: Callable[[EffectsSubscriber], RunningService],
    ) -> EffectsSubscriber:
        """The subscriber of the service that *make* makes, which has this *subscription*."""
        return cls(
            broker,
            name=subscription.name,
            group=subscription.group,
            topics=subscription.topics_read,
            make=make,
        )

    # Called by the broker.

    @override
    async def start(self) -> None:
        """Start the service, which subscribes. Waits while its store or Kafka is away.

        Raises:
            DefinitionError: a function of `on_start` failed.
        """
        await self.prepare()
        loop = asyncio.get_running_loop()
        self.attempted_at_s = self.polled_at_s = loop.time()
        self.running_service = running = self._make(self)
        await running.service.start()
        # A bare task: the broker calls `start` and `stop`, and no scope spans both.
        self._ending = loop.create_task(running.service.wait(), name=f"effects of {self.name}")

    @override
    async def stop(self) -> None:
        """Drain the service; unfinished records come again at the next start."""
        running, self.running_service = self.running_service, None
        if running is not None:
            await running.service.stop()
            self._counts_before.update(running.service.counts)
        ending, self._ending = self._ending, None
        if ending is not None:
            ending.cancel()
            await asyncio.wait([ending])
        await self.halt()
        if running is not None:
            await running.close()

    @override
    async def get_msg(self, consumer: Any) -> Any:
        """The next batch, once somebody fetches."""
        request = await self._queue.next_request()
        loop = asyncio.get_running_loop()
        try:
            records = await consumer.fetch(
                records_max=request.records_max, timeout_s=request.timeout_s
            )
        except Exception as error:  # noqa: BLE001  # raised again where it was fetched
            self.attempted_at_s = loop.time()
            self._queue.fail(error)
            return ()
        self.attempted_at_s = self.polled_at_s = loop.time()
        if not records:
            self._queue.answer()
        return tuple(records)

    @override
    async def consume_one(self, msg: Any) -> None:
        """Send a batch through the middlewares to `accept`; read it again if it does not arrive."""
        batch: Batch = msg
        self._queue.offer(batch)
        await self.consume(msg)
        if not self._queue.withdraw():
            self._backoff.reset()
            return
        member = self.member
        if member is None or not self.running:
            return  # stopped meanwhile; no offset of it was committed
        starts = _starts_of(batch)
        await member.seek(starts)
        places = ", ".join(f"{at.topic}[{at.partition}]@{offset}" for at, offset in starts.items())
        lost = BusUnavailable(f"a middleware failed on a batch from {places}")
        await self._backoff.pause("a batch did not arrive, and is read again", lost)

    @override
    async def accept(self, batch: Any) -> None:
        if not self._queue.accept(batch):
            log.warning("%s: records of unknown origin are ignored", self.group_id)

    # Called by the service's consumer.

    def begin(self, member: KafkaConsumer) -> None:
        """Read from *member* from now on."""
        self.member = member
        self._queue = PullQueue()
        self.begin_reading(member)

    async def halt(self) -> None:
        """Read no more."""
        await self.end_reading()
        self._queue.close()
        self.member = None

    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        """The records that the loop reads next."""
        return await self._queue.fetch(records_max=records_max, timeout_s=timeout_s)

    async def seek(self, offsets: Mapping[Source, int]) -> None:
        """Read on from there."""
        self._queue.drop(offsets)
        if self.member is not None:
            await self.member.seek(offsets)

    async def drain(self, within_s: float) -> bool:
        """Have the records in hand answered and their offsets committed before a rebalance.

        So the next reader of the partitions begins behind them. A record that takes longer is
        answered all the same; others read it once more, and the inbox answers them.
        """
        running = self.running_service
        if running is None:
            return True
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        while running.service.in_hand and loop.time() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_S)
        if running.service.consumer is not None:
            await running.service.commit_offsets(running.service.consumer)
        return True

    # Asked by probes and roles.

    @property
    def in_hand(self) -> int:
        """How many records are fetched and not dealt with."""
        return 0 if self.running_service is None else self.running_service.service.in_hand

    @property
    def counts(self) -> Counter[str]:
        """The service's counts, those before its last stop included."""
        total = Counter(self._counts_before)
        if self.running_service is not None:
            total.update(self.running_service.service.counts)
        return total

    @property
    def failure(self) -> BaseException | None:
        """The error that the service has ended with, if it has."""
        if self._ending is None or not self._ending.done() or self._ending.cancelled():
            return None
        return self._ending.exception() or SagaError(f"the effects of {self.name} ended")

    async def wait(self) -> None:
        """Return when the service has ended, or raise the error that ended it."""
        assert self._ending is not None, "start comes first"
        await asyncio.shield(self._ending)


class FetchRequest(NamedTuple):
    """A fetch that waits for records."""

    records_max: int
    timeout_s: float
    answer: asyncio.Future[None]


class PullQueue:
    """From FastStream's consume loop to a fetch: one batch at a time, and only on request.

    FastStream pushes, the port's `Consumer` is pulled. So the loop waits for a request before it
    reads. A batch counts as delivered once the subscriber's handler has accepted it. Where a
    middleware raises in between, FastStream only logs: then nothing was delivered, and the loop
    reads the same records again.
    """

    def __init__(self) -> None:
        self._request: FetchRequest | None = None
        self._requested = asyncio.Event()
        self._ready: deque[Inbound] = deque()
        self._offered: Batch | None = None
        self._is_closed = False

    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        """The records that the loop reads next; none once the queue is closed.

        Records that were read for a fetch that was cancelled come first.

        Raises:
            Exception: reading has failed with it.
        """
        if self._is_closed:
            return []
        if not self._ready:
            answer = asyncio.get_running_loop().create_future()
            self._request = FetchRequest(records_max, timeout_s, answer)
            self._requested.set()
            try:
                await answer
            finally:
                self._request = None
        ready = self._ready
        return [ready.popleft() for _ in range(min(records_max, len(ready)))]

    async def next_request(self) -> FetchRequest:
        """Wait until somebody fetches."""
        while (request := self._request) is None or request.answer.done():
            self._requested.clear()
            await self._requested.wait()
        return request

    def fail(self, error: Exception) -> None:
        """Have the fetch that waits raise *error*."""
        request = self._request
        if request is not None and not request.answer.done():
            request.answer.set_exception(error)

    def answer(self) -> None:
        """Have the fetch that waits return the records that are ready, if there are any."""
        request = self._request
        if request is not None and not request.answer.done():
            request.answer.set_result(None)

    def offer(self, batch: Batch) -> None:
        """Note that *batch* is on its way through FastStream."""
        self._offered = batch

    def accept(self, batch: object) -> bool:
        """Whether *batch* is the one offered; then it is ready for the fetch that waits."""
        if batch is not self._offered or self._offered is None:
            return False
        self._ready.extend(self._offered)
        self._offered = None
        self.answer()
        return True

    def withdraw(self) -> bool:
        """Whether the batch offered did not arrive; it no longer counts as offered."""
        is_lost = self._offered is not None
        self._offered = None
        return is_lost

    def drop(self, sources: Mapping[Source, int]) -> None:
        """Forget the records of these sources that are ready."""
        self._ready = deque(
            record
            for record in self._ready
            if Source(record.topic, record.partition) not in sources
        )

    def close(self) -> None:
        """Have the fetch that waits, and every other, return nothing."""
        self._is_closed = True
        self._ready.clear()
        self.answer()


class BrokerBus(Bus):
    """The bus of one service: reads through *subscriber*, publishes through *kafka*."""

    def __init__(self, kafka: KafkaBus, subscriber: EffectsSubscriber) -> None:
        self._kafka = kafka
        self._subscriber = subscriber

    @override
    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        await self._kafka.create_topics(topics)

    @override
    async def publish(self, records: Sequence[Record]) -> None:
        await self._kafka.publish(records)

    @override
    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> BrokerConsumer:
        member = await self._kafka.subscribe(group, topics, resume_at=resume_at)
        self._subscriber.begin(member)
        member.on_revoke(self._subscriber.drain)
        return BrokerConsumer(member, self._subscriber)

    @override
    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        return await self._kafka.bounds(sources)

    @override
    async def close(self) -> None:
        """Nothing: the `KafkaBus` is closed by its maker."""


class BrokerConsumer(Consumer):
    """A member of a group whose records come through FastStream."""

    def __init__(self, member: KafkaConsumer, subscriber: EffectsSubscriber) -> None:
        self._member = member
        self._subscriber = subscriber
        self._is_closed = False

    @override
    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        return await self._subscriber.fetch(records_max=records_max, timeout_s=timeout_s)

    @override
    async def seek(self, offsets: Mapping[Source, int]) -> None:
        await self._subscriber.seek(offsets)

    @override
    async def commit(self, offsets: Mapping[Source, int]) -> None:
        await self._member.commit(offsets)

    @override
    def assignment(self) -> frozenset[Source]:
        return self._member.assignment()

    @property
    @override
    def progress(self) -> Mapping[Source, Progress]:
        return self._member.progress

    @property
    @override
    def stopped(self) -> Mapping[Source, str]:
        return self._member.stopped

    @property
    @override
    def waits_for(self) -> str | None:
        return self._member.waits_for

    @override
    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._subscriber.halt()
            await self._member.close()


def _starts_of(batch: Sequence[Inbound]) -> dict[Source, int]:
    """The first offset of each source in *batch*."""
    starts: dict[Source, int] = {}
    for record in batch:
        source = Source(record.topic, record.partition)
        starts[source] = min(record.offset, starts.get(source, record.offset))
    return starts
