"""Outcomes of sagas, for those in this process who wait for one.

A turn of this process tells `OutcomeWaiters`; `OutcomePoller` finds what other processes ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, KeysView, Sequence
from itertools import count, filterfalse
from typing import Final

from saga.contracts import ContractRegistry, Event, read
from saga.core.events import Message
from saga.core.identity import SagaId, StepId
from saga.core.intents import SagaAbandoned, SagaCompleted, SagaRolledBack
from saga.core.status import SagaStatus
from saga.core.texts import described
from saga.core.values import value
from saga.errors import CorruptHistory, MessageError, StoreUnavailable, UnknownSaga
from saga.ports import Catalogue, EventStore, SagaSummary
from saga.ports.store import TellsOfAppends
from saga.runtime.answers import AnswerWaiters
from saga.tasks import Tasks

POLL_S = 0.25
GRACE_S = 0.05
"""How long a new wait is left to end by itself before the store is asked."""
LISTENING_POLL_S = 30.0
REST_SHARE = 4
"""A rest is so many times as long as the question before it took."""
REST_SHARE_OF_MANY = 25
REST_OF_MANY_S_MAX = 10.0
LOOK_AT_ALL_LOOKS: Final = 8
"""In every so many looks those are looked up, too, whose turns this process takes itself."""
LISTEN_AGAIN_S = 1.0
LOOK_UP_SAGAS_MAX = 500
SAGA_ENDS = (SagaCompleted, SagaRolledBack, SagaAbandoned)
log = logging.getLogger(__name__)


@value
class Outcome:
    """How a saga ended, or why it stands still; *residue* names the steps that are not undone."""

    status: SagaStatus
    event: Event | None
    reason: str | None
    residue: tuple[str, ...]


class OutcomeWaiters:
    """Futures of outcomes, by saga; *contracts* are those of the outcome events."""

    def __init__(self, contracts: ContractRegistry) -> None:
        self._contracts = contracts
        self.answers = AnswerWaiters()
        """Who waits for an answer to an update, and for no outcome."""
        self._waiting: dict[SagaId, list[asyncio.Future[Outcome]]] = defaultdict(list)

    @property
    def awaited(self) -> KeysView[SagaId]:
        return self._waiting.keys()

    def tell(
        self,
        saga_id: SagaId,
        status: SagaStatus,
        message: Message | None = None,
        reason: str | None = None,
        residue: tuple[StepId, ...] = (),
    ) -> None:
        """Tell everybody who waits for this saga how it ended; *message* is its outcome event.

        It is not read where nobody waits any more: others may have told them meanwhile.
        """
        if saga_id not in self._waiting:
            return
        try:
            event = None if message is None else read(self._contracts, message)
        except MessageError as error:
            self.fail([saga_id], error)
            return
        assert event is None or isinstance(event, Event), message
        outcome = Outcome(status, event, reason, residue)
        for future in self._waiting.pop(saga_id, ()):
            if not future.done():
                future.set_result(outcome)

    def fail(self, saga_ids: Iterable[SagaId], error: BaseException) -> None:
        for saga_id in saga_ids:
            for future in self._waiting.pop(saga_id, ()):
                if not future.done():
                    future.set_exception(error)

    def waiting(self, saga_id: SagaId) -> Waiting:
        return Waiting(self._waiting, saga_id)


class Waiting:
    """`with` it somebody waits for a saga; for each wait, so no generator's context manager."""

    __slots__ = ("_saga_id", "_waiting", "future")

    def __init__(
        self, waiting: dict[SagaId, list[asyncio.Future[Outcome]]], saga_id: SagaId
    ) -> None:
        self._waiting = waiting
        self._saga_id = saga_id
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> asyncio.Future[Outcome]:
        self._waiting[self._saga_id].append(self.future)
        return self.future

    def __exit__(self, *_: object) -> None:
        waiting = self._waiting.get(self._saga_id)
        if waiting is not None and self.future in waiting:
            waiting.remove(self.future)
            if not waiting:
                del self._waiting[self._saga_id]


