"""A running service: fetch, look at the inbox, call handlers, commit, publish the answers, go on.

The inbox makes it safe to crash anywhere. An offset is committed only after the answer was
published, so a record in hand comes again and is answered again with the same bytes. There is no
outbox of answers. While one batch is committed and published, the next is handled; how much is in
hand is bounded. A bus or store that is away is waited for: nothing becomes a dead letter for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from saga.core.events import ReplyOutcome
from saga.core.retry import Retry
from saga.core.values import value
from saga.effects.in_hand import KeyOrder, RecordsInHand
from saga.effects.inbox import Answer, Conflict, NothingToUndo, Run, Superseded, judge, keys_of
from saga.effects.request import Rejected, Request, Subscription
from saga.effects.worker_pool import (
    Attempt,
    Job,
    WorkerPool,
    attempt,
    run_starter,
    transaction_ended,
)
from saga.errors import (
    BusUnavailable,
    MessageTooLarge,
    StoreUnavailable,
    TopicMissing,
    TransactionEnded,
)
from saga.ports.bus import Bus, Consumer, Inbound, Record
from saga.ports.clock import Clock
from saga.ports.effects_store import EffectsStore, InboxRow, InboxWrite, Unit
from saga.ports.store import DeadLetterReason
from saga.retrying import AWAY, Backoff, retried

FETCH_TIMEOUT_S: Final = 0.2
DEAD_LETTERS: Final = "effects_dead_letters"
REPEATED: Final = "effects_repeated"
_COUNTED: Final = {outcome: f"effects_{outcome.value}" for outcome in ReplyOutcome}

T = TypeVar("T")

log = logging.getLogger(__name__)


class DeadLetterSink(Protocol):
    """Keeps records that no handler can take, in sight of an operator."""

    def __call__(self, inbound: Inbound, reason: str, message: str, /) -> Awaitable[None]:
        """Keep *inbound* with a *reason* for machines and a *message* for people.

        The record counts as dealt with once this returns. May be called again for the same record,
        after a crash or a retriable error.
        """
        ...


@value(kw_only=True)
class EffectsSettings:
    """The limits of one service.

    Args:
        concurrency: how many handlers may be waiting for something at once.
        threads: how many sync handlers run at once; 0 runs them on the event loop itself.
        records_in_hand_max: how many records are fetched and not yet answered.
        fetch_records_max: how many are fetched at once.
        slow_after_s: a handler that takes longer has others started beside it.
        drain_s: how long stopping may take to finish the records in hand.
        offsets_every_s: how often the group's offsets are committed.
        backoff: how long to wait for a bus or store that cannot be reached.
        listen_retry: how often a listener may fail on a fact before that is a dead letter.
    """

    concurrency: int = 64
    threads: int = 8
    records_in_hand_max: int = 512
    fetch_records_max: int = 256
    slow_after_s: float = 0.002
    drain_s: float = 10.0
    offsets_every_s: float = 0.2
    backoff: Retry = AWAY
    listen_retry: Retry = Retry(attempts=5, initial="100ms")


class EffectsService:
    """One service's handlers at work: `start`, then `wait` for trouble or `stop`. It lives once.

    Args:
        subscription: the topics, how they are read, and the handlers behind them.
        bus: where intents come from and answers go.
        store: the inbox and the service's tables, possibly shared with other services; opened here
            where it is not yet, and closed by its maker.
        clock: the only source of time.
        dead_letters: keeps the records that cannot be handled.
        settings: limits.
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
        self._parts = _Parts(
            subscription,
            bus,
            store,
            clock,
            dead_letters,
            settings or EffectsSettings(),
            self.counts,
        )
        self._threads: ThreadPoolExecutor | None = None
        self._pipeline: _Pipeline | None = None
        self._running: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self.consumer: Consumer | None = None

    @property
    def in_hand(self) -> int:
        """How many records are fetched and not yet dealt with."""
        return 0 if self._pipeline is None else self._pipeline.in_hand.count

    async def start(self) -> None:
        """Make the service's tables, join the group and begin. Waits while bus or store are away.

        Raises:
            DefinitionError: a function of `on_start` failed.
        """
        parts, subscription = self._parts, self.subscription
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        if parts.settings.threads:
            self._threads = ThreadPoolExecutor(
                parts.settings.threads, f"effects of {subscription.name}"
            )
        await parts.retry("the store cannot be opened", parts.store.open)
        for starter in subscription.effects.starters:
            run = partial(run_starter, starter, parts.store, self._threads)
            await parts.retry("on_start cannot use the store", run)
        self.consumer = await parts.retry(
            "cannot join the group",
            lambda: parts.bus.subscribe(subscription.group, subscription.topics_read),
        )
        self._pipeline = _Pipeline(parts, self.consumer, self._threads)
        # A bare task: `start` and `stop` are called by others, and all other tasks are in it.
        self._running = loop.create_task(self._pipeline.run())
        self._running.add_done_callback(self._note_end)

    async def wait(self) -> None:
        """Return when the service was stopped, or raise the error that ended it."""
        assert self._ended is not None, "start comes first"
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Fetch nothing more, finish the records in hand, commit the offsets and leave the group.

        The settings limit how long that takes. What is not finished comes again at the next start.
        """
        assert self._ended is not None, "start comes first"
        if self._pipeline is not None and self._running is not None:
            await self._pipeline.drain(self._running)
            self._pipeline.end()
            self._running.cancel()
            await asyncio.wait([self._running])
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self.consumer is not None:
            consumer, self.consumer = self.consumer, None
            await self.commit_offsets(consumer)
            await consumer.close()
        if not self._ended.done():
            self._ended.set_result(None)

    async def commit_offsets(self, consumer: Consumer) -> None:
        """Commit how far the service has come, if the bus can be reached.

        An offset that is not committed costs no more than an answer sent again.
        """
        if self._pipeline is not None:
            await self._pipeline.commit_offsets(consumer)

    def _note_end(self, running: asyncio.Task[None]) -> None:
        error = None if running.cancelled() else running.exception()
        if error is not None and self._ended is not None and not self._ended.done():
            # All tasks of a group are cancelled at the first error; that one is the reason.
            first = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            log.critical("the effects of %s ended", self.subscription.name, exc_info=first)
            self._ended.set_exception(first)
            self._ended.exception()  # `wait` may never be called; it was logged above


class Served(Protocol):
    """An effect service that something else starts and stops."""

    @property
    def in_hand(self) -> int:
        """How many records are fetched and not yet dealt with."""
        ...

    @property
    def counts(self) -> Counter[str]:
        """Its counts since the start."""
        ...

    async def wait(self) -> None:
        """Return when the service was stopped, or raise the error that ended it."""
        ...


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
        self._start_all = start
        self._stop_all = stop
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Start the services, which wait while bus or store are away."""
        try:
            await self._start_all()
        except BaseException:
            await self._stop_all()
            raise

    async def run(self) -> None:
        """Work until stopped or until a service fails, then finish the records in hand."""
        stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stopping.wait())
        ended = asyncio.ensure_future(self._wait())
        try:
            await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
        finally:
            stopped.cancel()
            try:
                await self._stop_all()
            finally:
                # Stopping the services has ended it, also where something else could not stop.
                ended.cancel()
                await asyncio.gather(ended, return_exceptions=True)

    def stop(self) -> None:
        """Take nothing new."""
        self._stopping.set()

    async def close(self) -> None:
        """Nothing: `run` has closed everything."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand."""
        return all(service.in_hand == 0 for service in self._services)

    @property
    def counts(self) -> Counter[str]:
        """The counts of all services since the start."""
        total: Counter[str] = Counter()
        for service in self._services:
            total.update(service.counts)
        return total

    async def _wait(self) -> None:
        """In a task of its own: a cancelled `gather` that is not awaited is an error."""
        await asyncio.gather(*(service.wait() for service in self._services))


