"""The orchestrator of one process: receives records and has their turns taken, batch by batch.

Batches are decided and stored one after another; while one is decided, those before are published.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from math import inf
from typing import Final

from saga.core.identity import SagaId, TimerId
from saga.errors import (
    AlreadyRecorded,
    BusUnavailable,
    HistoryConflict,
    RecordsRetracted,
    StoreUnavailable,
    TopicMissing,
)
from saga.ports import Bus, Clock, Consumer, DueTimer, EventStore, Inbound, Source
from saga.ports.bus import UNKNOWN_ORIGIN, HearsOfRevocation, why_foreign
from saga.ports.store import DAMAGED_OFFSET, Place
from saga.retrying import Backoff, retried
from saga.runtime.changed_code import ChangedCode
from saga.runtime.deferred import DeferredRecords
from saga.runtime.pauses import Pauses
from saga.runtime.relay import Relay
from saga.runtime.statistics import Statistics
from saga.runtime.store_clock import StoreClock
from saga.runtime.turns import CommittedBatch, Turns, Unstorable
from saga.runtime.unhandled import SkippedRecords
from saga.runtime.unit_of_work import InboundBatch
from saga.tasks import Tasks

FETCH_RECORDS_MAX = 1_000
PENDING_RECORDS_MAX = 4_000
"""Records in hand; beyond it nothing more is fetched."""
PENDING_POLL_S = 0.001
FETCH_TIMEOUT_S = 0.2
COMMIT_OFFSETS_S = 1.0
BATCH_RECORDS_MAX = 256
"""Records in one transaction: enough to share its cost, few enough to keep latency low."""
REVISITS_MAX = 50
"""Sagas in one transaction whose deferred records are tried: there may be many behind each."""
LINGER_RECORDS_MIN = 4
"""A last batch of fewer records is no load."""
LINGER_S_MAX = 0.02
"""A batch may have taken long because a server was away: no record is to wait for that again."""
PUBLISHING_MAX = 4
"""Batches that are stored and being published; beyond it no further one is decided."""
REVOCATION_POLL_S = 0.005
TIMERS_MAX = 500
TIMERS_POLL_S = 0.1
SWEEP_S = 1.0
LOOK_S = 0.5
"""Between two pages of sagas that are looked at because they began under other code."""
LEARN_LIMITS_SWEEPS = 60
DRAIN_S = 10.0
"""How long stopping may take to finish what is in hand: a store or bus may be away for ever."""
CONFLICTS_BEFORE_BACKOFF_MAX = 3
log = logging.getLogger(__name__)


class Orchestrator:
    """The work of one process. `run` goes on until it is cancelled or `stop` is called."""

    name: Final = "orchestrator"

    def __init__(
        self,
        *,
        receiver: Receiver,
        store: EventStore,
        turns: Turns,
        deferred: DeferredRecords,
        relay: Relay,
        changed_code: ChangedCode,
        clock: StoreClock,
        pauses: Pauses,
    ) -> None:
        self._pauses = pauses
        self._store = store
        self._changed_code = changed_code
        self._turns = turns
        self._deferred = deferred
        self._skipped = SkippedRecords(store)
        self._relay = relay
        self._clock = clock
        self._batcher = receiver.batcher
        self._is_draining = False
        self.receiver = receiver
        self.counts: Counter[str] = Counter()
        self.statistics = Statistics()

    async def start(self) -> None:
        """Also take over what a crashed process left. Waits while bus or store are away."""
        backoff = partial(self.receiver.backoff, "start")
        await retried("cannot ask for the time", backoff, self._clock.measure)
        await retried("cannot join the group", backoff, self.receiver.start)
        await retried("cannot look for limits", backoff, self._relay.learn_limits)
        await retried("cannot take over", backoff, self._relay.take_over, older_than_s=0)
        await retried("cannot look at deferred records", backoff, self._look_at_deferred)

    async def run(self) -> None:
        """Work until `stop`. Ends early only with an error that waiting does not mend."""
        async with Tasks(self.name) as tasks:
            await self._run_in(tasks)

    def stop(self) -> None:
        self.receiver.stop()

    async def close(self) -> None:
        self._turns.forget()
        async with AsyncExitStack() as last:
            last.push_async_callback(self._skipped.record)
            last.push_async_callback(self._relay.record)
            await self.receiver.close()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand and the last fetch found nothing."""
        is_calm = self._batcher.is_idle and not self._pauses.are_looked_for
        return self.receiver.is_dry and is_calm

    def problems(self) -> list[str]:
        """Why this process does not do all of its work now; none while it does."""
        unsure = self._clock.why_unsure()
        return [
            *self.receiver.problems(),
            *self._relay.problems(),
            *([] if unsure is None else [unsure]),
        ]

    async def _run_in(self, tasks: Tasks) -> None:
        background = [
            tasks.start(self._watch_timers(), "the watch over timers"),
            tasks.start(self._sweep_now_and_then(), "the sweep"),
            tasks.start(self.receiver.commit_now_and_then(), "the committer of offsets"),
            tasks.start(self._look_at_changed_code(), "the look at changed code", may_end=True),
        ]
        driving = tasks.start(self._drive(tasks), "the lane of turns")
        await self.receiver.receive()
        tasks.may_end()
        for task in background:
            task.cancel()
        self._is_draining = True
        self._batcher.wait_no_more()
        _, late = await asyncio.wait([driving], timeout=DRAIN_S)
        if late:
            log.warning("stopped with records in hand; they come again at the next start")
            driving.cancel()
            for task in self._batcher.publishing:
                task.cancel()

    async def _drive(self, tasks: Tasks) -> None:
        batcher, backoff = self._batcher, self.receiver.backoff("batch")
        while True:
            if not self._is_draining:
                await batcher.has_work.wait()
            if not self._is_draining:
                await batcher.linger()
            batch = batcher.take()
            if self._is_draining and not batch:
                break
            batcher.begin()
            try:
                await self._take_until_done(batch, tasks, backoff)
            finally:
                batcher.end(batch)
        while batcher.publishing:
            await asyncio.wait(batcher.publishing)

    async def _take_until_done(self, batch: InboundBatch, tasks: Tasks, backoff: Backoff) -> None:
        conflicts = 0
        take = self._turns.take_turns
        while batch:
            try:
                committed = await take(batch)
            except (HistoryConflict, AlreadyRecorded) as error:
                conflicts += 1
                self.counts["conflicts"] += 1
                if conflicts > CONFLICTS_BEFORE_BACKOFF_MAX:
                    await backoff.pause("conflict", error)
                batch = await self.receiver.not_covered(batch)
            except (StoreUnavailable, BusUnavailable) as error:
                await backoff.pause("store unavailable", error)
                batch = await self.receiver.not_covered(batch)
            except RecordsRetracted as error:
                log.warning("records were retracted: %s", error, extra={"reason": str(error)})
                await self.receiver.read_again()
                batch = replace(batch, records=[])
            except Unstorable as error:
                if halves := batch.halves():
                    for half in halves:
                        await self._take_until_done(half, tasks, backoff)
                    break
                self.counts["unstorable"] += 1
                log.exception("what a record or timer led to cannot be recorded")
                take = partial(self._turns.set_aside, error=error.error)
            else:
                self._note(batch, committed)
                await self._publish_in(tasks, committed)
                break
        if backoff.failures:
            backoff.reset()

    def _note(self, batch: InboundBatch, committed: CommittedBatch) -> None:
        unit = committed.unit
        for name, number in unit.counts.items():
            self.counts[name] += number
        self.counts["turns"] += unit.counts["recorded"]
        self.statistics.add(batch, unit)
        if unit.skipped:
            self._skipped.add(unit.skipped)
        self.receiver.handled.update(unit.positions)
        if self._deferred.sagas:
            self._revisit(unit.revisits)

    async def _publish_in(self, tasks: Tasks, committed: CommittedBatch) -> None:
        """Have a batch published while the next one is decided; wait where too many are."""
        if committed.appended.backlog_id is None:
            await self._turns.publish(committed)  # the store has: this waits for nothing
            return
        publishing = self._batcher.publishing
        while len(publishing) >= PUBLISHING_MAX:
            await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
        task = tasks.start(self._turns.publish(committed), "a batch's publisher", may_end=True)
        publishing.add(task)
        task.add_done_callback(publishing.discard)

    async def _watch_timers(self) -> None:
        backoff = self.receiver.backoff("timers")
        while True:
            await self._clock.sleep(TIMERS_POLL_S)
            try:
                await self._clock.keep()
                if self._clock.why_unsure() is None:
                    due = await self._store.due_timers(until=self._clock.now(), limit=TIMERS_MAX)
                    self._batcher.put_timers(due)
            except StoreUnavailable as error:
                await backoff.pause("store unavailable", error)
            else:
                backoff.reset()

    async def _sweep_now_and_then(self) -> None:
        backoff = self.receiver.backoff("sweep")
        for number in count(1):
            await self._clock.sleep(SWEEP_S)
            try:
                await self._sweep()
                self._batcher.put_resumes(await self._pauses.sweep())
                await self._relay.take_over()
                await self._relay.release()
                await self._relay.record()
                await self._skipped.record()
                await self._park_refused()
                if number % LEARN_LIMITS_SWEEPS == 0:
                    await self._relay.learn_limits()
            except (StoreUnavailable, BusUnavailable) as error:
                await backoff.pause("store or bus unavailable", error)
            else:
                backoff.reset()

    async def _look_at_changed_code(self) -> None:
        """Have the sagas looked at that began under other code, a few at a time."""
        backoff = self.receiver.backoff("look at changed code")
        count = partial(self.receiver.backoff, "count open sagas")
        await retried("cannot count open sagas", count, self._changed_code.warn)
        while True:
            try:
                found = await self._changed_code.next_sagas()
            except StoreUnavailable as error:
                await backoff.pause("store unavailable", error)
                continue
            backoff.reset()
            if found is None:
                return
            self._batcher.put_looks(found)
            await self._clock.sleep(LOOK_S)

    async def _park_refused(self) -> None:
        """Park sagas of which a record is stored that its topic does not take."""
        for saga_id, reason in list(self._relay.refused.items()):
            with suppress(HistoryConflict):  # another worker was first; the next sweep looks again
                await self._turns.park(saga_id, reason)
                self._relay.parked(saga_id)

    async def _look_at_deferred(self) -> None:
        self._revisit(await self._deferred.look_at_all(await self._clock.read()))

    async def _sweep(self) -> None:
        self._revisit(await self._deferred.sweep(self._clock.now()))

    def _revisit(self, saga_ids: Iterable[SagaId]) -> None:
        self._batcher.put_revisits(sorted(self._deferred.sagas.intersection(saga_ids)))


