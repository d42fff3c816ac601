"""Outcomes of sagas, for those in this process who wait for one.

A turn of this process tells `OutcomeWaiters` itself. What another process has ended is found by
`OutcomePoller`, which asks the store: now and then, and at once where the store can tell that
another process has appended something. Asking takes at most a share of the time, however many wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from saga.core.events import Message
from saga.core.identity import SagaId, StepId
from saga.core.intents import SagaAbandoned, SagaCompleted, SagaRolledBack
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.errors import CorruptHistory, StoreUnavailable
from saga.ports import Catalogue, EventStore, SagaSummary
from saga.ports.store import TellsOfAppends

POLL_S = 0.25
GRACE_S = 0.05
"""How long a new wait is left to end by itself before the store is asked."""
LISTENING_POLL_S = 30.0
REST_SHARE = 4
"""A rest is so many times as long as the question before it took."""
LOOK_UP_SAGAS_MAX = 500


@value
class SagaOutcome:
    """How a saga ended, or why it does not go on by itself."""

    status: SagaStatus
    outcome: Message | None
    reason: str | None
    residue: tuple[StepId, ...]


class OutcomeWaiters:
    """Futures of outcomes, by saga."""

    def __init__(self) -> None:
        self._waiting: dict[SagaId, list[asyncio.Future[SagaOutcome]]] = defaultdict(list)

    def tell(self, saga_id: SagaId, outcome: SagaOutcome) -> None:
        """Tell everybody who waits for this saga."""
        for future in self._waiting.pop(saga_id, ()):
            if not future.done():
                future.set_result(outcome)

    def fail(self, saga_ids: Iterable[SagaId], error: Exception) -> None:
        """Raise *error* to everybody who waits for these sagas."""
        for saga_id in saga_ids:
            for future in self._waiting.pop(saga_id, ()):
                if not future.done():
                    future.set_exception(error)

    def is_awaited(self, saga_id: SagaId) -> bool:
        return saga_id in self._waiting

    def awaited(self) -> list[SagaId]:
        return list(self._waiting)

    @contextlib.contextmanager
    def waiting(self, saga_id: SagaId) -> Iterator[asyncio.Future[SagaOutcome]]:
        """A future of the saga's outcome."""
        future: asyncio.Future[SagaOutcome] = asyncio.get_running_loop().create_future()
        self._waiting[saga_id].append(future)
        try:
            yield future
        finally:
            waiting = self._waiting.get(saga_id)
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._waiting[saga_id]


class OutcomePoller:
    """Tells *waiters* of outcomes that the store has.

    *why_stopped* says what the service has failed with, if it has; all who wait are told that.
    """

    def __init__(
        self,
        *,
        waiters: OutcomeWaiters,
        catalogue: Catalogue,
        store: EventStore,
        why_stopped: Callable[[], Exception | None],
    ) -> None:
        self._waiters = waiters
        self._catalogue = catalogue
        self._store = store
        self._why_stopped = why_stopped
        self._has_news = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Poll from now on, until `stop`: the tasks live as long as the service."""
        self._polling = asyncio.create_task(self._poll(), name="outcome poller")

    def waiter_came(self, *, is_new: bool) -> None:
        """Ask soon: the saga may have ended long ago.

        A saga that *is_new* was asked for by this process just now; it is looked for in time.
        """
        if not is_new:
            self._has_news.set()
        if self._listening is None and self._polling is not None:
            self._listening = asyncio.create_task(self._listen(), name="outcome listener")

    async def stop(self) -> None:
        tasks = [task for task in (self._polling, self._listening) if task is not None]
        self._polling = self._listening = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        if not isinstance(self._store, TellsOfAppends):
            return
        async with contextlib.aclosing(self._store.appends(poll_s=LISTENING_POLL_S)) as appends:
            async for _ in appends:
                self._has_news.set()

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._has_news.wait()
                await asyncio.sleep(GRACE_S)
            self._has_news.clear()
            awaited = self._waiters.awaited()
            error = self._why_stopped()
            if error is not None:
                self._waiters.fail(awaited, error)
                continue
            began_s = loop.time()
            with contextlib.suppress(StoreUnavailable):
                for start in range(0, len(awaited), LOOK_UP_SAGAS_MAX):
                    await self._look_up(awaited[start : start + LOOK_UP_SAGAS_MAX])
            await asyncio.sleep(min(POLL_S, (loop.time() - began_s) * REST_SHARE))

    async def _look_up(self, saga_ids: Sequence[SagaId]) -> None:
        for summary in await self._catalogue.summaries(saga_ids):
            if summary.status.is_ended:
                try:
                    self._waiters.tell(summary.saga_id, await self._outcome_of(summary))
                except CorruptHistory as error:
                    self._waiters.fail([summary.saga_id], error)
            elif summary.status in (SagaStatus.PARKED, SagaStatus.STALLED):
                outcome = SagaOutcome(summary.status, None, summary.reason, ())
                self._waiters.tell(summary.saga_id, outcome)

    async def _outcome_of(self, summary: SagaSummary) -> SagaOutcome:
        history = (await self._store.load([summary.saga_id])).get(summary.saga_id, ())
        if isinstance(history, CorruptHistory):
            raise history
        for entry in reversed(history):
            body = entry.body
            if isinstance(body, (SagaRolledBack, SagaAbandoned)):
                return SagaOutcome(summary.status, body.outcome, body.reason, body.residue)
            if isinstance(body, SagaCompleted):
                return SagaOutcome(summary.status, body.outcome, None, body.residue or ())
        return SagaOutcome(summary.status, None, summary.reason, ())
