"""An effect service on a FastStream broker: a subscriber, a consumer below and a service above it.

Batches pass the broker's middlewares, but `KafkaConsumer` reads them, and nothing parses them: a
batch that FastStream would skip, because a parser or middleware failed, is read again. Only the
service commits offsets, after its own commit; `ack` in a middleware does nothing. Replies go out by
the idempotent producer of `KafkaBus`, never by FastStream's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

from faststream.kafka import KafkaBroker
from typing_extensions import override

from saga.adapters.clocks import SystemClock
from saga.adapters.faststream._faststream import Batch, UnparsedSubscriber
from saga.adapters.kafka import KafkaBus, KafkaConsumer
from saga.core.retry import Retry
from saga.core.values import value
from saga.effects import EffectsService, Subscription
from saga.errors import BusUnavailable
from saga.ports.bus import Bus, Inbound, MemberView, Origin, Record, ResumeAt, Source, TopicSpec
from saga.ports.effects_store import EffectsStore
from saga.retrying import Backoff
from saga.tasks import why_ended

DRAIN_POLL_S: Final = 0.01
BACKOFF: Final = Retry(attempts=None, initial="100ms", cap="10s", jitter=0.5)
"""How long to wait before a batch that did not pass the middlewares is read again."""

log = logging.getLogger(__name__)


@value
class RunningService:
    """*close* closes bus and store if they are the service's own."""

    service: EffectsService
    store: EffectsStore
    close: Callable[[], Awaitable[None]]


class EffectsSubscriber(UnparsedSubscriber):
    """The subscriber of one effect service; *make* is called each time the broker starts."""

    def __init__(
        self,
        broker: KafkaBroker,
        subscription: Subscription,
        make: Callable[[EffectsSubscriber], RunningService],
    ) -> None:
        self.name: Final = subscription.name
        self.subscription: Final = subscription
        self._make = make
        self._ending: asyncio.Task[None] | None = None
        self._backoff = Backoff(subscription.group, SystemClock(), BACKOFF)
        self._counts_before: Counter[str] = Counter()
        self.member: BrokerConsumer | None = None
        self.running_service: RunningService | None = None
        self.attempted_at_s = 0.0
        self.polled_at_s = 0.0
        topics = subscription.topics_read
        super().__init__(broker, name=self.name, group=subscription.group, topics=topics)

    # Called by the broker.

    @override
    async def start(self) -> None:
        """Waits while store or Kafka is away; raises `DefinitionError` where `on_start` failed."""
        await self.prepare()
        loop = asyncio.get_running_loop()
        self.attempted_at_s = self.polled_at_s = loop.time()
        self.running_service = running = self._make(self)
        await running.service.start()
        # A bare task: the broker calls `start` and `stop`, and no scope spans both.
        self._ending = loop.create_task(running.service.wait(), name=self._what)

    @override
    async def stop(self) -> None:
        """Unfinished records come again at the next start."""
        running, self.running_service = self.running_service, None
        async with AsyncExitStack() as last:
            if running is not None:
                last.push_async_callback(running.close)
            last.push_async_callback(self._leave)
            if running is not None:
                await running.service.stop()
                self._counts_before.update(running.service.counts)

    async def _leave(self) -> None:
        ending, self._ending = self._ending, None
        if ending is not None:
            ending.cancel()
            await asyncio.wait([ending])
        if self.member is not None:
            await self.member.close()

    @override
    async def get_msg(self, consumer: Any) -> Batch:
        batch: Batch | None = await consumer.read()
        self.attempted_at_s = asyncio.get_running_loop().time()
        if batch is None:
            return ()
        self.polled_at_s = self.attempted_at_s
        return batch

    @override
    async def consume_one(self, msg: Any) -> None:
        """A batch that does not reach `accept` is read again."""
        member = self.member
        assert member is not None, "a loop runs for a member"
        member.offered = msg
        await self.consume(msg)
        if member.offered is None:
            self._backoff.reset()
        elif self.running:  # else stopped meanwhile; no offset of it was committed
            places = await member.read_again()
            lost = BusUnavailable(f"a middleware failed on a batch from {places}")
            await self._backoff.pause("a batch did not arrive, and is read again", lost)

    @override
    async def accept(self, batch: Any) -> None:
        if self.member is None or not self.member.accept(batch):
            log.warning("%s: records of unknown origin are ignored", self.group_id)

    # Called by the service's consumer.

    def begin(self, member: KafkaConsumer) -> BrokerConsumer:
        member.on_revoke(self._drain)
        self.member = consumer = BrokerConsumer(member, self._halt)
        self.begin_reading(consumer)
        return consumer

    @override
    def reading_ended(self, loop: asyncio.Task[Any]) -> None:
        if self.member is not None:
            self.member.fail(why_ended(loop, f"FastStream's consume loop of {self.name}"))

    async def _halt(self) -> None:
        await self.end_reading()
        self.member = None

    async def _drain(self, within_s: float) -> bool:
        """Answer and commit the records in hand, so that the next reader begins behind them.

        A record that takes longer is answered all the same; another reader gets the inbox's answer.
        """
        if self.running_service is not None:
            service = self.running_service.service
            loop = asyncio.get_running_loop()
            until_s = loop.time() + within_s
            while service.in_hand and loop.time() < until_s:  # noqa: ASYNC110
                await asyncio.sleep(DRAIN_POLL_S)
            if service.consumer is not None:
                await service.commit_offsets(service.consumer)
        return True

    # Asked by probes and roles.

    @property
    def in_hand(self) -> int:
        """Records that are fetched and not dealt with."""
        return 0 if self.running_service is None else self.running_service.service.in_hand

    @property
    def counts(self) -> Counter[str]:
        """Those before the last stop are included."""
        total = Counter(self._counts_before)
        if self.running_service is not None:
            total.update(self.running_service.service.counts)
        return total

    @property
    def failure(self) -> Exception | None:
        """What has ended the service; None while it goes on, or after it was stopped."""
        return None if self._ending is None else why_ended(self._ending, self._what)

    @property
    def _what(self) -> str:
        return f"the effects of {self.name}"

    async def wait(self) -> None:
        """Wait for the end of the service, and raise the error that ended it."""
        ending = self._ending
        assert ending is not None, "start comes first"
        await asyncio.wait([ending])
        if self._ending is ending and (error := why_ended(ending, self._what)) is not None:
            raise error


