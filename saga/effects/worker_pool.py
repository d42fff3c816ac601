"""Calling handlers: one attempt at a request, and the pool of tasks that make attempts.

One task works through the queue. A handler that only computes or writes to its tables never lets
go of the event loop, and a task of its own would cost more than all the rest. While a handler
keeps the queue waiting, more workers join, twice as many each time, up to the limit.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple

from saga.contracts import VALUE_BYTES_MAX, encode
from saga.contracts.json_text import shortened
from saga.core.events import Json, ReplyOutcome
from saga.effects.context import EffectContext
from saga.effects.inbox import FailureCode, Run
from saga.effects.registration import Starter
from saga.effects.request import Request
from saga.errors import (
    DefinitionError,
    MalformedMessage,
    Refused,
    StoreUnavailable,
    TransactionEnded,
)
from saga.ports.clock import Clock
from saga.ports.effects_store import BEGINNING, EffectsStore, Unit

CODE_CHARS_MAX: Final = 100
MESSAGE_CHARS_MAX: Final = 2_000
UTF8_BYTES_MAX: Final = 4
"""Of one character."""

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """A request whose handler is to be called."""

    request: Request
    run: Run


class WorkerPool:
    """A queue of jobs and the tasks that work on it; its length is bounded by the records in hand.

    Args:
        work: does a job. An error that it raises ends the service.
        workers_max: how many jobs may be waiting for something at once.
        slow_after_s: how long a job may keep the queue waiting before more workers join.
    """

    def __init__(
        self,
        work: Callable[[Job], Awaitable[None]],
        *,
        clock: Clock,
        workers_max: int,
        slow_after_s: float,
    ) -> None:
        self._work = work
        self._clock = clock
        self._workers_max = workers_max
        self._slow_after_s = slow_after_s
        self._queue: deque[Job] = deque()
        self._filled = asyncio.Event()
        self._queued = asyncio.Event()
        self._busy_since_s: dict[int, float] = {}
        self._spares = 0

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Work until cancelled. Workers that join run in *tasks*."""
        tasks.create_task(self._watch(tasks))
        while True:
            await self._drain_queue(0)
            self._filled.clear()
            await self._filled.wait()

    def put(self, jobs: Collection[Job]) -> None:
        """Put *jobs* behind the others."""
        self._queue.extend(jobs)
        self._filled.set()
        self._queued.set()

    async def _watch(self, tasks: asyncio.TaskGroup) -> None:
        """Have others join while the queue waits for a slow handler."""
        joined = 0
        while True:
            await self._queued.wait()
            await self._clock.sleep(self._slow_after_s)
            if not self._queue:
                self._queued.clear()
                continue
            oldest_s = min(self._busy_since_s.values(), default=self._clock.monotonic_s())
            if self._clock.monotonic_s() - oldest_s < self._slow_after_s:
                continue
            wanted = min(len(self._queue), 1 + self._spares)
            for _ in range(min(wanted, self._workers_max - 1 - self._spares)):
                joined += 1
                self._spares += 1
                tasks.create_task(self._help(joined))

    async def _help(self, number: int) -> None:
        try:
            await self._drain_queue(number)
        finally:
            self._spares -= 1

    async def _drain_queue(self, number: int) -> None:
        queue, busy_since_s, clock = self._queue, self._busy_since_s, self._clock
        try:
            while queue:
                busy_since_s[number] = clock.monotonic_s()
                await self._work(queue.popleft())
        finally:
            busy_since_s.pop(number, None)


class Attempt(NamedTuple):
    """How one call of a handler ended."""

    outcome: ReplyOutcome
    contract: str | None = None
    payload: Json | None = None
    code: str | None = None
    message: str | None = None


DONE: Final = Attempt(ReplyOutcome.DONE)