class _Parts(NamedTuple):
    """What the stages of one service have in common."""

    subscription: Subscription
    bus: Bus
    store: EffectsStore
    clock: Clock
    dead_letters: DeadLetterSink
    settings: EffectsSettings
    counts: Counter[str]

    async def retry(self, what: str, act: Callable[[], Awaitable[T]]) -> T:
        """The result of *act*, repeated while it raises a retriable error."""
        return await retried(act, self.backoff(), what)

    def backoff(self) -> Backoff:
        """Waits of this service."""
        return Backoff(f"effects of {self.subscription.name}", self.clock, self.settings.backoff)

    async def keep_dead_letter(self, inbound: Inbound, reason: str, message: str) -> None:
        self.counts[DEAD_LETTERS] += 1
        await self.retry(
            "a dead letter cannot be kept", lambda: self.dead_letters(inbound, reason, message)
        )


class _Pipeline:
    """Fetch → inbox → handlers → commit → publish, from a service's start to its stop.

    This class has both ends of it: records come in, answers go out. `_Handling` has the middle.
    """

    def __init__(self, parts: _Parts, consumer: Consumer, threads: Executor | None) -> None:
        self.in_hand: Final = RecordsInHand()
        self._parts = parts
        self._consumer = consumer
        self._order = KeyOrder()
        self._handling = _Handling(parts, threads, self._answer)
        self._answers: list[tuple[Request, InboxRow | None]] = []
        self._has_answers = asyncio.Event()
        self._offsets_at_s = parts.clock.monotonic_s()
        self._fetching: asyncio.Task[None] | None = None
        self._is_fetching = False
        self._is_stopping = False

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            BaseExceptionGroup: one of the tasks has failed; all others are cancelled then.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._handling.start(tasks)
                tasks.create_task(self._publish())
                self._fetching = tasks.create_task(self._fetch())
        finally:
            self.end()

    def end(self) -> None:
        """Begin nothing new; `run` is about to be cancelled, or is over."""
        self._handling.end()

    async def drain(self, running: asyncio.Task[None]) -> None:
        """Fetch nothing more and wait until all in hand is dealt with, or *running* has ended."""
        self._is_stopping = True
        self._handling.has_room.set()
        if self._fetching is not None and self._is_fetching:
            self._fetching.cancel()
        if not self.in_hand.count or running.done():
            return
        # Bare tasks: both are cancelled before this returns.
        is_empty = asyncio.ensure_future(self.in_hand.is_empty.wait())
        time_is_up = asyncio.ensure_future(self._parts.clock.sleep(self._parts.settings.drain_s))
        try:
            await asyncio.wait({running, is_empty, time_is_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_empty.cancel()
            time_is_up.cancel()
        if self.in_hand.count and not running.done():
            name = self._parts.subscription.name
            log.warning("%s stops with %d records in hand", name, self.in_hand.count)

    # Fetching: records become requests, those whose turn it is go to the inbox.

    async def _fetch(self) -> None:
        parts, settings = self._parts, self._parts.settings
        while not self._is_stopping:
            room = settings.records_in_hand_max - self.in_hand.count
            if room <= 0 or self._handling.commits >= parts.store.commits_max:
                self._handling.has_room.clear()
                await self._handling.has_room.wait()
                continue
            records = await self._fetch_some(min(room, settings.fetch_records_max))
            if records:
                await self._admit(records)
            if parts.clock.monotonic_s() - self._offsets_at_s >= settings.offsets_every_s:
                await self.commit_offsets(self._consumer)

    async def _fetch_some(self, records_max: int) -> list[Inbound]:
        self._is_fetching = True
        try:
            return await self._parts.retry(
                "cannot fetch",
                lambda: self._consumer.fetch(records_max=records_max, timeout_s=FETCH_TIMEOUT_S),
            )
        finally:
            self._is_fetching = False

    async def _admit(self, records: Sequence[Inbound]) -> None:
        requests: list[Request] = []
        rejected: list[Rejected] = []
        read, enter = self._parts.subscription.read, self._order.enter
        for inbound in records:
            self.in_hand.begin(inbound)
            request = read(inbound)
            if isinstance(request, Rejected):
                rejected.append(request)
            elif enter(request):
                requests.append(request)
        await self._handling.look_up(requests)
        for inbound, reason, message in rejected:
            await self._parts.keep_dead_letter(inbound, reason, message)
            self._finish(inbound)

    # Publishing: send the answers, let the next of each key go on, remember the offsets.

    def _answer(self, answers: Collection[tuple[Request, InboxRow | None]]) -> None:
        self._answers.extend(answers)
        self._has_answers.set()

    async def _publish(self) -> None:
        reply = self._parts.subscription.reply
        while True:
            await self._has_answers.wait()
            self._has_answers.clear()
            answers, self._answers = self._answers, []
            replies = [
                (request, record)
                for request, row in answers
                if row is not None and (record := reply(request, row)) is not None
            ]
            if replies:
                try:
                    await self._send([record for _, record in replies])
                except MessageTooLarge:
                    await self._send_one_by_one(replies)
            following: list[Request] = []
            for request, _ in answers:
                follower = self._order.leave(request)
                if follower is not None:
                    following.append(follower)
                self._finish(request.inbound)
            await self._handling.look_up(following)

    async def _send(self, records: Sequence[Record]) -> None:
        async def publish() -> None:
            try:
                await self._parts.bus.publish(records)
            except TopicMissing as error:
                raise BusUnavailable(str(error)) from error  # until somebody makes it

        await self._parts.retry("answers cannot be published", publish)

    async def _send_one_by_one(self, replies: Sequence[tuple[Request, Record]]) -> None:
        """Set aside the answers that are too large: the broker takes less than we do."""
        for request, record in replies:
            try:
                await self._send([record])
            except MessageTooLarge as error:
                reason = DeadLetterReason.REPLY_TOO_LARGE
                await self._parts.keep_dead_letter(request.inbound, reason, str(error))

    def _finish(self, inbound: Inbound) -> None:
        self.in_hand.finish(inbound)
        self._handling.has_room.set()

    async def commit_offsets(self, consumer: Consumer) -> None:
        """Commit the offsets that are due; a bus that is away is not waited for."""
        self._offsets_at_s = self._parts.clock.monotonic_s()
        due = self.in_hand.offsets_due(consumer.assignment())
        if not due:
            return
        try:
            await consumer.commit(due)
        except BusUnavailable as error:
            name = self._parts.subscription.name
            log.warning("%s: offsets are not committed: %s", name, error)
        else:
            self.in_hand.committed(due)


class _Commit(NamedTuple):
    """A unit of work on its way to the disk; without a *run* no handler was called."""

    unit: Unit
    request: Request
    row: InboxRow
    run: Run | None


class _Handling:
    """The middle of the pipeline: from a request whose turn it is to an answer that is durable."""

    def __init__(
        self,
        parts: _Parts,
        threads: Executor | None,
        answer: Callable[[Collection[tuple[Request, InboxRow | None]]], None],
    ) -> None:
        settings = parts.settings
        self.has_room: Final = asyncio.Event()
        self._parts = parts
        self._threads = threads
        self._answer = answer
        self._pool = WorkerPool(
            self._handle,
            clock=parts.clock,
            workers_max=settings.concurrency,
            slow_after_s=settings.slow_after_s,
        )
        self._committing: dict[asyncio.Future[Collection[Unit]], list[_Commit]] = {}
        self._commit_backoff = parts.backoff()
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def commits(self) -> int:
        """How many commits are under way."""
        return len(self._committing)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to work, in *tasks*."""
        self._tasks = tasks
        tasks.create_task(self._pool.run(tasks))

    def end(self) -> None:
        """Begin nothing new: a commit that ends now is answered after the next start."""
        self._tasks = None

    async def look_up(self, requests: Sequence[Request]) -> None:
        """Give each of these requests its verdict. Each is the one of its key that may go on."""
        if not requests:
            return
        parts = self._parts
        subscription = parts.subscription
        keys = [key for request in requests for key in keys_of(request)]
        rows = await parts.retry(
            "the inbox cannot be read", lambda: parts.store.kept(subscription.name, keys)
        )
        now = parts.clock.now()
        jobs: list[Job] = []
        for request in requests:
            verdict = judge(
                request, rows, service=subscription.name, handled=subscription.handled, now=now
            )
            match verdict:
                case Run():
                    jobs.append(Job(request, verdict))
                case Answer(row):
                    parts.counts[REPEATED] += 1
                    self._answer([(request, row)])
                case NothingToUndo(writes):
                    self._commit(writes, _Commit(parts.store.unit(), request, writes[0].row, None))
                case Superseded():
                    parts.counts[REPEATED] += 1
                    self._answer([(request, None)])
                case Conflict(row):
                    self._refuse(request, row)
        self._pool.put(jobs)

    def _refuse(self, request: Request, row: InboxRow) -> None:
        """Answer a message whose id came before with other content; a fact is a dead letter."""
        log.error(
            "%s: %s",
            row.code,
            row.message,
            extra={"saga_id": request.saga_id, "topic": request.inbound.topic, "reason": row.code},
        )
        if request.route.is_intent:
            self._answer([(request, row)])
        else:
            self._keep_dead_letter(request, DeadLetterReason.ID_CONFLICT, str(row.message))

    async def _handle(self, job: Job) -> None:
        """One job of the worker pool."""
        request = job.request
        unit = self._parts.store.unit()
        try:
            ended = await attempt(request, unit, self._threads)
        except BaseException:
            unit.drop()
            raise
        if ended is None:
            unit.drop()
            self._repeat([request], StoreUnavailable("the store failed under a handler"))
            return
        if ended.outcome is not ReplyOutcome.DONE:
            unit.drop()
        try:
            self._keep(unit, job, ended)
        except TransactionEnded as error:
            self._keep(unit, job, transaction_ended(request, error))

    def _keep(self, unit: Unit, job: Job, ended: Attempt) -> None:
        request, run = job
        if ended.outcome is ReplyOutcome.FAILED and not request.route.is_intent:
            unit.drop()
            self._listen_again(job, ended)
            return
        parts = self._parts
        row = InboxRow(
            parts.subscription.name,
            request.idempotency_key,
            request.attempt,
            ended.outcome,
            ended.contract,
            ended.payload,
            ended.code,
            ended.message,
            request.digest,
            parts.clock.now(),
        )
        write = InboxWrite(row, run.replaces)
        is_done = run.when_done and ended.outcome is ReplyOutcome.DONE
        writes = (write, *run.when_done) if is_done else (write,)
        self._commit(writes, _Commit(unit, request, row, run))

    def _commit(self, writes: Sequence[InboxWrite], commit: _Commit) -> None:
        """Have *writes* made durable; units that end together share a future.

        Raises:
            TransactionEnded: see `Unit.keep`.
        """
        future = commit.unit.keep(writes)
        commits = self._committing.get(future)
        if commits is None:
            commits = self._committing[future] = []
            future.add_done_callback(self._committed)
        commits.append(commit)

    def _committed(self, future: asyncio.Future[Collection[Unit]]) -> None:
        commits = self._committing.pop(future)
        if future.cancelled() or self._tasks is None:
            return
        match future.exception():
            case None:
                self._settle(commits, future.result())
            case StoreUnavailable() as error:
                self._repeat([commit.request for commit in commits], error)
            case TransactionEnded() as error:
                for commit in commits:
                    assert commit.run is not None, "only a handler can have tampered with it"
                    ended = transaction_ended(commit.request, error)
                    self._keep(self._parts.store.unit(), Job(commit.request, commit.run), ended)
            case error:
                raise error

    def _settle(self, commits: Sequence[_Commit], moved: Collection[Unit]) -> None:
        """Answer durable requests; another process was first at the keys of units that *moved*."""
        if moved:
            requests = [commit.request for commit in commits if commit.unit in moved]
            self._spawn(self.look_up(requests))
            commits = [commit for commit in commits if commit.unit not in moved]
        self._commit_backoff.reset()
        for commit in commits:
            self._parts.counts[_COUNTED[commit.row.outcome]] += 1
        self._answer([(commit.request, commit.row) for commit in commits])
        self.has_room.set()

    def _repeat(self, requests: Sequence[Request], error: StoreUnavailable) -> None:
        """Look at the inbox again, later, for requests of which nothing was kept."""

        async def repeat() -> None:
            await self._commit_backoff.pause("answers cannot be kept", error)
            await self.look_up(requests)

        self.has_room.set()
        self._spawn(repeat())

    def _listen_again(self, job: Job, ended: Attempt) -> None:
        """Call a listener again, a few times: no orchestrator repeats a fact."""
        request, policy = job.request, self._parts.settings.listen_retry
        failures = request.attempt
        if not policy.allows(failed_attempts=failures, elapsed_us=0, code=ended.code):
            handler = request.route.handler.name
            message = f"{handler} failed {failures} times: {ended.code}: {ended.message}"
            self._keep_dead_letter(request, DeadLetterReason.LISTENER_FAILED, message)
            return

        async def listen() -> None:
            delay_us = policy.delay_us(failed_attempts=failures, seed=request.idempotency_key)
            await self._parts.clock.sleep(delay_us / 1_000_000)
            self._pool.put([Job(request._replace(attempt=failures + 1), job.run)])

        self._spawn(listen())

    def _keep_dead_letter(self, request: Request, reason: DeadLetterReason, message: str) -> None:
        async def keep() -> None:
            await self._parts.keep_dead_letter(request.inbound, reason, message)
            self._answer([(request, None)])

        self._spawn(keep())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* beside the others, unless they are ending."""
        if self._tasks is None:
            work.close()
            return
        try:
            self._tasks.create_task(work)
        except RuntimeError:  # the group is cancelling its tasks, and takes no more
            work.close()
