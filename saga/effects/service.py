"""A running service: fetch, look at the inbox, call handlers, commit, publish the answers, go on.

This module has both ends of that, `handling` has the middle. An offset is committed only after the
answer was published, so after a crash a record comes again and the inbox gives the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Final, Protocol

from saga.contracts import VALUE_BYTES_MAX
from saga.core.texts import described
from saga.effects.contained import contain_tasks
from saga.effects.handling import DeadLetterSink, EffectsSettings, Handling, Parts, run_starter
from saga.effects.in_hand import KeyOrder, RecordsInHand
from saga.effects.request import Rejected, Request, Subscription
from saga.errors import BusUnavailable, MessageTooLarge, SagaError, TaskEnded, TopicMissing
from saga.ports.bus import Bus, Consumer, Inbound, Record, RecordLimits
from saga.ports.clock import Clock
from saga.ports.effects_store import EffectsStore
from saga.ports.store import DeadLetterReason
from saga.retrying import retried
from saga.tasks import Tasks

FETCH_TIMEOUT_S: Final = 0.2

log = logging.getLogger(__name__)


class EffectsService:
    """One service's handlers at work: `start`, then `wait` for trouble or `stop`. It lives once.

    *store* may be shared; it is opened here where it is not yet, and closed by its maker.
    """

    def __init__(
        self,
        subscription: Subscription,
        *,
        bus: Bus,
        store: EffectsStore,
        clock: Clock,
        dead_letters: DeadLetterSink,
        settings: EffectsSettings | None = None,
    ) -> None:
        self.subscription: Final = subscription
        self.counts: Final[Counter[str]] = Counter()
        self.consumer: Consumer | None = None
        settings = settings or EffectsSettings()
        limits = RecordLimits(VALUE_BYTES_MAX)
        self._parts = Parts(
            subscription, bus, store, clock, dead_letters, settings, self.counts, limits
        )
        name = f"effects of {subscription.name}"
        self._threads = ThreadPoolExecutor(settings.threads, name) if settings.threads else None
        self._records = RecordsInHand()
        self._order = KeyOrder()
        self._handling = Handling(self._parts, self._threads, self._answer)
        self._answers: list[tuple[Request, Record | None]] = []
        self._has_answers = asyncio.Event()
        self._offsets_at_s = clock.monotonic_s()
        self._tasks: Tasks | None = None
        self._running: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._is_waiting_for_records = False
        self._is_stopping = False
        self._has_ended = asyncio.Event()
        self._failure: BaseException | None = None

    @property
    def in_hand(self) -> int:
        """How many records are fetched and not yet dealt with."""
        return self._records.count

    async def start(self) -> None:
        """Make the service's tables, join the group and begin. Waits while bus or store are away.

        Raises:
            DefinitionError: a function of `on_start` failed.
        """
        contain_tasks()
        subscription, store, backoff = self.subscription, self._parts.store, self._parts.backoff
        await retried("the store cannot be opened", backoff, store.open)
        for starter in subscription.effects.starters:
            what = "on_start cannot use the store"
            await retried(what, backoff, run_starter, starter, store, self._threads)
        bus, written = self._parts.bus, subscription.topics_written
        limits = await retried("cannot look for limits", backoff, bus.limits, written)
        self._parts.limits.learn(limits)
        subscribe, topics = bus.subscribe, subscription.topics_read
        what = "cannot join the group"
        self.consumer = await retried(what, backoff, subscribe, subscription.group, topics)
        # A bare task: `start` and `stop` are called by others, and all other tasks are in it.
        self._running = asyncio.create_task(self._run(self.consumer))

    async def wait(self) -> None:
        """Return when the service was stopped, or raise the error that ended it."""
        await self._has_ended.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Finish what is in hand within `drain_s`, and leave the group; the rest comes again."""
        async with AsyncExitStack() as last:
            last.callback(self._has_ended.set)
            last.push_async_callback(self._leave)
            if self._threads is not None:
                last.callback(self._threads.shutdown, wait=False, cancel_futures=True)
            if self._running is not None:
                last.push_async_callback(self._end, self._running)
                await self._drain(self._running)

    async def _end(self, running: asyncio.Task[None]) -> None:
        self._handling.end()
        running.cancel()
        await asyncio.wait([running])

    async def _leave(self) -> None:
        """Leave the group."""
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            async with AsyncExitStack() as last:
                last.push_async_callback(consumer.close)
                await self.commit_offsets(consumer)

    async def commit_offsets(self, consumer: Consumer) -> None:
        """A bus that is away is not waited for: a late offset only has an answer sent again."""
        self._offsets_at_s = self._parts.clock.monotonic_s()
        due = self._records.offsets_due(consumer.assignment())
        if not due:
            return
        try:
            await consumer.commit(due)
        except BusUnavailable as error:
            log.warning("%s: offsets are not committed: %s", self.subscription.name, error)
        else:
            self._records.committed(due)

    async def _run(self, consumer: Consumer) -> None:
        name = f"the effects of {self.subscription.name}"
        try:
            async with Tasks(name) as self._tasks:
                self._handling.start(self._tasks)
                self._tasks.start(self._publish(), "the publisher of answers")
                self._fetching = self._tasks.start(self._fetch(consumer), "the reader of intents")
        except asyncio.CancelledError:
            if not self._is_stopping:
                self._fail(TaskEnded(f"{name} were cancelled by somebody else"))
            raise
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._handling.end()

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        reason = described(error)
        log.critical(
            "the effects of %s ended: %s",
            self.subscription.name,
            reason,
            exc_info=None if isinstance(error, SagaError) else error,
            extra={"reason": reason},
        )
        self._has_ended.set()

    async def _drain(self, running: asyncio.Task[None]) -> None:
        """Fetch nothing more and wait until all in hand is dealt with, or *running* has ended."""
        self._is_stopping = True
        if self._tasks is not None:
            self._tasks.may_end()
        self._handling.has_room.set()
        if self._fetching is not None and self._is_waiting_for_records:
            self._fetching.cancel()
        if not self._records.count or running.done():
            return
        # Bare tasks: both are cancelled before this returns.
        is_empty = asyncio.ensure_future(self._records.is_empty.wait())
        time_is_up = asyncio.ensure_future(self._parts.clock.sleep(self._parts.settings.drain_s))
        try:
            await asyncio.wait({running, is_empty, time_is_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_empty.cancel()
            time_is_up.cancel()
        if self._records.count and not running.done():
            name, count = self.subscription.name, self._records.count
            log.warning("%s stops with %d records in hand", name, count)

    # Fetching: records become requests, those whose turn it is go to the inbox.

    async def _fetch(self, consumer: Consumer) -> None:
        parts, settings, has_room = self._parts, self._parts.settings, self._handling.has_room
        while not self._is_stopping:
            room = settings.records_in_hand_max - self._records.count
            if room <= 0 or len(self._handling.committing) >= parts.store.commits_max:
                has_room.clear()
                await has_room.wait()
                continue
            self._is_waiting_for_records = True
            records = await retried(
                "cannot fetch",
                parts.backoff,
                consumer.fetch,
                records_max=min(room, settings.fetch_records_max),
                timeout_s=FETCH_TIMEOUT_S,
            )
            self._is_waiting_for_records = False
            if records:
                await self._admit(records)
            if parts.clock.monotonic_s() - self._offsets_at_s >= settings.offsets_every_s:
                await self.commit_offsets(consumer)

    async def _admit(self, records: Sequence[Inbound]) -> None:
        self._records.begin(records)
        requests: list[Request] = []
        rejected: list[Rejected] = []
        noticed: list[Inbound] = []
        for read in map(self.subscription.read, records):
            if isinstance(read, Request):
                requests.append(read)
            elif isinstance(read, Rejected):
                rejected.append(read)
            else:
                if read.intent_id is not None:
                    self._handling.cancelled.add(read.intent_id)
                noticed.append(read.inbound)
        if noticed:
            self._finish(noticed)
        await self._handling.look_up(self._order.enter(requests))
        for inbound, reason, message in rejected:
            await self._parts.keep_dead_letter(inbound, reason, message)
            self._finish([inbound])

    # Publishing: send the answers, let the next of each key go on, remember the offsets.

    def _answer(self, answers: Collection[tuple[Request, Record | None]]) -> None:
        """These are dealt with; None is for those that get no answer, or have theirs."""
        self._answers.extend(answers)
        self._has_answers.set()

    async def _publish(self) -> None:
        while True:
            await self._has_answers.wait()
            self._has_answers.clear()
            answers, self._answers = self._answers, []
            replies = [(request, record) for request, record in answers if record is not None]
            if replies:
                try:
                    await self._send([record for _, record in replies])
                except MessageTooLarge:
                    await self._send_one_by_one(replies)
            requests = [request for request, _ in answers]
            following = self._order.leave(requests)
            self._finish([request.inbound for request in requests])
            await self._handling.look_up(following)

    async def _send(self, records: Sequence[Record]) -> None:
        what = "answers cannot be published"
        await retried(what, self._parts.backoff, self._publish_replies, records)

    async def _publish_replies(self, records: Sequence[Record]) -> None:
        try:
            await self._parts.bus.publish(records)
        except TopicMissing as error:
            raise BusUnavailable(str(error)) from error  # until somebody makes it

    async def _send_one_by_one(self, replies: Sequence[tuple[Request, Record]]) -> None:
        """Say instead of answers that are too large that they are: topics took them a while ago."""
        for request, record in replies:
            try:
                await self._send([record])
            except MessageTooLarge as error:
                await self._send_instead(request, str(error))

    async def _send_instead(self, request: Request, reason: str) -> None:
        """The effect has happened and is kept; its saga is told that its answer cannot be had."""
        row = self._handling.reply_too_large(request, reason)
        record = self.subscription.reply(request, row)
        assert record is not None, "facts are not answered"
        try:
            await self._send([record])
        except MessageTooLarge as error:
            code = DeadLetterReason.REPLY_TOO_LARGE
            await self._parts.keep_dead_letter(request.inbound, code, str(error))

    def _finish(self, records: Sequence[Inbound]) -> None:
        self._records.finish(records)
        self._handling.has_room.set()


class Served(Protocol):
    """An effect service that something else starts and stops."""

    @property
    def subscription(self) -> Subscription: ...
    @property
    def in_hand(self) -> int: ...
    @property
    def counts(self) -> Counter[str]: ...
    async def wait(self) -> None: ...


class EffectsRole:
    """Effect services as one of the roles of a process; *start* and *stop* are of all of them."""

    def __init__(
        self,
        services: Sequence[Served],
        *,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._services = tuple(services)
        names = ", ".join(service.subscription.name for service in services)
        self.name: Final = f"effects of {names}"
        self._start_all = start
        self._stop_all = stop
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        try:
            await self._start_all()
        except BaseException:
            await self._stop_all()
            raise

    async def run(self) -> None:
        """Work until stopped or until a service fails, then finish the records in hand."""
        # Bare tasks: they only wait, and are cancelled before this returns.
        ends = [asyncio.ensure_future(service.wait()) for service in self._services]
        waits = [asyncio.ensure_future(self._stopping.wait()), *ends]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    end.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            await self._stop_all()

    def stop(self) -> None:
        self._stopping.set()

    async def close(self) -> None:
        """Nothing: `run` has closed everything, however it ended."""

    @property
    def is_idle(self) -> bool:
        return all(service.in_hand == 0 for service in self._services)

    @property
    def counts(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for service in self._services:
            total.update(service.counts)
        return total