async def attempt(request: Request, unit: Unit, threads: Executor | None) -> Attempt | None:
    """Call the handler; None where the store failed under it, so that nothing is known.

    Without *threads* a sync handler runs on the event loop.
    """
    handler = request.route.handler
    try:
        if handler.is_async:
            db = unit.db
            if handler.uses_raw:
                await db.fetch(BEGINNING)  # only here can the connection be waited for
            reply = await handler.function(request.model, _context(request, db))
        elif threads is None:
            reply = handler.function(request.model, _context(request, unit.thread_db))
        else:
            reply = await asyncio.get_running_loop().run_in_executor(
                threads,
                contextvars.copy_context().run,
                handler.function,
                request.model,
                _context(request, unit.thread_db),
            )
    except Refused as refused:
        if unit.is_broken:
            return None
        return _unsuccessful(ReplyOutcome.REFUSED, str(refused.code), str(refused.message))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the service ends; otherwise something that the handler waited for was cancelled
        return _failed(
            request, FailureCode.CANCELLED, "something the handler waited for was cancelled"
        )
    except Exception as error:  # users' code: recorded in the inbox and answered
        if unit.is_broken:
            return None
        log.warning(
            "%s failed on %s",
            handler.name,
            request.message_id,
            exc_info=error,
            extra=_place_of(request, type(error).__name__),
        )
        return _unsuccessful(ReplyOutcome.FAILED, type(error).__name__, str(error))
    if unit.is_broken:
        return None
    return _answered(request, reply)


def transaction_ended(request: Request, error: TransactionEnded) -> Attempt:
    """The attempt of a handler that has tampered with the transaction."""
    return _failed(request, FailureCode.TRANSACTION_ENDED, str(error))


async def run_starter(starter: Starter, store: EffectsStore, threads: Executor | None) -> None:
    """Call a function of `on_start`, in a transaction of its own.

    Raises:
        DefinitionError: it failed.
        StoreUnavailable: the store failed.
    """
    # Tables that are made where there are none are made twice by two processes at once.
    unit = store.unit(alone=True)
    try:
        if starter.is_async:
            db = unit.db
            await db.fetch(BEGINNING)  # it may ask for the driver's connection first
            await starter.function(db)
        elif threads is None:
            starter.function(unit.thread_db)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(threads, starter.function, unit.thread_db)
    except Exception as error:
        unit.drop()
        if unit.is_broken:
            raise StoreUnavailable(f"on_start could not use the store: {error}") from error
        raise DefinitionError(
            f"on_start function {starter.function.__qualname__} failed:"
            f" {type(error).__name__}: {error}",
            where=starter.where,
        ) from error
    except BaseException:
        unit.drop()
        raise
    if unit.is_broken:
        unit.drop()
        raise StoreUnavailable("on_start could not use the store")
    await unit.keep(())


def _answered(request: Request, reply: Any) -> Attempt:
    """Check the handler's reply."""
    route = request.route
    handler, expected = route.handler, route.reply
    if reply is None and expected is None:
        return DONE
    if type(reply) is not expected:
        returned = "None" if reply is None else f"a {type(reply).__qualname__}"
        return _failed(
            request,
            FailureCode.WRONG_REPLY,
            f"{handler.name} returned {returned}, but"
            f" {handler.contract.model.__qualname__} is answered by"
            f" {'None' if expected is None else expected.__qualname__}",
        )
    try:
        payload = encode(reply)
    except MalformedMessage as error:
        return _failed(request, error.code, f"{handler.name} returned no JSON: {error.message}")
    if len(payload) * UTF8_BYTES_MAX > VALUE_BYTES_MAX < len(payload.encode()):
        return _failed(
            request,
            FailureCode.REPLY_TOO_LARGE,
            f"{handler.name} returned {len(payload)} characters; at most {VALUE_BYTES_MAX} bytes",
        )
    return Attempt(ReplyOutcome.DONE, route.reply_contract, payload)


def _context(request: Request, db: object) -> EffectContext:
    return EffectContext(
        intent_id=request.message_id,
        idempotency_key=request.idempotency_key,
        saga_id=request.saga_id,
        key=request.key,
        attempt=request.attempt,
        db=db,
    )


def _failed(request: Request, code: str, message: str) -> Attempt:
    log.error("%s: %s (%s)", code, message, request.message_id, extra=_place_of(request, code))
    return _unsuccessful(ReplyOutcome.FAILED, code, message)


def _place_of(request: Request, reason: str) -> dict[str, object]:
    """The fixed keys of a log line about *request*."""
    topic, partition, offset = request.inbound.position
    return {
        "saga_id": request.saga_id,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "reason": reason,
    }


def _unsuccessful(outcome: ReplyOutcome, code: str, message: str) -> Attempt:
    return Attempt(
        outcome, code=shortened(code, CODE_CHARS_MAX), message=shortened(message, MESSAGE_CHARS_MAX)
    )
