"""`check_replay`: each saga that ends is replayed from the store, as a deploy would do it.

What a function takes from elsewhere than its context shows when the saga is loaded again, which may
be never in a test. So here it is, at its end. One that decides otherwise is logged at once, told by
the service's status, and raised when the service stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque

from saga.audit.replaying import Replayed, replay_some
from saga.authoring.refusals import refuse_at_run_time
from saga.authoring.registry import SagaRegistry
from saga.core.identity import SagaId
from saga.errors import ReplayMismatch, StoreUnavailable
from saga.ports import Catalogue, EventStore

SAGAS_AT_ONCE = 20
RETRY_S = 1.0
log = logging.getLogger(__name__)


class ReplayCheck:
    """A role that replays sagas when they have ended."""

    name = "replay check"

    def __init__(self, store: EventStore, catalogue: Catalogue, sagas: SagaRegistry) -> None:
        self._store = store
        self._catalogue = catalogue
        self._sagas = sagas
        self._ended: deque[SagaId] = deque()
        self._news = asyncio.Event()
        self._is_stopping = False
        self._different: list[Replayed] = []
        self.counts: Counter[str] = Counter()

    def add(self, saga_id: SagaId) -> None:
        """Have a saga replayed, whose end is stored."""
        self._ended.append(saga_id)
        self._news.set()

    async def start(self) -> None:
        refuse_at_run_time()

    async def run(self) -> None:
        """Until it is told to stop, and nothing is left.

        Raises:
            ReplayMismatch: a saga's code decided otherwise.
        """
        while not self._is_stopping or self._ended:
            self._news.clear()
            if self._ended:
                await self._check()
            else:
                await self._news.wait()
        if self._different:
            raise _raised(self._different[0])

    def stop(self) -> None:
        self._is_stopping = True
        self._news.set()

    async def close(self) -> None:
        """The store is the service's."""

    @property
    def is_idle(self) -> bool:
        return not self._ended

    @property
    def trouble(self) -> str | None:
        """What was found, in words; None where nothing was."""
        if not self._different:
            return None
        return f"{len(self._different)} of {self.counts['replayed']} sagas replayed otherwise"

    async def _check(self) -> None:
        wanted = list(self._ended)[:SAGAS_AT_ONCE]
        try:
            summaries = await self._catalogue.summaries(wanted)
            async for replayed in replay_some(self._store, self._sagas, summaries):
                self.counts["replayed"] += 1
                if not replayed.is_ok:
                    self._note(replayed)
        except StoreUnavailable as error:
            log.info("cannot replay what has ended: %s", error, extra={"reason": str(error)})
            await asyncio.sleep(RETRY_S)
            return
        for _ in wanted:
            self._ended.popleft()

    def _note(self, replayed: Replayed) -> None:
        self._different.append(replayed)
        self.counts["replayed_otherwise"] += 1
        saga_id = replayed.summary.saga_id
        text = "saga %s does not replay: %s"
        log.error(text, saga_id, _raised(replayed), extra={"saga_id": saga_id})


def _raised(replayed: Replayed) -> ReplayMismatch:
    summary, difference = replayed.summary, replayed.difference
    assert difference is not None, summary
    recorded = f"of saga {summary.definition}/{summary.key} {difference.recorded}"
    return ReplayMismatch(difference.version, recorded, difference.decided)