class OutcomePoller:
    """Tells *waiters* of outcomes that the store has.

    A role. A saga that cannot be looked up fails those who wait for it. *is_new* says whether a
    saga may not have begun yet, and *is_running* whether this process takes its turns, and so tells
    of its end: until another one takes over.
    """

    name: Final = "outcome poller"
    is_idle: Final = True
    """Those who wait are no work of this service's."""

    def __init__(
        self,
        *,
        waiters: OutcomeWaiters,
        catalogue: Catalogue,
        store: EventStore,
        is_new: Callable[[SagaId], bool],
        is_running: Callable[[SagaId], bool],
    ) -> None:
        self._waiters = waiters
        self._catalogue = catalogue
        self._store = store
        self._teller = store if isinstance(store, TellsOfAppends) else None
        self._is_new = is_new
        self._is_running = is_running
        self._looks = count()
        self._stopping = asyncio.Event()
        self._has_news = asyncio.Event()
        self._have_come = asyncio.Event()
        self._newcomers: set[SagaId] = set()
        self._is_working = False
        self._listening: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        self._is_working = True

    async def run(self) -> None:
        async with Tasks(self.name) as tasks:
            looking = [
                tasks.start(self._poll(), "the look at all outcomes"),
                tasks.start(self._meet(), "the look at newcomers' outcomes"),
            ]
            await self._stopping.wait()
            tasks.may_end()
            for task in looking:
                task.cancel()

    def stop(self) -> None:
        self._is_working = False
        self._stopping.set()

    async def close(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def waiter_came(self, saga_id: SagaId, *, is_new: bool) -> None:
        """Ask soon, as the saga may have ended long ago; not if it *is_new*, published just now."""
        if not is_new:
            self._newcomers.add(saga_id)
            self._have_come.set()
        if self._teller is None or not self._is_working:
            return
        if self._listening is None or self._listening.done():
            listening = self._listen(self._teller)
            self._listening = asyncio.create_task(listening, name="outcome listener")

    async def _listen(self, store: TellsOfAppends) -> None:
        while True:
            try:
                appends = store.appends(poll_s=LISTENING_POLL_S)
                async with contextlib.aclosing(appends):
                    async for _ in appends:
                        self._has_news.set()
                reason = "it has ended"
            except Exception as error:  # noqa: BLE001  # the poller goes on without it
                reason = described(error)
            log.warning("the listener to appends begins anew: %s", reason, extra={"reason": reason})
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def _poll(self) -> None:
        """Look up all that are waited for, again and again, with a rest in between."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._has_news.wait()
                await asyncio.sleep(GRACE_S)
            self._has_news.clear()
            began_s = loop.time()
            awaited = list(self._waiters.awaited)
            if next(self._looks) % LOOK_AT_ALL_LOOKS:
                awaited = [*filterfalse(self._is_running, awaited)]
            await self._look_up_all(awaited)
            took_s = loop.time() - began_s
            if len(awaited) <= LOOK_UP_SAGAS_MAX:
                await asyncio.sleep(min(POLL_S, took_s * REST_SHARE))
            else:  # most of them wait for long
                await asyncio.sleep(min(REST_OF_MANY_S_MAX, took_s * REST_SHARE_OF_MANY))

    async def _meet(self) -> None:
        """Look up those whose first waiter has come, however many others are waited for."""
        while True:
            await self._have_come.wait()
            await asyncio.sleep(GRACE_S)
            self._have_come.clear()
            newcomers, self._newcomers = self._newcomers, set()
            await self._look_up_all(sorted(newcomers & self._waiters.awaited))

    async def _look_up_all(self, saga_ids: Sequence[SagaId]) -> None:
        with contextlib.suppress(StoreUnavailable):  # the next look will do
            for start in range(0, len(saga_ids), LOOK_UP_SAGAS_MAX):
                await self._look_up_apart(saga_ids[start : start + LOOK_UP_SAGAS_MAX])

    async def _look_up_apart(self, saga_ids: Sequence[SagaId]) -> None:
        """Look these up, one by one where that fails: the one that is to blame fails alone."""
        try:
            await self._look_up(saga_ids)
        except StoreUnavailable:
            raise
        except Exception as error:
            if len(saga_ids) <= 1:
                log.exception("the outcome of saga %s cannot be read", *saga_ids)
                self._waiters.fail(saga_ids, error)
                return
            for saga_id in saga_ids:
                await self._look_up_apart([saga_id])

    async def _look_up(self, saga_ids: Sequence[SagaId]) -> None:
        unknown = set(saga_ids)
        for summary in await self._catalogue.summaries(saga_ids):
            unknown.discard(summary.saga_id)
            if summary.status.is_ended:
                if summary.saga_id in self._waiters.awaited:  # not told meanwhile
                    await self._tell_end(summary)
            elif summary.status in (SagaStatus.PARKED, SagaStatus.STALLED):
                self._waiters.tell(summary.saga_id, summary.status, reason=summary.reason)
        for saga_id in unknown:
            if not self._is_new(saga_id):
                self._waiters.fail([saga_id], UnknownSaga(saga_id))

    async def _tell_end(self, summary: SagaSummary) -> None:
        saga_id, status = summary.saga_id, summary.status
        history = (await self._store.load([saga_id])).get(saga_id, ())
        if isinstance(history, CorruptHistory):
            self._waiters.fail([saga_id], history)
            return
        ends = (
            entry.body
            for entry in reversed(history)
            if isinstance(entry.body, SAGA_ENDS) and not getattr(entry.body, "had_outcome", False)
        )
        match next(ends, None):
            case SagaRolledBack() | SagaAbandoned() as body:
                self._waiters.tell(saga_id, status, body.outcome, body.reason, body.residue)
            case SagaCompleted() as body:
                self._waiters.tell(saga_id, status, body.outcome, residue=body.residue or ())
            case _:
                self._waiters.tell(saga_id, status, reason=summary.reason)