class Receiver:
    """Reads the records of one process; the store's positions count, offsets only show the lag.

    *handled* are the highest offsets that stored batches account for, and that are not committed.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        store: EventStore,
        clock: Clock,
        group: str,
        topics: Sequence[str],
        worker_id: str,
    ) -> None:
        self._bus = bus
        self._store = store
        self._clock = clock
        self._group = group
        self._topics = topics
        self._worker_id = worker_id
        self._is_stopping = False
        self.batcher = Batcher(clock)
        self.consumer: Consumer | None = None
        self.handled: dict[Source, int] = {}
        self.asked_at_s = self.answered_at_s = inf  # not yet: it may wait for a store or bus first
        self.is_dry = False

    async def start(self) -> None:
        """Join the group; raises StoreUnavailable or BusUnavailable."""
        self.consumer = await self._bus.subscribe(
            self._group, self._topics, resume_at=self._resume_at
        )
        if isinstance(self.consumer, HearsOfRevocation):
            self.consumer.on_revoke(self.batcher.finish_or_abandon)

    async def receive(self) -> None:
        assert self.consumer is not None, "start comes first"
        backoff = self.backoff("receive")
        self.asked_at_s = self.answered_at_s = self._clock.monotonic_s()
        while not self._is_stopping:
            if self.in_hand >= PENDING_RECORDS_MAX:
                await self._clock.sleep(PENDING_POLL_S)
                self.asked_at_s = self.answered_at_s = self._clock.monotonic_s()
                continue
            try:
                records = await self.consumer.fetch(
                    records_max=FETCH_RECORDS_MAX, timeout_s=FETCH_TIMEOUT_S
                )
            except (BusUnavailable, StoreUnavailable) as error:
                # A rebalance on the way asks the store where to begin.
                await backoff.pause("cannot fetch", error)
                self.asked_at_s = self._clock.monotonic_s()
                continue
            if backoff.failures:
                backoff.reset()
            self.asked_at_s = self.answered_at_s = self._clock.monotonic_s()
            self.is_dry = not records
            if records:
                self.batcher.put(records)

    def stop(self) -> None:
        self._is_stopping = True

    async def close(self) -> None:
        if self.consumer is not None:
            consumer, self.consumer = self.consumer, None
            async with AsyncExitStack() as last:
                last.push_async_callback(consumer.close)
                await self._commit_offsets(consumer)

    @property
    def in_hand(self) -> int:
        """How many records are fetched and wait for their turn."""
        return len(self.batcher.pending.records)

    @property
    def stopped(self) -> Mapping[Source, str]:
        """The partitions that it is to read and cannot, and why; each waits for an operator."""
        return {} if self.consumer is None else self.consumer.stopped

    def why_stopped(self) -> Sequence[str]:
        return list(self.stopped.values())

    def problems(self) -> list[str]:
        if self.consumer is None:
            return ["not started yet, or stopped"]
        waits_for = self.consumer.waits_for
        waiting = [] if waits_for is None else [f"waits for {waits_for}"]
        return [*waiting, *self.why_stopped()]

    def backoff(self, task: str) -> Backoff:
        return Backoff(f"{task}/{self._worker_id}", self._clock)

    async def not_covered(self, batch: InboundBatch) -> InboundBatch:
        """The batch without the records that are stored already or were abandoned meanwhile."""
        stored = await self._stored(list(batch.positions()))
        left = [
            record
            for record in batch.records
            if record.offset > stored.get(Source(record.topic, record.partition), -1)
        ]
        return replace(batch, records=[] if self.batcher.is_abandoned else left)

    async def read_again(self) -> None:
        """Drop all records in hand and read again from where the store stands."""
        assert self.consumer is not None, "there were records"
        sources = sorted(self.consumer.assignment())
        stored = await self._stored(sources)
        bounds = await self._bus.bounds([source for source in sources if source not in stored])
        starts = {source: offset + 1 for source, offset in stored.items()}
        starts |= {source: begin for source, (begin, _) in bounds.items()}
        self.batcher.pending.records.clear()
        await self.consumer.seek(starts)

    async def commit_now_and_then(self) -> None:
        assert self.consumer is not None, "start comes first"
        while True:
            await self._clock.sleep(COMMIT_OFFSETS_S)
            await self._commit_offsets(self.consumer)

    async def _commit_offsets(self, consumer: Consumer) -> None:
        """Commit the offsets that are handled; those that cannot be committed now are left out."""
        handled, self.handled = self.handled, {}
        ours = handled.keys() & consumer.assignment()
        if not ours:
            return
        try:
            await consumer.commit({source: handled[source] + 1 for source in ours})
        except BusUnavailable as error:
            log.info("offsets are not committed: %s", error, extra={"reason": str(error)})

    async def _resume_at(self, sources: Sequence[Source]) -> Mapping[Source, int | str]:
        """Where the store stands, kept beside what it stands in: another topic is not read."""
        found = await self._found(sources)
        stored = await self._store.origins(sources)
        starts: dict[Source, int | str] = {}
        new: dict[Source, Place] = {}
        for source, place in found.items():
            if place.offset == DAMAGED_OFFSET:
                starts[source] = why_damaged(source)
                continue
            known = stored.get(source, UNKNOWN_ORIGIN)
            foreign = why_foreign(source, known, place.origin) if place.offset >= 0 else None
            starts[source] = foreign or place.offset + 1
            if foreign is None and known.filled(place.origin) != known:
                new[source] = place
        if new:
            await self._store.adopt(new)
        return starts

    async def _found(self, sources: Sequence[Source]) -> dict[Source, Place]:
        """Of each source where the store stands, else the begin, and which topic it is now."""
        origins = await self._bus.origins({source.topic for source in sources})
        stored = await self._store.positions(sources)
        try:
            bounds = await self._bus.bounds([each for each in sources if each not in stored])
            return {
                source: Place(
                    stored[source] if source in stored else bounds[source][0] - 1,
                    origins[source.topic],
                )
                for source in sources
            }
        except (TopicMissing, KeyError) as error:
            raise BusUnavailable(f"a topic has vanished: {error}") from error

    async def _stored(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        backoff = partial(self.backoff, "positions")
        return await retried("store unavailable", backoff, self._store.positions, sources)


def why_damaged(source: Source) -> str:
    """What an operator is told of a stored position that cannot be read."""
    return (
        f"{source.topic}[{source.partition}]: its stored position cannot be read: say where to go "
        f"on with `saga store rebase {source.topic} --from OFFSET --reason TEXT`"
    )


class Batcher:
    """What waits for its turn, and how much of it is taken at a time.

    A small batch costs nearly as much as a large one, so under load it lingers for as many records
    as the last batch had, but never longer than that one took.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.pending = InboundBatch()
        self.publishing: set[asyncio.Task[None]] = set()
        self.has_work = asyncio.Event()
        self.is_busy = False
        self.is_abandoned = False
        self._records_taken = 0
        self._took_s = self._began_s = self._ended_s = 0.0
        self._are_enough = asyncio.Event()
        self._timers_in_hand: set[TimerId] = set()
        self._resumes_in_hand: set[SagaId] = set()
        self._revisits_in_hand: set[SagaId] = set()

    @property
    def has_records(self) -> bool:
        """Whether records wait, are being decided, or have led to what is not published."""
        is_at_work = self.is_busy and self._records_taken > 0
        return bool(self.pending.records or self.publishing) or is_at_work

    @property
    def is_idle(self) -> bool:
        return not (self.is_busy or self.pending or self.publishing)

    def put(self, records: Iterable[Inbound]) -> None:
        pending = self.pending.records
        pending += records
        self.has_work.set()
        if len(pending) >= self._records_taken:
            self._are_enough.set()

    def put_timers(self, due: Iterable[DueTimer]) -> None:
        """Have these timers fire; those in hand do so already."""
        for timer in due:
            if timer.timer_id not in self._timers_in_hand:
                self._timers_in_hand.add(timer.timer_id)
                self.pending.due.append(timer)
                self.has_work.set()

    def put_revisits(self, saga_ids: Iterable[SagaId]) -> None:
        """Have the records tried that are deferred behind these sagas; those in hand are."""
        for saga_id in saga_ids:
            if saga_id not in self._revisits_in_hand:
                self._revisits_in_hand.add(saga_id)
                self.pending.revisits.append(saga_id)
                self.has_work.set()

    def put_resumes(self, saga_ids: Sequence[SagaId]) -> None:
        """Have these sagas go on whose definition is paused no more; those in hand do."""
        new = [saga_id for saga_id in saga_ids if saga_id not in self._resumes_in_hand]
        if new:
            self._resumes_in_hand.update(new)
            self.pending.resumes.extend(new)
            self.has_work.set()

    def put_looks(self, saga_ids: Sequence[SagaId]) -> None:
        """Have these sagas loaded, and their new timeouts armed."""
        if saga_ids:
            self.pending.looks.extend(saga_ids)
            self.has_work.set()

    async def linger(self) -> None:
        wanted = self._records_taken
        if wanted < LINGER_RECORDS_MIN or len(self.pending.records) >= wanted:
            return
        until_s = self._ended_s + min(self._took_s, LINGER_S_MAX)
        left_s = until_s - self._clock.monotonic_s()
        if left_s <= 0:
            return
        self._are_enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await self._are_enough.wait()

    def wait_no_more(self) -> None:
        """Take what is there, even if that is nothing: no more will come."""
        self.has_work.set()
        self._are_enough.set()

    def take(self) -> InboundBatch:
        """As much as belongs into one transaction."""
        pending = self.pending
        records, revisits = pending.records, pending.revisits
        taken, to_revisit = records[:BATCH_RECORDS_MAX], revisits[:REVISITS_MAX]
        batch = InboundBatch(taken, pending.due, to_revisit, pending.looks)
        batch.resumes = pending.resumes[:REVISITS_MAX]
        self.pending = InboundBatch(records[BATCH_RECORDS_MAX:], revisits=revisits[REVISITS_MAX:])
        self.pending.resumes = pending.resumes[REVISITS_MAX:]
        self.is_abandoned = False
        self._records_taken = len(batch.records)
        if not self.pending:
            self.has_work.clear()
        return batch

    def begin(self) -> None:
        self.is_busy = True
        self._began_s = self._clock.monotonic_s()

    def end(self, batch: InboundBatch) -> None:
        """It is over with *batch*; its timers and revisits may come again."""
        self.is_busy = False
        self._ended_s = self._clock.monotonic_s()
        self._took_s = self._ended_s - self._began_s
        if batch.due:
            self._timers_in_hand.difference_update([timer.timer_id for timer in batch.due])
        self._revisits_in_hand.difference_update(batch.revisits)
        self._resumes_in_hand.difference_update(batch.resumes)

    async def finish_or_abandon(self, within_s: float) -> bool:
        """Have all records in hand dealt with before others may read them; whether they were.

        Otherwise waiting ones are dropped; those being decided are not tried again.
        """
        until_s = self._clock.monotonic_s() + within_s
        while True:
            # The first sleep also lets in what was fetched a moment ago.
            await self._clock.sleep(REVOCATION_POLL_S)
            if not self.has_records:
                return True
            if self._clock.monotonic_s() >= until_s:
                log.warning("records in hand were not done in time and are left to other workers")
                self.pending.records.clear()
                self.is_abandoned = True
                return False
