"""Endings that another process brought about, found for those who wait in this one.

The store is asked for the waiting sagas: now and then, and at once where it can tell that another
process has appended something. The asking is kept to a share of the time, however many wait and
however much is appended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from saga.core.identity import SagaId
from saga.core.intents import SagaAbandoned, SagaCompleted, SagaRolledBack
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory, StoreUnavailable
from saga.ports import Catalogue, EventStore, SagaSummary
from saga.ports.store import TellsOfAppends
from saga.runtime.outcome_waiters import OutcomeWaiters, SagaOutcome

POLL_S = 0.25
GRACE_S = 0.05
"""How long a new wait is left to end by itself before the store is asked."""
HEARING_POLL_S = 30.0
REST_SHARE = 4
"""So many times as long as the asking took it rests."""
LOOK_UP_SAGAS_MAX = 500


class OutcomePoller:
    """Tells *watchers* of endings that the store knows.

    Args:
        cause_of_death: what the service has failed with, if it has; all who wait are told that.
    """

    def __init__(
        self,
        *,
        watchers: OutcomeWaiters,
        catalogue: Catalogue,
        store: EventStore,
        cause_of_death: Callable[[], Exception | None],
    ) -> None:
        self._watchers = watchers
        self._catalogue = catalogue
        self._store = store
        self._cause_of_death = cause_of_death
        self._has_news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on."""
        self._looking = asyncio.create_task(self._look(), name="lookout")

    def somebody_waits(self, *, is_new: bool) -> None:
        """Look soon: whoever has just begun to wait may do so for a saga that ended long ago. Not
        so for a saga that *is new*, having been asked for by this process: it is looked for in
        time.
        """
        if not is_new:
            self._has_news.set()
        if self._hearing is None and self._looking is not None:
            self._hearing = asyncio.create_task(self._hear(), name="lookout's ear")

    async def stop(self) -> None:
        """Look no more."""
        tasks = [task for task in (self._looking, self._hearing) if task is not None]
        self._looking = self._hearing = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _hear(self) -> None:
        if not isinstance(self._store, TellsOfAppends):
            return
        async with contextlib.aclosing(self._store.appends(poll_s=HEARING_POLL_S)) as appends:
            async for _ in appends:
                self._has_news.set()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._has_news.wait()
                await asyncio.sleep(GRACE_S)
            self._has_news.clear()
            watched = self._watchers.watched()
            dead = self._cause_of_death()
            if dead is not None:
                self._watchers.fail(watched, dead)
                continue
            begun = loop.time()
            with contextlib.suppress(StoreUnavailable):
                for start in range(0, len(watched), LOOK_UP_SAGAS_MAX):
                    await self._look_up(watched[start : start + LOOK_UP_SAGAS_MAX])
            await asyncio.sleep(min(POLL_S, (loop.time() - begun) * REST_SHARE))

    async def _look_up(self, saga_ids: Sequence[SagaId]) -> None:
        for summary in await self._catalogue.summaries(saga_ids):
            if summary.status.is_ended:
                try:
                    self._watchers.tell(summary.saga_id, await self._ending_of(summary))
                except CorruptHistory as error:
                    self._watchers.fail([summary.saga_id], error)
            elif summary.status in (SagaStatus.PARKED, SagaStatus.STALLED):
                ending = SagaOutcome(summary.status, None, summary.reason, ())
                self._watchers.tell(summary.saga_id, ending)

    async def _ending_of(self, summary: SagaSummary) -> SagaOutcome:
        history = (await self._store.load([summary.saga_id])).get(summary.saga_id, ())
        if isinstance(history, CorruptHistory):
            raise history
        for entry in reversed(history):
            body = entry.body
            if isinstance(body, (SagaRolledBack, SagaAbandoned)):
                return SagaOutcome(summary.status, body.outcome, body.reason, body.residue)
            if isinstance(body, SagaCompleted):
                return SagaOutcome(summary.status, body.outcome, None, ())
        return SagaOutcome(summary.status, None, summary.reason, ())