class FetchRequest(NamedTuple):
    records_max: int
    timeout_s: float
    answer: asyncio.Future[None]


class BrokerConsumer(MemberView):
    """A member of a group whose records come through FastStream: a batch at a time, on request.

    FastStream's loop waits for a fetch before it reads. FastStream only logs what a middleware
    raises, so a batch counts as delivered once it was accepted; *offered* is None then.
    """

    def __init__(self, member: KafkaConsumer, halt: Callable[[], Awaitable[None]]) -> None:
        super().__init__(member)
        self._halt = halt
        self._request: FetchRequest | None = None
        self._requested = asyncio.Event()
        self._ready: deque[Inbound] = deque()
        self.offered: Batch | None = None
        self._is_closed = False
        self._failure: Exception | None = None

    # The port's side.

    @override
    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        # Records of a fetch that was cancelled come first.
        if self._failure is not None:
            raise self._failure
        if not self._ready and not self._is_closed:
            answer = asyncio.get_running_loop().create_future()
            self._request = FetchRequest(records_max, timeout_s, answer)
            self._requested.set()
            try:
                await answer
            finally:
                self._request = None
        ready = self._ready
        return [ready.popleft() for _ in range(min(records_max, len(ready)))]

    @override
    async def seek(self, offsets: Mapping[Source, int]) -> None:
        self._ready = deque(each for each in self._ready if _source(each) not in offsets)
        await self.member.seek(offsets)

    @override
    async def commit(self, offsets: Mapping[Source, int]) -> None:
        await self.member.commit(offsets)

    @override
    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._halt()
            self._ready.clear()
            self._answer()
            await self.member.close()

    # FastStream's side.

    async def read(self) -> Batch | None:
        """Wait for a fetch; None where reading failed, which that fetch raises."""
        while (request := self._request) is None or request.answer.done():
            self._requested.clear()
            await self._requested.wait()
        try:
            records = await self.member.fetch(
                records_max=request.records_max, timeout_s=request.timeout_s
            )
        except Exception as error:  # noqa: BLE001  # raised again where it was fetched
            self._answer(error)
            return None
        if not records:
            self._answer()
        return tuple(records)

    def fail(self, error: Exception | None) -> None:
        """Nobody reads any more: this fetch and all to come raise *error*."""
        self._failure = error
        self._answer(error)

    def accept(self, batch: object) -> bool:
        """Whether *batch* is the one offered."""
        if batch is not self.offered or self.offered is None:
            return False
        self._ready.extend(self.offered)
        self.offered = None
        self._answer()
        return True

    async def read_again(self) -> str:
        """Seek back to the batch offered; returns the places of its first records."""
        starts: dict[Source, int] = {}
        for record in self.offered or ():
            at = _source(record)
            starts[at] = min(record.offset, starts.get(at, record.offset))
        self.offered = None
        await self.member.seek(starts)
        return ", ".join(f"{at.topic}[{at.partition}]@{offset}" for at, offset in starts.items())

    def _answer(self, error: Exception | None = None) -> None:
        if self._request is None or self._request.answer.done():
            return
        if error is None:
            self._request.answer.set_result(None)
        else:
            self._request.answer.set_exception(error)


class BrokerBus(Bus):
    """Reads through *subscriber*, publishes through *kafka*."""

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
    async def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        return await self._kafka.limits(topics)

    @override
    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> BrokerConsumer:
        return self._subscriber.begin(
            await self._kafka.subscribe(group, topics, resume_at=resume_at)
        )

    @override
    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        return await self._kafka.bounds(sources)

    @override
    async def origins(self, topics: Collection[str]) -> Mapping[str, Origin]:
        return await self._kafka.origins(topics)

    @override
    async def close(self) -> None:
        """Nothing: the `KafkaBus` is closed by its maker."""


def _source(record: Inbound) -> Source:
    return Source(record.topic, record.partition)
