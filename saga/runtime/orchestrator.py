"""The orchestrator: receives records, hands them to lanes, and sees that nothing is forgotten.

A lane takes the turns of its partitions one batch after another; while one is decided and stored,
those before it are published. Equal partition numbers go to one lane, hence a saga's records do.
Beside the lanes: timers that come due, held records that may go on, a backlog to take over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import count
from zlib import crc32

from saga.core.identity import SagaId, TimerId
from saga.core.status import SagaStatus
from saga.errors import (
    AlreadyRecorded,
    BusUnavailable,
    HistoryConflict,
    RecordsRetracted,
    StoreUnavailable,
)
from saga.ports import Bus, Catalogue, Clock, Consumer, DueTimer, EventStore, Source
from saga.ports.bus import HearsOfRevocation
from saga.ports.store import DeferralReason, UnhandledKind
from saga.retrying import Backoff, retried
from saga.runtime.aside import Aside
from saga.runtime.batcher import Batcher, finish_or_abandon
from saga.runtime.offset_committer import OffsetCommitter
from saga.runtime.relay import Relay
from saga.runtime.router import Router
from saga.runtime.statistics import Statistics
from saga.runtime.turns import Turns
from saga.runtime.unit_of_work import UnitOfWork
from saga.runtime.work import Work

LANES = 1
FETCH_RECORDS_MAX = 1_000
PENDING_RECORDS_MAX = 4_000
"""Records in hand; beyond it nothing more is fetched."""
FETCH_TIMEOUT_S = 0.2
TIMERS_MAX = 500
TIMERS_POLL_S = 0.1
SWEEP_S = 1.0
DRAIN_S = 10.0
"""How long stopping may take to finish what is in hand: a store or bus may be away for ever."""
HELD_SAGAS_MAX = 10_000
CONFLICTS_BEFORE_BACKOFF_MAX = 3
HOPEFUL = frozenset({DeferralReason.EARLY, DeferralReason.BEHIND_DEFERRED})
"""Why a record may be held that is tried again and again."""
HOPELESS = frozenset({DeferralReason.TURN_FAILED, DeferralReason.BEHIND_FAILED_TURN})
"""Why a record may be held that nobody but an operator lets go."""
RETRY_SWEEPS = 30
"""Every so many sweeps all others are tried: a worker without their code may be gone by now."""
HELD_UP = frozenset({SagaStatus.PARKED, SagaStatus.STALLED})
log = logging.getLogger(__name__)


class Orchestrator:
    """One orchestrator process's work. `run` goes on until it is cancelled or `stop` is called."""

    def __init__(
        self,
        *,
        bus: Bus,
        store: EventStore,
        catalogue: Catalogue,
        router: Router,
        turns: Turns,
        aside: Aside,
        relay: Relay,
        clock: Clock,
        group: str,
        worker_id: str,
    ) -> None:
        self._bus = bus
        self._store = store
        self._catalogue = catalogue
        self._router = router
        self._turns = turns
        self._aside = aside
        self._relay = relay
        self._clock = clock
        self._group = group
        self._worker_id = worker_id
        self._lanes = [Batcher(clock) for _ in range(LANES)]
        self.consumer: Consumer | None = None
        self._timers_in_hand: set[TimerId] = set()
        self._revisits_in_hand: set[SagaId] = set()
        self._offsets = OffsetCommitter(clock)
        self._stopping = asyncio.Event()
        self._is_fetching_dry = False
        self._is_draining = False
        self.looked_at_s = self.fetched_at_s = clock.monotonic_s()
        self.counts: Counter[str] = Counter()
        self.tally = Statistics()

    async def start(self) -> None:
        """Join the group, take over what a crashed process left, look for held records.

        Raises:
            StoreUnavailable, BusUnavailable: they cannot be reached.
        """
        self.consumer = await self._bus.subscribe(
            self._group, self._router.topics, resume_at=self._resume_at
        )
        if isinstance(self.consumer, HearsOfRevocation):
            self.consumer.on_revoke(partial(finish_or_abandon, self._lanes, self._clock))
        await self._relay.take_over(older_than_s=0)
        await self._sweep(tries_all=True)

    async def run(self) -> None:
        """Work until `stop`. Ends early only with an error that nobody can wait out."""
        try:
            await self._coordinate()
        except ExceptionGroup as group:
            error: Exception = group
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            raise error from group

    async def _coordinate(self) -> None:
        assert self.consumer is not None, "start comes first"
        tell = self._offsets.tell_now_and_then(self.consumer)
        background = [self._watch_timers(), self._sweep_now_and_then(), tell]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in background]
            lanes = [group.create_task(self._drive(lane)) for lane in self._lanes]
            await self._receive()
            for task in tasks:
                task.cancel()
            self._is_draining = True
            for lane in self._lanes:
                lane.wait_no_more()
            _, late = await asyncio.wait(lanes, timeout=DRAIN_S)
            for task in late:
                log.warning("stopped with work in hand, which is done again after the next start")
                task.cancel()

    def stop(self) -> None:
        """Fetch nothing more; finish what is in hand."""
        self._stopping.set()

    async def close(self) -> None:
        """Leave the group and record what was published."""
        if self.consumer is not None:
            await self._offsets.tell(self.consumer)
            await self.consumer.close()
            self.consumer = None
        await self._relay.record()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand and the last fetch found nothing."""
        return (
            self._is_fetching_dry
            and not self._timers_in_hand
            and all(lane.is_idle for lane in self._lanes)
        )

    @property
    def stopped(self) -> Mapping[Source, str]:
        """The partitions that this process is to read and cannot, each with the reason: until
        somebody has looked at them it is not ready, though all others go on.
        """
        return {} if self.consumer is None else self.consumer.stopped

    def problems(self) -> list[str]:
        """Why this process does not do all of its work now; none while it does."""
        if self.consumer is None:
            return ["not started yet, or stopped"]
        waits_for = self.consumer.waits_for
        found = [] if waits_for is None else [f"waits for {waits_for}"]
        return [*found, *self.stopped.values(), *self._relay.problems()]

    @property
    def in_hand(self) -> int:
        """How many records are fetched and wait for their turn."""
        return sum(len(lane.pending.inbound) for lane in self._lanes)

    async def _receive(self) -> None:
        assert self.consumer is not None
        backoff = self._backoff("receive")
        while not self._stopping.is_set():
            self.looked_at_s = self._clock.monotonic_s()
            if self.in_hand >= PENDING_RECORDS_MAX:
                self.fetched_at_s = self.looked_at_s
                await self._clock.sleep(0.001)
                continue
            try:
                records = await self.consumer.fetch(
                    records_max=FETCH_RECORDS_MAX, timeout_s=FETCH_TIMEOUT_S
                )
            except (BusUnavailable, StoreUnavailable) as error:
                # A rebalance on the way asks the store where to begin.
                await backoff.pause("cannot fetch", error)
                continue
            backoff.reset()
            self.fetched_at_s = self._clock.monotonic_s()
            self._is_fetching_dry = not records
            for record in records:
                self._lanes[record.partition % LANES].put(record)

    async def _drive(self, lane: Batcher) -> None:
        async with asyncio.TaskGroup() as publishing:
            while True:
                if not self._is_draining:
                    await lane.has_work.wait()
                if not self._is_draining:
                    await lane.gather()
                work = lane.take()
                if not work and self._is_draining:
                    return
                try:
                    with lane.at_work():
                        await self._take_until_done(lane, work, publishing)
                finally:
                    self._timers_in_hand.difference_update(timer.timer_id for timer in work.due)
                    self._revisits_in_hand.difference_update(work.revisits)

    async def _take_until_done(
        self, lane: Batcher, work: Work, publishing: asyncio.TaskGroup
    ) -> None:
        backoff = self._backoff("lane")
        conflicts = 0
        while work:
            try:
                taken = await self._turns.take_turns(work)
            except (HistoryConflict, AlreadyRecorded) as error:
                conflicts += 1
                self.counts["conflicts"] += 1
                if conflicts > CONFLICTS_BEFORE_BACKOFF_MAX:
                    await backoff.pause("conflict", error)
                work = await self._uncovered(lane, work)
            except StoreUnavailable as error:
                await backoff.pause("store unavailable", error)
                work = await self._uncovered(lane, work)
            except RecordsRetracted as error:
                log.warning("records were retracted: %s", error, extra={"reason": str(error)})
                await self._read_anew()
                work = Work([], work.due, work.revisits)
            else:
                self._note(work, taken.draft)
                if taken.is_published:
                    await self._turns.publish(taken)
                else:
                    await lane.publish_beside(publishing, partial(self._turns.publish, taken))
                return

    def _note(self, work: Work, draft: UnitOfWork) -> None:
        self.counts.update(draft.counts)
        self.counts["turns"] += draft.counts["recorded"]
        self.tally.add(work, draft)
        self._offsets.handled(work.positions())
        self._revisit(draft.revisits)

    async def _uncovered(self, lane: Batcher, work: Work) -> Work:
        """What of *work* the store does not account for yet: an answer may have been lost. Records
        that were abandoned meanwhile are others' business.
        """
        stored = await self._stored(list(work.positions()))
        left = [
            record
            for record in work.inbound
            if record.offset > stored.get(Source(record.topic, record.partition), -1)
        ]
        return Work([] if lane.is_abandoned else left, work.due, work.revisits)

    async def _read_anew(self) -> None:
        """Drop all records in hand and read again from where the store stands."""
        assert self.consumer is not None
        sources = sorted(self.consumer.assignment())
        stored = await self._stored(sources)
        bounds = await self._bus.bounds([source for source in sources if source not in stored])
        starts = {source: offset + 1 for source, offset in stored.items()}
        starts |= {source: begin for source, (begin, _) in bounds.items()}
        for lane in self._lanes:
            lane.pending.inbound.clear()
        await self.consumer.seek(starts)

    async def _stored(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        positions = partial(self._store.positions, sources)
        return await retried(positions, self._backoff("positions"), "store unavailable")

    async def _watch_timers(self) -> None:
        backoff = self._backoff("timers")
        while True:
            await self._clock.sleep(TIMERS_POLL_S)
            try:
                due = await self._store.due_timers(until=self._clock.now(), limit=TIMERS_MAX)
            except StoreUnavailable as error:
                await backoff.pause("store unavailable", error)
                continue
            backoff.reset()
            self._fire(due)

    def _fire(self, due: Sequence[DueTimer]) -> None:
        for timer in due:
            if timer.timer_id in self._timers_in_hand:
                continue
            self._timers_in_hand.add(timer.timer_id)
            lane = self._lane_of(timer.saga_id)
            lane.pending.due.append(timer)
            lane.has_work.set()

    async def _sweep_now_and_then(self) -> None:
        backoff = self._backoff("sweep")
        for number in count(1):
            await self._clock.sleep(SWEEP_S)
            try:
                await self._sweep(tries_all=number % RETRY_SWEEPS == 0)
                await self._relay.take_over()
                await self._relay.release()
                await self._relay.record()
            except StoreUnavailable as error:
                await backoff.pause("store unavailable", error)
            else:
                backoff.reset()

    async def _sweep(self, *, tries_all: bool) -> None:
        """Find the sagas that records are held behind, and try those that may go on."""
        known = set(self._aside.sagas)
        held: dict[SagaId, set[str]] = {}
        after = 0
        while len(held) < HELD_SAGAS_MAX:
            page = await self._catalogue.unhandled(
                kind=UnhandledKind.DEFERRED, after=after, limit=500
            )
            if not page:
                break
            for record in page:
                if record.saga_id is not None:
                    held.setdefault(record.saga_id, set()).add(record.reason)
            after = page[-1].record_id
        # What a lane has set aside meanwhile was not there yet when the pages were read.
        self._aside.sagas = self._aside.sagas - known | held.keys()
        hopeful = {
            saga
            for saga, reasons in held.items()
            if (reasons & HOPEFUL and not reasons & HOPELESS)
            or (tries_all and not reasons <= HOPELESS)
        }
        hopeful |= await self._let_go(held.keys() - hopeful)
        self._revisit(hopeful)

    async def _let_go(self, saga_ids: Collection[SagaId]) -> set[SagaId]:
        """Those of *saga_ids* that nothing holds up any more, whoever has released them."""
        if not saga_ids:
            return set()
        summaries = await self._catalogue.summaries(sorted(saga_ids))
        return {one.saga_id for one in summaries if one.status not in HELD_UP}

    def _revisit(self, saga_ids: Collection[SagaId]) -> None:
        for saga_id in sorted(self._aside.sagas.intersection(saga_ids)):
            if saga_id in self._revisits_in_hand:
                continue
            self._revisits_in_hand.add(saga_id)
            lane = self._lane_of(saga_id)
            lane.pending.revisits.append(saga_id)
            lane.has_work.set()

    async def _resume_at(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        stored = await self._store.positions(sources)
        return {source: offset + 1 for source, offset in stored.items()}

    def _backoff(self, of: str) -> Backoff:
        return Backoff(f"{of}/{self._worker_id}", self._clock)

    def _lane_of(self, saga_id: SagaId) -> Batcher:
        return self._lanes[crc32(saga_id.encode()) % LANES]
