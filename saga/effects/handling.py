"""The middle of a service: from a request whose turn it is to an answer that is durable.

The inbox row with the answer commits together with what the handler wrote.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from pydantic_core import to_jsonable_python

from saga.contracts import VALUE_BYTES_MAX, UnreadableCode, canonical, encode
from saga.contracts.registry import DETAILS_CHARS_MAX
from saga.core.durations import SECOND_US
from saga.core.events import REPLY_DONE, REPLY_FAILED, Json, ReplyOutcome
from saga.core.identity import UNDO, Instant
from saga.core.retry import Retry
from saga.core.texts import described, storable
from saga.core.values import value
from saga.effects.contained import in_handler
from saga.effects.inbox import Answer, Conflict, FailureCode, NothingToUndo, Run, judge
from saga.effects.limits import Gate
from saga.effects.link import AsyncLink, CancelledIntents, Link, ThreadLink, nothing
from saga.effects.registration import (
    NOBODY,
    CallNext,
    EffectContext,
    Handler,
    Middleware,
    Starter,
)
from saga.effects.request import Request, Subscription
from saga.errors import (
    BusUnavailable,
    DefinitionError,
    MalformedMessage,
    Refused,
    SagaError,
    StoreUnavailable,
    TaskEnded,
    TransactionEnded,
)
from saga.ports.bus import Bus, Inbound, Record, RecordLimits
from saga.ports.clock import Clock
from saga.ports.effects_store import BEGINNING, EffectsStore, InboxRow, InboxWrite, NotKept, Unit
from saga.ports.store import DeadLetterReason
from saga.retrying import AWAY, Backoff, retried
from saga.tasks import Tasks
from saga.users_code import is_a, is_ours, log_raised

DEAD_LETTERS: Final = "effects_dead_letters"
REPEATED: Final = "effects_repeated"
COUNTED: Final = {outcome: f"effects_{outcome.value}" for outcome in ReplyOutcome}
CODE_CHARS_MAX: Final = 100
MESSAGE_CHARS_MAX: Final = 2_000
DETAILS_FLAW_CHARS_MAX: Final = 300
UTF8_BYTES_MAX: Final = 4
"""Of one character."""

log = logging.getLogger(__name__)


class DeadLetterSink(Protocol):
    """Keeps records that no handler can take, in sight of an operator."""

    def __call__(self, inbound: Inbound, reason: str, message: str, /) -> Awaitable[None]:
        """Keep *inbound*, durably once this returns; may be called again for the same record."""
        ...


@value(kw_only=True)
class EffectsSettings:
    """The limits of one service.

    Args:
        concurrency: how many handlers may be waiting for something at once.
        threads: how many sync handlers run at once; 0 runs them on the event loop itself.
        records_in_hand_max: how many records are fetched and not yet answered.
        slow_after_s: a handler that takes longer has others started beside it.
        drain_s: how long stopping may take to finish the records in hand.
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


@value
class Parts:
    """What the stages of one service have in common."""

    subscription: Subscription
    bus: Bus
    store: EffectsStore
    clock: Clock
    dead_letters: DeadLetterSink
    settings: EffectsSettings
    counts: Counter[str]
    limits: RecordLimits

    def backoff(self) -> Backoff:
        return Backoff(f"effects of {self.subscription.name}", self.clock, self.settings.backoff)

    async def keep_dead_letter(self, inbound: Inbound, reason: str, message: str) -> None:
        self.counts[DEAD_LETTERS] += 1
        what = "a dead letter cannot be kept"
        await retried(what, self.backoff, self.dead_letters, inbound, reason, message)


_Commit = tuple[Unit, Run, InboxRow, Record | None]
"""A unit on its way to the disk, with the answer that is sent once it is there."""


