"""The crew: tasks that call handlers, one after another where they are quick, side by side where
slow.

One task works through the queue. A handler that only computes or writes to its tables never lets
go of the event loop, and a task of its own would cost more than all the rest. Where a handler keeps
the queue waiting, more tasks join, twice as many each time, up to the limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

from saga.core.events import ReplyOutcome
from saga.effects.attempt import Ended, attempt, transaction_ended
from saga.effects.inbox import Run
from saga.effects.request import Request
from saga.effects.settings import EffectsSettings
from saga.errors import StoreUnavailable, TransactionEnded
from saga.ports.clock import Clock
from saga.ports.effects_store import (
    EffectsStore,
    InboxRow,
    InboxWrite,
    Unit,
)


class Job(NamedTuple):
    """A request whose handler is to be called."""

    request: Request
    run: Run


class Kept(NamedTuple):
    """A unit of work on its way to the disk: of a handler if it has a *run*, or of nobody."""

    unit: Unit
    request: Request
    row: InboxRow
    run: Run | None


class CrewOrders(NamedTuple):
    """Whom the crew tells what: *done* is durable, *moved* must look at the inbox again, *failed*
    was not kept, *unheard* is a fact whose listener failed.
    """

    done: Callable[[list[Kept]], None]
    moved: Callable[[list[Request]], None]
    failed: Callable[[list[Request], StoreUnavailable | None], None]
    unheard: Callable[[Job, Ended], None]


class Crew:
    """The queue of one service's jobs and the tasks that work on it."""

    def __init__(
        self,
        *,
        service: str,
        store: EffectsStore,
        clock: Clock,
        settings: EffectsSettings,
        threads: Executor | None,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        orders: CrewOrders,
    ) -> None:
        self._service = service
        self._store = store
        self._clock = clock
        self._settings = settings
        self._threads = threads
        self._spawn = spawn
        self._orders = orders
        self._queue: deque[Job] = deque()
        self._filled = asyncio.Event()
        self._queued = asyncio.Event()
        self._busy_since: dict[int, float] = {}
        self._spares = 0
        self._keeping: dict[asyncio.Future[Collection[Unit]], list[Kept]] = {}

    @property
    def commits(self) -> int:
        """How many commits are being waited for."""
        return len(self._keeping)

    def start(self) -> None:
        """Begin to work."""
        self._spawn(self._work_for_ever())
        self._spawn(self._watch())

    def take(self, jobs: Collection[Job]) -> None:
        """Put *jobs* behind the others."""
        self._queue.extend(jobs)
        self._filled.set()
        self._queued.set()

    def keep(
        self,
        unit: Unit,
        request: Request,
        row: InboxRow,
        writes: Sequence[InboxWrite],
        run: Run | None = None,
    ) -> None:
        """End a unit of work; what becomes of it is told as ordered.

        Raises:
            TransactionEnded: see `Unit.keep`.
        """
        future = unit.keep(writes)
        waiting = self._keeping.get(future)
        if waiting is None:
            waiting = self._keeping[future] = []
            future.add_done_callback(self._committed)
        waiting.append(Kept(unit, request, row, run))

    async def _work_for_ever(self) -> None:
        while True:
            await self._work(0)
            self._filled.clear()
            await self._filled.wait()

    async def _join(self, number: int) -> None:
        try:
            await self._work(number)
        finally:
            self._spares -= 1

    async def _work(self, number: int) -> None:
        queue, busy_since, clock = self._queue, self._busy_since, self._clock
        try:
            while queue:
                busy_since[number] = clock.monotonic_s()
                await self._attempt(queue.popleft())
        finally:
            busy_since.pop(number, None)

    async def _watch(self) -> None:
        """Have others join while the queue waits for a slow handler."""
        slow_after_s = self._settings.slow_after_s
        joined = 0
        while True:
            await self._queued.wait()
            await self._clock.sleep(slow_after_s)
            if not self._queue:
                self._queued.clear()
                continue
            oldest = min(self._busy_since.values(), default=self._clock.monotonic_s())
            if self._clock.monotonic_s() - oldest < slow_after_s:
                continue
            wanted = min(len(self._queue), 1 + self._spares)
            for _ in range(min(wanted, self._settings.concurrency - 1 - self._spares)):
                joined += 1
                self._spares += 1
                self._spawn(self._join(joined))

    async def _attempt(self, job: Job) -> None:
        request = job.request
        unit = self._store.unit()
        try:
            ended = await attempt(request, unit, self._threads)
        except BaseException:
            unit.drop()
            raise
        if ended is None:
            unit.drop()
            self._orders.failed([request], None)
            return
        if ended.outcome is not ReplyOutcome.DONE:
            unit.drop()
        try:
            self._settle(unit, job, ended)
        except TransactionEnded as error:
            self._settle(unit, job, transaction_ended(request, error))

    def _settle(self, unit: Unit, job: Job, ended: Ended) -> None:
        request, run = job
        if ended.outcome is ReplyOutcome.FAILED and not request.route.is_intent:
            unit.drop()
            self._orders.unheard(job, ended)
            return
        row = InboxRow(
            self._service,
            request.idempotency_key,
            request.attempt,
            ended.outcome,
            ended.contract,
            ended.payload,
            ended.code,
            ended.message,
            request.digest,
            self._clock.now(),
        )
        write = InboxWrite(row, run.replaces)
        if run.when_done and ended.outcome is ReplyOutcome.DONE:
            self.keep(unit, request, row, (write, *run.when_done), run)
        else:
            self.keep(unit, request, row, (write,), run)

    def _committed(self, future: asyncio.Future[Collection[Unit]]) -> None:
        waiting = self._keeping.pop(future)
        if future.cancelled():
            return
        error = future.exception()
        match error:
            case None:
                pass
            case StoreUnavailable():
                self._orders.failed([kept.request for kept in waiting], error)
                return
            case TransactionEnded():
                for kept in waiting:
                    assert kept.run is not None, "only a handler can have tampered with it"
                    ended = transaction_ended(kept.request, error)
                    self._settle(self._store.unit(), Job(kept.request, kept.run), ended)
                return
            case _:
                raise error
        moved = future.result()
        if moved:
            self._orders.moved([kept.request for kept in waiting if kept.unit in moved])
            waiting = [kept for kept in waiting if kept.unit not in moved]
        self._orders.done(waiting)
