"""A running service: fetch, look at the inbox, call handlers, commit, publish the answers, go on.

The inbox is what makes it safe to crash anywhere: an offset is committed only after the answer was
published, so what was in hand comes again and is answered again with the same bytes. There is no
outbox of answers. While one batch is committed and published, the next is handled; how much is in
hand is bounded. Trouble of bus or store is waited out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from saga.contracts import ContractRegistry, TopicNames
from saga.core.events import ReplyOutcome
from saga.effects.attempt import Ended
from saga.effects.crew import Crew, CrewOrders, Job, Kept
from saga.effects.effects import Effects
from saga.effects.inbox import Answer, Conflict, NothingToUndo, Run, Superseded, judge, keys_of
from saga.effects.lanes import Lanes
from saga.effects.offsets import Offsets
from saga.effects.parking import Park
from saga.effects.patience import Patience
from saga.effects.replies import Replies
from saga.effects.request import Rejected, Request, RequestReader, group_of
from saga.effects.settings import EffectsSettings
from saga.effects.starting import run_starter
from saga.errors import BusUnavailable, MessageTooLarge, StoreUnavailable, TopicMissing
from saga.ports.bus import Bus, Consumer, Inbound, Record
from saga.ports.clock import Clock
from saga.ports.effects_store import EffectsStore

FETCH_TIMEOUT_S: Final = 0.2

_COUNTED: Final = {outcome: f"effects_{outcome.value}" for outcome in ReplyOutcome}

_log = logging.getLogger("saga.effects")


class EffectsService:
    """One service's handlers at work: `start`, then `wait` for trouble or `stop`.

    Args:
        effects: the handlers.
        bus: where intents come from and answers go.
        store: the inbox and the service's tables, possibly shared with other services; opened here
            where it is not yet, closed by whoever made it.
        clock: the only source of time.
        contracts: what can be read.
        names: how topics are named.
        park: sets aside what cannot be read.
        settings: limits.

    Raises:
        DefinitionError: a handler takes a version that messages are never read as.
    """

    def __init__(
        self,
        effects: Effects,
        *,
        bus: Bus,
        store: EffectsStore,
        clock: Clock,
        contracts: ContractRegistry,
        names: TopicNames,
        park: Park,
        settings: EffectsSettings | None = None,
    ) -> None:
        self._effects = effects
        self._bus = bus
        self._store = store
        self._clock = clock
        self._park = park
        self._settings = settings or EffectsSettings()
        self._reader = RequestReader(effects, contracts, names)
        self._replies = Replies(effects.name, names)
        self._patience = Patience(f"effects of {effects.name}", clock, self._settings.backoff)
        routes = self._reader.routes
        self._handled = frozenset(one.contract_name for one in routes.values() if one.is_intent)
        self.group: Final = group_of(effects.name, names)
        self.topics_read: Final = tuple(sorted(routes))
        self.topics_written: Final = tuple(sorted(self._replies.topics(routes.values())))
        self._lanes = Lanes()
        self._offsets = Offsets()
        self._offsets_at_s = clock.monotonic_s()
        self._in_hand = 0
        self._store_failures = 0
        self._outbox: list[tuple[Request, Record | None]] = []
        self._outbox_filled = asyncio.Event()
        self._room = asyncio.Event()
        self._drained = asyncio.Event()
        self._ended: asyncio.Future[None] | None = None
        self._is_stopping = False
        self._is_fetching = False
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._pulling: asyncio.Task[None] | None = None
        self.consumer: Consumer | None = None
        self._threads: ThreadPoolExecutor | None = None
        self.counts: Counter[str] = Counter()

    @property
    def in_hand(self) -> int:
        """How many records are fetched and not yet dealt with."""
        return self._in_hand

    async def start(self) -> None:
        """Make the service's tables, join the group and begin. Waits while bus or store are away.

        Raises:
            DefinitionError: a function of `on_start` failed.
        """
        settings = self._settings
        self._ended = asyncio.get_running_loop().create_future()
        if settings.threads:
            self._threads = ThreadPoolExecutor(settings.threads, f"effects of {self._effects.name}")
        await self._patience.insist("open", self._store.open)
        for starter in self._effects.starters:
            await self._patience.insist(
                "on_start", partial(run_starter, starter, self._store, self._threads)
            )
        self._crew = Crew(
            service=self._effects.name,
            store=self._store,
            clock=self._clock,
            settings=settings,
            threads=self._threads,
            spawn=self._spawn,
            orders=CrewOrders(self._done, self._moved, self._failed, self._unheard),
        )
        self.consumer = await self._patience.insist(
            "subscribe", lambda: self._bus.subscribe(self.group, self.topics_read)
        )
        self._crew.start()
        self._spawn(self._publish())
        self._pulling = self._spawn(self._pull(self.consumer))

    async def wait(self) -> None:
        """Return when the service was stopped, or raise the error that nobody could wait out."""
        assert self._ended is not None, "start comes first"
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Fetch nothing more, finish what is in hand as far as the settings allow time for it,
        commit the offsets and leave the group. What is not finished comes again at the next start.
        """
        ended = self._ended
        assert ended is not None, "start comes first"
        self._is_stopping = True
        self._room.set()
        if self._pulling is not None and self._is_fetching:
            self._pulling.cancel()
        if self._in_hand and not ended.done():
            self._spawn(self._give_up_in_time())
            await self._drained.wait()
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self.consumer is not None:
            consumer, self.consumer = self.consumer, None
            await self.commit_offsets(consumer)
            await consumer.close()
        if not ended.done():
            ended.set_result(None)

    def abandon(self) -> None:
        """Cease at once, as a killed process would: for simulated worlds, which know no other
        end.
        """
        self._is_stopping = True
        for task in list(self._tasks):
            task.cancel()

    async def _give_up_in_time(self) -> None:
        await self._clock.sleep(self._settings.drain_s)
        _log.warning("%s stops with %d records in hand", self._effects.name, self._in_hand)
        self._drained.set()

    # Fetching: records become requests, requests get a verdict.

    async def _pull(self, consumer: Consumer) -> None:
        settings = self._settings
        while not self._is_stopping:
            room = settings.records_in_hand_max - self._in_hand
            if room <= 0 or self._crew.commits >= self._store.commits_max:
                self._room.clear()
                await self._room.wait()
                continue
            records = await self._fetch(consumer, min(room, settings.fetch_records_max))
            if records:
                self._in_hand += len(records)
                self._drained.clear()
                await self._admit(records)
            if self._clock.monotonic_s() - self._offsets_at_s >= settings.offsets_every_s:
                await self.commit_offsets(consumer)

    async def _fetch(self, consumer: Consumer, records_max: int) -> list[Inbound]:
        self._is_fetching = True
        try:
            return await self._patience.insist(
                "fetch",
                lambda: consumer.fetch(records_max=records_max, timeout_s=FETCH_TIMEOUT_S),
            )
        finally:
            self._is_fetching = False

    async def _admit(self, records: Sequence[Inbound]) -> None:
        free: list[Request] = []
        rejected: list[Rejected] = []
        for inbound in records:
            self._offsets.begin(inbound)
            found = self._reader.read(inbound)
            if isinstance(found, Rejected):
                rejected.append(found)
            elif self._lanes.enter(found):
                free.append(found)
        await self._look_up(free)
        for inbound, reason, message in rejected:
            await self._set_aside(inbound, reason, message)
            self._dealt_with(inbound)

    async def _look_up(self, requests: Sequence[Request]) -> None:
        """Give each request its verdict. All of them own their lanes."""
        if not requests:
            return
        keys = [key for request in requests for key in keys_of(request)]
        rows = await self._patience.insist(
            "inbox", lambda: self._store.kept(self._effects.name, keys)
        )
        now = self._clock.now()
        jobs: list[Job] = []
        for request in requests:
            verdict = judge(
                request, rows, service=self._effects.name, handled=self._handled, now=now
            )
            match verdict:
                case Run():
                    jobs.append(Job(request, verdict))
                case Answer(row):
                    self.counts["effects_repeated"] += 1
                    self._send(request, self._replies.record(request, row))
                case NothingToUndo(writes):
                    self._crew.keep(self._store.unit(), request, writes[0].row, writes)
                case Superseded():
                    self.counts["effects_repeated"] += 1
                    self._send(request, None)
                case Conflict(row):
                    _log.error("%s: %s", row.code, row.message)
                    if request.route.is_intent:
                        self._send(request, self._replies.record(request, row))
                    else:
                        self._spawn(self._give_up(request, str(row.code), str(row.message)))
        self._crew.take(jobs)

    # What the crew tells.

    def _done(self, kept: list[Kept]) -> None:
        self._store_failures = 0
        for _, _, row, _ in kept:
            self.counts[_COUNTED[row.outcome]] += 1
        self._outbox += [
            (request, self._replies.record(request, row)) for _, request, row, _ in kept
        ]
        self._outbox_filled.set()
        self._room.set()

    def _moved(self, requests: list[Request]) -> None:
        self._spawn(self._look_up(requests))

    def _failed(self, requests: list[Request], error: StoreUnavailable | None) -> None:
        self._store_failures += 1
        self._room.set()
        self._spawn(self._again(requests, error))

    async def _again(self, requests: list[Request], error: StoreUnavailable | None) -> None:
        trouble = error or StoreUnavailable("the store failed under a handler")
        await self._patience.wait("commit", self._store_failures, trouble)
        await self._look_up(requests)

    def _unheard(self, job: Job, ended: Ended) -> None:
        self._spawn(self._hear_again(job, ended))

    async def _hear_again(self, job: Job, ended: Ended) -> None:
        """Nobody repeats a fact, so its listener is called again here, a few times."""
        request, policy = job.request, self._settings.listen_retry
        tried = request.attempt
        if policy.allows(failed_attempts=tried, elapsed_us=0, code=ended.code):
            delay_us = policy.delay_us(failed_attempts=tried, seed=request.idempotency_key)
            await self._clock.sleep(delay_us / 1_000_000)
            self._crew.take([Job(request._replace(attempt=tried + 1), job.run)])
            return
        said = f"{request.route.handler.name} failed {tried} times: {ended.code}: {ended.message}"
        await self._give_up(request, "listener_failed", said)

    async def _give_up(self, request: Request, reason: str, message: str) -> None:
        await self._set_aside(request.inbound, reason, message)
        self._send(request, None)

    async def _set_aside(self, inbound: Inbound, reason: str, message: str) -> None:
        self.counts["effects_parked"] += 1
        await self._patience.insist("park", lambda: self._park(inbound, reason, message))

    # Answering: publish, remember the offsets, let the lanes go on.

    def _send(self, request: Request, record: Record | None) -> None:
        self._outbox.append((request, record))
        self._outbox_filled.set()

    async def _publish(self) -> None:
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled.clear()
            answers, self._outbox = self._outbox, []
            records = [record for _, record in answers if record is not None]
            if records:
                try:
                    await self._patience.insist("publish", partial(self._publish_all, records))
                except MessageTooLarge:
                    await self._publish_one_by_one(answers)
            following: list[Request] = []
            for request, _ in answers:
                follower = self._lanes.leave(request)
                if follower is not None:
                    following.append(follower)
                self._dealt_with(request.inbound)
            await self._look_up(following)

    async def _publish_all(self, records: Sequence[Record]) -> None:
        try:
            await self._bus.publish(records)
        except TopicMissing as error:
            raise BusUnavailable(str(error)) from error

    async def _publish_one_by_one(self, answers: list[tuple[Request, Record | None]]) -> None:
        """The broker takes less than we do: find the answers that are too large, and set them
        aside.
        """
        for request, record in answers:
            if record is None:
                continue
            try:
                await self._patience.insist("publish", partial(self._publish_all, [record]))
            except MessageTooLarge as error:
                await self._set_aside(request.inbound, "reply_too_large", str(error))

    def _dealt_with(self, inbound: Inbound) -> None:
        self._offsets.finish(inbound)
        self._in_hand -= 1
        self._room.set()
        if self._in_hand == 0:
            self._drained.set()

    async def commit_offsets(self, consumer: Consumer) -> None:
        """Never insists: an offset that is not committed costs no more than an answer sent
        again.
        """
        self._offsets_at_s = self._clock.monotonic_s()
        due = self._offsets.due(consumer.assignment())
        if not due:
            return
        try:
            await consumer.commit(due)
        except BusUnavailable as error:
            _log.warning("%s: offsets are not committed: %s", self._effects.name, error)
        else:
            self._offsets.committed(due)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        error = None if task.cancelled() else task.exception()
        if error is not None and self._ended is not None and not self._ended.done():
            _log.critical("the effects of %s ended", self._effects.name, exc_info=error)
            self._ended.set_exception(error)
            self._ended.exception()  # `wait` may never be called; it was logged above
            self._drained.set()