class Handling:
    """Has requests judged, handled and committed, one at a time of each order key."""

    def __init__(
        self,
        parts: Parts,
        threads: Executor | None,
        answer: Callable[[Collection[tuple[Request, Record | None]]], None],
    ) -> None:
        self.has_room: Final = asyncio.Event()
        self.committing: Final[dict[asyncio.Future[NotKept], list[_Commit]]] = {}
        self._parts = parts
        self._threads = threads
        self._answer = answer
        self._pool = WorkerPool(self._handle, parts.clock, parts.settings)
        self._commit_backoff = parts.backoff()
        self.cancelled: Final = CancelledIntents()
        self._link = AsyncLink(self.cancelled, self._tell)
        self._thread_link: Link = NOBODY
        self._middleware = parts.subscription.effects.middleware
        handlers = [route.handler for route in parts.subscription.routes.values()]
        self._are_limited = any(each.limits is not None for each in handlers)
        self._gates: dict[str, Gate] = {}
        """By the name of the handler, of those that have limits."""
        self._tasks: Tasks | None = None

    def start(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._thread_link = ThreadLink(self.cancelled, self._tell, asyncio.get_running_loop())
        tasks.start(self._pool.run(tasks), "the handlers")

    def end(self) -> None:
        """Begin nothing new: a commit that ends now is answered after the next start."""
        self._tasks = None

    async def look_up(self, requests: Sequence[Request]) -> None:
        """Judge *requests*, each the one of its order key that may go on."""
        if not requests:
            return
        parts = self._parts
        service, store = parts.subscription, parts.store
        keys = [request.idempotency_key for request in requests]
        keys += [request.do_key for request in requests if request.direction is UNDO]
        what = "the inbox cannot be read"
        rows = await retried(what, parts.backoff, store.kept, service.name, keys)
        now = parts.clock.now()
        jobs: list[Run] = []
        for request in requests:
            match judge(request, rows, handled=service.handled, now=now):
                case Run() as run:
                    if (refusal := request.refusal) is None:
                        jobs.append(run)
                    else:
                        self._keep_dead_letter(request, refusal.code, refusal.message)
                case Answer(row):
                    parts.counts[REPEATED] += 1
                    self._answer([(request, self._reply(request, row))])
                case NothingToUndo(writes):
                    self._commit(store.unit(), Run(request), writes)
                case Conflict(row):
                    self._refuse(request, row)
        if jobs:
            self._begin(jobs)

    def _begin(self, jobs: Sequence[Run]) -> None:
        """Have handlers called, those that have limits as these allow."""
        if not self._are_limited:
            self._pool.put(jobs)
            return
        free = [run for run in jobs if run.request.route.handler.limits is None]
        if free:
            self._pool.put(free)
        for run in jobs:
            if run.request.route.handler.limits is not None:
                self._gate_of(run.request.route.handler).enter(run)

    def _gate_of(self, handler: Handler) -> Gate:
        gate = self._gates.get(handler.name)
        if gate is None:
            assert handler.limits is not None, handler
            gate = self._gates[handler.name] = Gate(
                handler.limits,
                begin=self._pool.put,
                monotonic_s=self._parts.clock.monotonic_s,
                call_later=self._call_later,
            )
        return gate

    def _call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        async def wait() -> None:
            await self._parts.clock.sleep(delay_s)
            call()

        self._spawn(wait())

    def _refuse(self, request: Request, row: InboxRow) -> None:
        """Answer a message that what is kept forbids to handle; a fact is a dead letter."""
        keys = {"saga_id": request.saga_id, "topic": request.inbound.topic, "reason": row.code}
        log.error("%s: %s", row.code, row.message, extra=keys)
        if request.route.is_intent:
            self._answer([(request, self._reply(request, row))])
        else:
            self._keep_dead_letter(request, DeadLetterReason(str(row.code)), str(row.message))

    async def _handle(self, run: Run, task: asyncio.Task[Any]) -> None:
        """Have *task*, the current one, call the handler and keep what it answers."""
        request, unit = run.request, self._parts.store.unit()
        try:
            row = await self._attempt(request, unit, task)
        except BaseException:
            unit.drop()
            raise
        finally:
            if self._are_limited and request.route.handler.limits is not None:
                self._gate_of(request.route.handler).leave()
        if unit.is_broken:  # so that nothing is known
            unit.drop()
            self._repeat([request], StoreUnavailable("the store failed under a handler"))
            return
        if row.outcome is not REPLY_DONE:
            unit.drop()
        try:
            self._keep(unit, run, row)
        except TransactionEnded as error:
            self._keep(unit, run, self._tampered(request, error))

    async def _attempt(self, request: Request, unit: Unit, task: asyncio.Task[Any]) -> InboxRow:
        """Call the handler. Whatever it raises fails this attempt alone, unless it is ours."""
        parts, handler = self._parts, request.route.handler
        row: InboxRow | None = None
        raised: BaseException | None = None
        try:
            context = EffectContext(
                intent_id=request.message_id,
                idempotency_key=request.idempotency_key,
                saga_id=request.saga_id,
                key=request.key,
                attempt=request.attempt,
                db=unit.db if handler.is_async else unit.thread_db,
                link=self._link if handler.is_async else self._thread_link,
            )
            if handler.uses_raw and handler.is_async:
                await context.db.fetch(BEGINNING)  # only here can it wait for the connection
            if self._middleware:
                reply = await self._call_within(request, context)
            elif handler.is_async:
                reply = await handler.function(request.model, context)
            else:
                reply = await self._call_in_thread(handler, request.model, context)
            row = _answered(request, reply, parts.clock.now())
        except BaseException as error:  # users' code: recorded and answered
            if _is_closed(task):
                raise
            raised = error
        if task.cancelling():
            await self._shake_off(task)
        if raised is not None:
            if is_ours(raised):
                raise raised
            return _raised(request, raised, parts.clock.now())
        assert row is not None, "the handler has returned"
        payload = row.payload
        if payload is None or len(payload) * UTF8_BYTES_MAX < parts.limits.surely_fits:
            return row
        why = None if unit.is_broken else await self._why_too_large(request, row)
        return row if why is None else self.reply_too_large(request, why)

    async def _call_within(self, request: Request, context: EffectContext) -> object:
        """Call the handler within the service's middleware, the first of which is the outermost."""
        handler = request.route.handler
        call: CallNext = handler.function
        if not handler.is_async:
            call = partial(self._call_in_thread, handler)
        for middleware in reversed(self._middleware):
            call = partial(_call_with, middleware, call)
        return await call(request.model, context)

    async def _call_in_thread(self, handler: Handler, *arguments: object) -> object:
        return _reply_in(await _in_thread(self._threads, handler.function, *arguments))

    def _tell(self, intent_id: str, note: str | None) -> Coroutine[Any, Any, None]:
        """Say that the work on an intent goes on, if it does."""
        request = self._pool.request_of(intent_id)
        if request is None or not request.route.is_intent:
            return nothing()
        record = self._parts.subscription.progress(request, note, self._parts.clock.now())
        return self._publish_progress(intent_id, request, record)

    async def _publish_progress(self, intent_id: str, request: Request, record: Record) -> None:
        """While the bus is away, nothing is told."""
        try:
            await self._parts.bus.publish([record])
        except SagaError as error:
            text = "progress on %s is not told: %s"
            log.info(text, intent_id, error, extra=_place_of(request, str(error)))

    async def _why_too_large(self, request: Request, row: InboxRow) -> str | None:
        """Why the answer cannot be published, before anything is kept: its topic refuses it."""
        parts, limits = self._parts, self._parts.limits
        record = parts.subscription.reply(request, row)
        if record is None or limits.why_too_large(record) is None:
            return None
        with suppress(BusUnavailable):  # then what was known counts
            limits.learn(await parts.bus.limits([record.topic]))
        why = limits.why_too_large(record)
        return None if why is None else f"{row.contract}: {why}"

    def reply_too_large(self, request: Request, message: str) -> InboxRow:
        """The answer to be given instead: a failed attempt that says so."""
        now = self._parts.clock.now()
        return _failed(request, FailureCode.REPLY_TOO_LARGE, message, now)

    async def _shake_off(self, task: asyncio.Task[Any]) -> None:
        """Go on with *task*, the current one, if its handler or a stranger has cancelled it."""
        if not self._are_cancelled:
            while task.uncancel():
                pass
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # where it was not delivered yet
        if self._are_cancelled:
            raise asyncio.CancelledError  # the attempt is dropped, and taken again

    @property
    def _are_cancelled(self) -> bool:
        """Whether it is us who cancel the handlers, as the service ends."""
        return self._tasks is None or self._tasks.are_cancelled

    def _keep(self, unit: Unit, run: Run, row: InboxRow) -> None:
        """Keep the answer, or call a failed listener again; raises TransactionEnded."""
        outcome = row.outcome
        if outcome is REPLY_FAILED and not run.request.route.is_intent:
            unit.drop()
            self._listen_again(run, row)
            return
        writes = [InboxWrite(row, run.replaces)]
        if run.when_done and outcome is REPLY_DONE:
            writes += run.when_done
        self._commit(unit, run, writes)

    def _reply(self, request: Request, row: InboxRow | None) -> Record | None:
        return None if row is None else self._parts.subscription.reply(request, row)

    def _commit(self, unit: Unit, run: Run, writes: Sequence[InboxWrite]) -> None:
        """Have *writes*, the answer first, made durable; units that end together share a future."""
        row = writes[0].row
        answer = self._parts.subscription.reply(run.request, row)
        future = unit.keep(writes, answer)
        commits = self.committing.get(future)
        if commits is None:
            commits = self.committing[future] = []
            future.add_done_callback(self._committed)
        commits.append((unit, run, row, answer))

    def _committed(self, future: asyncio.Future[NotKept]) -> None:
        """What goes wrong in a callback reaches nobody: it ends the service."""
        commits = self.committing.pop(future)
        if self._tasks is None:
            return
        try:
            self._conclude(commits, future)
        except Exception as error:  # noqa: BLE001  # told to whoever runs the service
            self._tasks.fail(error)

    def _conclude(self, commits: Sequence[_Commit], future: asyncio.Future[NotKept]) -> None:
        if future.cancelled():
            raise TaskEnded("a commit was cancelled by somebody else")
        match future.exception():
            case None:
                self._settle(commits, future.result())
            case StoreUnavailable() as error:
                self._repeat([run.request for _, run, *_ in commits], error)
            case TransactionEnded() as error:
                for _, run, *_ in commits:
                    row = self._tampered(run.request, error)
                    self._keep(self._parts.store.unit(), run, row)
            case error:
                raise error

    def _settle(self, commits: Sequence[_Commit], moved: NotKept) -> None:
        """Answer durable requests; another process was first at the keys of units that *moved*."""
        if moved.refused:
            self._fail_refused([each for each in commits if each[0] in moved.refused], moved)
            commits = [each for each in commits if each[0] not in moved.refused]
        if moved:
            again = [run.request for unit, run, *_ in commits if unit in moved]
            self._spawn(self.look_up(again))
            commits = [each for each in commits if each[0] not in moved]
        if self._commit_backoff.failures:
            self._commit_backoff.reset()
        counts, published = self._parts.counts, moved.published
        answers: list[tuple[Request, Record | None]] = []
        for unit, run, row, answer in commits:
            counts[COUNTED[row.outcome]] += 1
            answers.append((run.request, None if unit in published else answer))
        self._answer(answers)
        self.has_room.set()

    def _fail_refused(self, commits: Sequence[_Commit], moved: NotKept) -> None:
        """The store takes these rows at no time: their attempts have failed, and others go on."""
        now = self._parts.clock.now()
        answers: list[tuple[Request, Record | None]] = []
        for unit, run, *_ in commits:
            request = run.request
            reason = f"the inbox refuses its row: {moved.refused[unit]}"
            log.error("intent %s: %s", request.message_id, reason, extra={"reason": reason})
            row = _failed(request, FailureCode.NOT_KEPT, reason, now)
            answers.append((request, self._reply(request, row)))
        self._answer(answers)
        self.has_room.set()

    def _tampered(self, request: Request, error: TransactionEnded) -> InboxRow:
        now = self._parts.clock.now()
        return _failed(request, FailureCode.TRANSACTION_ENDED, str(error), now)

    def _repeat(self, requests: Sequence[Request], error: StoreUnavailable) -> None:
        """Look at the inbox again, later, for requests of which nothing was kept."""

        async def repeat() -> None:
            await self._commit_backoff.pause("answers cannot be kept", error)
            await self.look_up(requests)

        self.has_room.set()
        self._spawn(repeat())

    def _listen_again(self, run: Run, row: InboxRow) -> None:
        """Call a listener again, a few times: no orchestrator repeats a fact."""
        request, policy = run.request, self._parts.settings.listen_retry
        failures = request.attempt
        if not policy.allows(failed_attempts=failures, elapsed_us=0, code=row.code):
            handler = request.route.handler.name
            message = f"{handler} failed {failures} times: {row.code}: {row.message}"
            self._keep_dead_letter(request, DeadLetterReason.LISTENER_FAILED, message)
            return

        async def listen() -> None:
            delay_us = policy.delay_us(failed_attempts=failures, seed=request.idempotency_key)
            await self._parts.clock.sleep(delay_us / SECOND_US)
            self._pool.put([Run(request._replace(attempt=failures + 1), run.replaces)])

        self._spawn(listen())

    def _keep_dead_letter(
        self, request: Request, reason: DeadLetterReason | UnreadableCode, message: str
    ) -> None:
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
            self._tasks.start(work, "a request", may_end=True)
        except RuntimeError:  # the group is cancelling its tasks, and takes no more
            work.close()


class WorkerPool:
    """A queue of jobs, no longer than the records in hand, and the tasks that work on it.

    One task does it all while no handler waits: a task for each would cost more than all the rest.
    While a handler keeps the queue waiting, more workers join, twice as many each time.
    """

    def __init__(
        self,
        work: Callable[[Run, asyncio.Task[Any]], Awaitable[None]],
        clock: Clock,
        settings: EffectsSettings,
    ) -> None:
        self._work = work
        self._clock = clock
        self._spares_max = settings.concurrency - 1
        self._slow_after_s = settings.slow_after_s
        self._queue: deque[Run] = deque()
        self._filled = asyncio.Event()
        self._is_kept_waiting = asyncio.Event()
        self._in_work: dict[asyncio.Task[Any], Run] = {}
        self._spares = 0

    async def run(self, tasks: Tasks) -> None:
        tasks.start(self._watch(tasks), "the watch over slow handlers")
        while True:
            await self._drain_queue()
            self._filled.clear()
            await self._filled.wait()

    def put(self, jobs: Collection[Run]) -> None:
        self._queue.extend(jobs)
        self._filled.set()
        if self._in_work:
            self._is_kept_waiting.set()

    def request_of(self, intent_id: str) -> Request | None:
        """The request in work of this id; None once its handler has ended."""
        runs = list(self._in_work.values())  # asked from threads, too
        return next((run.request for run in runs if run.request.message_id == intent_id), None)

    async def _watch(self, tasks: Tasks) -> None:
        """Have others join while the queue waits for a slow handler."""
        while True:
            await self._is_kept_waiting.wait()
            before = self._in_work.copy()
            await self._clock.sleep(self._slow_after_s)
            if not self._queue:
                self._is_kept_waiting.clear()
                continue
            if not any(self._in_work.get(worker) is run for worker, run in before.items()):
                continue
            wanted = min(len(self._queue), 1 + self._spares, self._spares_max - self._spares)
            self._spares += wanted
            for _ in range(wanted):
                tasks.start(self._help(), "a handler", may_end=True)

    async def _help(self) -> None:
        try:
            await self._drain_queue()
        finally:
            self._spares -= 1

    async def _drain_queue(self) -> None:
        queue, in_work, worker = self._queue, self._in_work, asyncio.current_task()
        assert worker is not None, "handlers are called in tasks"
        in_handler.set(True)  # to the end of this task, which calls nothing but handlers
        if len(queue) > 1:
            self._is_kept_waiting.set()
        try:
            while queue:
                run = in_work[worker] = queue.popleft()
                await self._work(run, worker)
        finally:
            in_work.pop(worker, None)


def _call_with(
    middleware: Middleware, call_next: CallNext, message: object, context: EffectContext
) -> Awaitable[object]:
    return middleware(message, context, call_next)


def _is_closed(task: asyncio.Task[Any]) -> bool:
    """Whether *task* is being thrown away with its loop, and does not run."""
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        return True


async def run_starter(starter: Starter, store: EffectsStore, threads: Executor | None) -> None:
    """Call *starter* in its own transaction; raises DefinitionError or StoreUnavailable."""
    # Tables that are made where there are none are made twice by two processes at once.
    unit = store.unit(alone=True)
    try:
        if starter.is_async:
            db = unit.db
            await db.fetch(BEGINNING)  # it may ask for the driver's connection first
            token = in_handler.set(True)
            try:
                await starter.function(db)
            finally:
                in_handler.reset(token)
        else:
            _reply_in(await _in_thread(threads, starter.function, unit.thread_db))
    except BaseException as error:
        unit.drop()
        if is_ours(error):
            raise
        if unit.is_broken:
            raise StoreUnavailable(f"on_start could not use the store: {error}") from error
        problem = f"on_start function {starter.function.__qualname__} failed: {described(error)}"
        raise DefinitionError(problem, where=starter.where) from error
    if unit.is_broken:
        unit.drop()
        raise StoreUnavailable("on_start could not use the store")
    await unit.keep(())


class _Raised(NamedTuple):
    """What a sync function has raised: no future takes each of these, nor does every coroutine."""

    error: BaseException


def _reply_in(returned: Any) -> Any:
    if isinstance(returned, _Raised):
        raise returned.error
    return returned


async def _in_thread(threads: Executor | None, function: Callable[..., Any], *args: object) -> Any:
    def call() -> Any:
        try:
            return function(*args)
        except BaseException as error:  # noqa: BLE001  # users' code: raised again by whoever waits
            return _Raised(error)

    if threads is None:
        return call()
    run = contextvars.copy_context().run
    return await asyncio.get_running_loop().run_in_executor(threads, run, call)


def _answered(request: Request, reply: Any, at: Instant) -> InboxRow:
    route = request.route
    handler, expected = route.handler, route.reply
    if reply is None and expected is None:
        return request.row(REPLY_DONE, at)
    if type(reply) is not expected:
        returned = "None" if reply is None else f"a {type(reply).__qualname__}"
        model = handler.contract.model.__qualname__
        wanted = "None" if expected is None else expected.__qualname__
        message = f"{handler.name} returned {returned}, but {model} is answered by {wanted}"
        return _failed(request, FailureCode.WRONG_REPLY, message, at)
    try:
        payload = encode(reply)
    except MalformedMessage as error:
        message = f"{handler.name} returned no JSON: {error.message}"
        return _failed(request, error.code, message, at)
    if len(payload) * UTF8_BYTES_MAX > VALUE_BYTES_MAX < len(payload.encode()):
        size = f"{len(payload)} characters; at most {VALUE_BYTES_MAX} bytes"
        return _failed(request, FailureCode.REPLY_TOO_LARGE, f"{handler.name} returned {size}", at)
    return request.row(REPLY_DONE, at, route.reply_contract, payload)


def _raised(request: Request, error: BaseException, at: Instant) -> InboxRow:
    if is_a(error, Refused):
        code, message = _text_of(error, "code"), _text_of(error, "message")
        details, flaw = _details_of(error)
        if flaw is not None:
            message = f"{message} (its details are left out: {flaw})"
            text = "%s refused %s, and its details are left out: %s"
            name, place = request.route.handler.name, _place_of(request, code)
            log.error(text, name, request.message_id, flaw, extra=place)
        return _unsuccessful(request, ReplyOutcome.REFUSED, code, message, at, details=details)
    code, name = type(error).__name__, request.route.handler.name
    place = _place_of(request, code)
    text = "%s failed on %s"
    log_raised(log, logging.WARNING, text, name, request.message_id, error=error, **place)
    is_cancelled = is_a(error, asyncio.CancelledError)
    message = "something the handler waited for was cancelled" if is_cancelled else _text_of(error)
    return _unsuccessful(request, ReplyOutcome.FAILED, code, message, at)


def _text_of(error: BaseException, part: str | None = None) -> str:
    """What users' code has said, in whatever class."""
    try:
        return str(error if part is None else getattr(error, part))
    except BaseException as failure:  # __str__ is users' code
        if is_ours(failure):
            raise
        return f"its text cannot be read: {described(failure)}"


def _details_of(error: BaseException) -> tuple[Json | None, str | None]:
    """The details of a refusal as JSON, and why they are none; a refusal stands without them."""
    try:
        given = getattr(error, "details", None)
        if given is None:
            return None, None
        details = canonical(to_jsonable_python(given))
    except BaseException as failure:  # what they hold is users' code
        if is_ours(failure):
            raise
        return None, storable(described(failure), DETAILS_FLAW_CHARS_MAX)
    if len(details) > DETAILS_CHARS_MAX:
        return None, f"{len(details):,} characters of JSON, of at most {DETAILS_CHARS_MAX:,}"
    return details, None


def _failed(request: Request, code: str, message: str, at: Instant) -> InboxRow:
    log.error("%s: %s (%s)", code, message, request.message_id, extra=_place_of(request, code))
    return _unsuccessful(request, ReplyOutcome.FAILED, code, message, at)


def _unsuccessful(
    request: Request,
    outcome: ReplyOutcome,
    code: str,
    message: str,
    at: Instant,
    *,
    details: Json | None = None,
) -> InboxRow:
    code, message = storable(code, CODE_CHARS_MAX), storable(message, MESSAGE_CHARS_MAX)
    return request.row(outcome, at, payload=details, code=code, message=message)


def _place_of(request: Request, reason: str) -> dict[str, object]:
    """The fixed keys of a log line about *request*."""
    place = request.inbound.position._asdict()
    return {"saga_id": request.saga_id, **place, "reason": reason}
