"""Taking turns: hops 3 to 6 of every message, for a whole batch at once.

The order is the promise. Nothing is published before it is stored; what is stored names the
positions that it accounts for; memory that is ahead of the store is thrown away. A saga whose own
code raises is parked with the record it choked on, and the rest of the batch goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from saga.contracts import TopicNames
from saga.core.decider import Disposition
from saga.core.events import (
    Event,
    SagaStarted,
    TimerFired,
    TurnFailed,
)
from saga.core.history import entries_of_turn
from saga.core.identity import Instant, MessageId, SagaId
from saga.core.status import SagaStatus
from saga.ports import Appended, Clock, EventStore
from saga.ports.store import DeadLetterReason, DeferralReason
from saga.runtime import parking
from saga.runtime.aside import Aside
from saga.runtime.outcomes import OutcomeWaiters, SagaOutcome
from saga.runtime.record_encoder import RecordEncoder
from saga.runtime.relay import Relay
from saga.runtime.router import Delivery, Rejected, Router
from saga.runtime.saga_cache import LoadedSaga, SagaCache, UnloadableSaga
from saga.runtime.unit_of_work import UnitOfWork
from saga.runtime.work import Outdated, TurnRaised, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """Turns that are stored, and for whose sagas `Turns.publish` is to follow."""

    draft: UnitOfWork
    appended: Appended
    saga_ids: Sequence[SagaId]

    @property
    def is_published(self) -> bool:
        """Whether the store has published them in its own transaction."""
        return self.appended.backlog_id is None


class Turns:
    """The runtime in one sentence: load, handle, append, relay."""

    def __init__(
        self,
        *,
        router: Router,
        live: SagaCache,
        store: EventStore,
        aside: Aside,
        outgoing: RecordEncoder,
        relay: Relay,
        names: TopicNames,
        clock: Clock,
        waiters: OutcomeWaiters,
    ) -> None:
        self._router = router
        self._live = live
        self._store = store
        self._aside = aside
        self._outgoing = outgoing
        self._relay = relay
        self._names = names
        self._clock = clock
        self._waiters = waiters
        self._busy: set[SagaId] = set()
        self._freed = asyncio.Event()

    async def take_turns(self, work: Work) -> CommittedBatch:
        """Take all turns that *work* calls for, and store them in one transaction.

        `publish` is to follow: until it has ended, nobody else in this process takes a turn of
        these sagas, so that the intents of one saga leave in the order of its history.

        Raises:
            HistoryConflict: someone else was first; nothing was recorded.
            AlreadyRecorded: someone else has handled some of the records; nothing was recorded.
            StoreUnavailable: try again; nothing was recorded.
            BusUnavailable: try again.
        """
        at = self._clock.now()
        deliveries, rejected = await self._understand(work, at)
        saga_ids = list(dict.fromkeys(delivery.saga_id for delivery in deliveries))
        await self._check_out(saga_ids)
        try:
            draft = await self._decide(deliveries, rejected, at, saga_ids)
            appended = await self._append(draft, work)
        except BaseException:
            self._check_in(saga_ids)
            raise
        if draft.handled:
            draft.revisits.update(work.revisits)  # there may be more behind what was held
        return CommittedBatch(draft, appended, saga_ids)

    async def publish(self, taken: CommittedBatch) -> None:
        """Publish what was stored, and tell who waits for a saga that it has ended."""
        try:
            await self._publish(taken.draft, taken.appended)
        finally:
            self._check_in(taken.saga_ids)
        self._follow_up(taken.draft)

    async def _understand(self, work: Work, at: Instant) -> tuple[list[Delivery], list[Rejected]]:
        deliveries: list[Delivery] = []
        rejected: list[Rejected] = []
        for saga_id in work.revisits:
            for record in await self._aside.deferred_behind(saga_id):
                inbound = parking.inbound_of(record)
                found = self._router.understand(inbound, at, deferred_id=record.record_id)
                if isinstance(found, Rejected):
                    rejected.append(found)
                    continue
                for delivery in found:
                    # A record that concerns several sagas was held for this one only.
                    if delivery.saga_id == saga_id:
                        delivery.deferred_at = record.kept_at
                        deliveries.append(delivery)
        understand = self._router.understand
        for inbound in work.inbound:
            found = understand(inbound, at)
            if isinstance(found, Rejected):
                rejected.append(found)
            else:
                deliveries.extend(found)
        for timer in work.due:
            event = Event(TimerFired(timer_id=timer.timer_id), at, MessageId(timer.timer_id))
            deliveries.append(Delivery(timer.saga_id, event, None))
        return deliveries, rejected

    async def _decide(
        self,
        deliveries: Sequence[Delivery],
        rejected: Sequence[Rejected],
        at: Instant,
        saga_ids: Sequence[SagaId],
    ) -> UnitOfWork:
        """Hops 4 and 5.

        A turn that raises leaves its state half changed, so all begin again without it; and so they
        do, from the store, where memory may be behind.
        """
        failures: dict[int, Exception] = {}
        while True:
            draft = UnitOfWork(at, remembered=self._live.among(saga_ids))
            found = await self._live.load(saga_ids) if saga_ids else {}
            for refused in rejected:
                self._aside.bury(
                    draft,
                    refused.inbound,
                    refused.reason,
                    refused.message,
                    deferred_id=refused.deferred_id,
                )
            try:
                has_raised = self._visit_all(draft, found, deliveries, failures)
            except Outdated:
                continue  # what was in memory has left it, and the store is asked
            if not has_raised:
                await self._aside.mark_corrupt(draft)
                draft.visited = [saga for saga in found.values() if isinstance(saga, LoadedSaga)]
                return draft

    def _visit_all(
        self,
        draft: UnitOfWork,
        found: dict[SagaId, LoadedSaga | UnloadableSaga],
        deliveries: Sequence[Delivery],
        failures: dict[int, Exception],
    ) -> bool:
        """Whether a turn has raised that is not among *failures*, where it is noted: all such turns
        of a batch are found in one go, as each concerns its own saga only.
        """
        broken: set[SagaId] = set()
        for index, delivery in enumerate(deliveries):
            saga_id = delivery.saga_id
            if saga_id in broken:
                continue
            try:
                self._visit(draft, found, delivery, failures.get(index))
            except TurnRaised as raised:
                failures[index] = raised.error
                broken.add(saga_id)
                log.error(  # noqa: TRY400  # of the saga's own error, not of ours around it
                    "turn failed: saga %s: %s",
                    saga_id,
                    raised,
                    exc_info=raised.error,
                    extra={"saga_id": saga_id, "reason": str(raised)},
                )
        return bool(broken)

    def _visit(
        self,
        draft: UnitOfWork,
        found: dict[SagaId, LoadedSaga | UnloadableSaga],
        delivery: Delivery,
        failure: Exception | None,
    ) -> None:
        saga = found.get(delivery.saga_id)
        if isinstance(saga, UnloadableSaga):
            draft.unloadable[saga.saga_id] = saga
            self._aside.hold(draft, delivery, saga.deferral, saga.reason)
            return
        if saga is None:
            if delivery.starts is None:
                self._aside.early(draft, delivery)
                return
            decider = delivery.starts.decider
            state = decider.initial_state(delivery.saga_id)
            saga = found[delivery.saga_id] = LoadedSaga(
                delivery.saga_id, decider, state, 0, draft.at
            )
        if saga.state.is_poisoned and not delivery.is_operator:
            self._ask_the_store(draft, delivery)
            fact = delivery.event.fact
            if isinstance(fact, TimerFired) and fact.timer_id not in saga.state.timers:
                draft.cleared.append(fact.timer_id)  # somebody was quicker; nothing is to come
                return
            self._aside.hold(
                draft,
                delivery,
                DeferralReason.BEHIND_FAILED_TURN,
                "deferred until the saga is released",
            )
            return
        if self._is_out_of_turn(draft, saga, delivery):
            self._aside.hold(
                draft,
                delivery,
                DeferralReason.BEHIND_DEFERRED,
                "records deferred before it go first",
            )
            draft.revisits.add(delivery.saga_id)
            return
        if failure is not None:
            self._fail(draft, saga, delivery, failure)
        else:
            self._handle(draft, saga, delivery)

    def _is_out_of_turn(self, draft: UnitOfWork, live: LoadedSaga, delivery: Delivery) -> bool:
        if delivery.is_operator or delivery.deferred_id:
            return False
        # What came early waits for the trigger; a trigger whose turn failed comes before others.
        if delivery.starts is not None and live.version == 0:
            return False
        is_behind = delivery.saga_id in self._aside.sagas or delivery.saga_id in draft.holding
        return delivery.inbound is not None and is_behind

    def _handle(self, draft: UnitOfWork, live: LoadedSaga, delivery: Delivery) -> None:
        event = delivery.event
        problem = self._router.misfit(live.state, delivery)
        if problem is not None:
            self._aside.refuse(draft, delivery, problem.reason, problem.message)
            return
        before = live.state.status
        try:
            decision = live.decider.handle(live.state, event)
            if decision.disposition is Disposition.RECORDED:
                self._record(draft, live, event, decision.intents)
        except Exception as error:
            # The saga's own code: recorded as a fact once the batch has begun again.
            raise TurnRaised(error) from error
        if decision.disposition is Disposition.UNKNOWN:
            self._ask_the_store(draft, delivery)
        draft.counts[decision.disposition.value] += 1
        match decision.disposition:
            case Disposition.RECORDED:
                has_started = live.version == len(decision.intents) + 1
                draft.note_change(live, has_started=has_started, before=before)
                if delivery.is_operator or delivery.starts is not None:
                    draft.revisits.add(live.saga_id)
            case Disposition.CONFLICT:
                message = "the same id came before with another content"
                self._aside.refuse(draft, delivery, DeadLetterReason.ID_CONFLICT, message)
                return
            case Disposition.UNKNOWN:
                message = "no such intent was ever issued"
                self._aside.refuse(draft, delivery, DeadLetterReason.UNKNOWN_INTENT, message)
                return
            case _:
                pass
        self._done_with(draft, delivery)

    def _ask_the_store(self, draft: UnitOfWork, delivery: Delivery) -> None:
        """What leaves no entry is not held against the history's version when it is appended. Where
        a later history might say otherwise, memory alone does not decide it.
        """
        if delivery.saga_id in draft.remembered:
            raise Outdated(delivery.saga_id)

    def _record(
        self, draft: UnitOfWork, live: LoadedSaga, event: Event, intents: Sequence[object]
    ) -> None:
        state = live.state
        entries = entries_of_turn(live.saga_id, live.version, event, intents)  # type: ignore[arg-type]  # the decision's own
        draft.outgoing.extend(
            self._outgoing.records(
                entries,
                definition=live.decider.name,
                key=state.key,
                traceparent=state.traceparent,
            )
        )
        draft.touch(live).turns.append(entries)
        live.version += len(entries)
        live.turns += 1
        draft.note_timers(live.saga_id, intents)  # type: ignore[arg-type]  # the decision's own

    def _fail(
        self, draft: UnitOfWork, live: LoadedSaga, delivery: Delivery, error: Exception
    ) -> None:
        """The saga's own code raised on this delivery: record that, and hold the record."""
        text = f"{type(error).__name__}: {error}"
        draft.counts["failed_turns"] += 1
        if live.state.status.is_ended:
            self._aside.refuse(draft, delivery, DeadLetterReason.TURN_FAILED, text)
            return
        position = delivery.inbound.position if delivery.inbound is not None else None
        unborn = not live.state.is_started
        starting = delivery.event.fact if isinstance(delivery.event.fact, SagaStarted) else None
        fact = TurnFailed(
            error=text,
            position="/".join(str(part) for part in position) if position else None,
            definition=live.decider.name if unborn else None,
            definition_version=live.decider.version if unborn else None,
            key=starting.key if starting is not None else None,
        )
        event = Event(fact, draft.at, MessageId(f"{delivery.event.cause}/failed/{live.version}"))
        before = live.state.status
        decision = live.decider.handle(live.state, event)
        self._record(draft, live, event, decision.intents)
        draft.note_change(live, has_started=False, before=before)
        self._aside.hold(draft, delivery, DeferralReason.TURN_FAILED, text)

    def _done_with(self, draft: UnitOfWork, delivery: Delivery) -> None:
        if delivery.deferred_id:
            draft.handled.append(delivery.deferred_id)
        fact = delivery.event.fact
        if isinstance(fact, TimerFired) and fact.timer_id not in draft.armed:
            draft.cleared.append(fact.timer_id)

    async def _append(self, draft: UnitOfWork, work: Work) -> Appended:
        if draft.dead:
            copies = [parking.dlq_record(record, self._names) for record in draft.dead]
            # Before the positions: a copy may come twice, but none may be missing (CP-14, CP-15).
            await self._relay.publish_copies([copy for copy in copies if copy is not None])
        relayed = self._relay.relayed()
        batch = draft.batch(work.positions(), relayed)
        began_s = self._clock.monotonic_s()
        appended = await self._store.append(batch, at=draft.at)
        draft.append_s = self._clock.monotonic_s() - began_s
        self._relay.forget(relayed)
        self._aside.sagas |= draft.holding
        for live in draft.visited:
            if live.version > 0:
                self._live.keep(live)
        return appended

    async def _publish(self, draft: UnitOfWork, appended: Appended) -> None:
        strangers = draft.strangers
        await self._relay.publish(
            appended, draft.outgoing, strangers=[live.saga_id for live in strangers]
        )
        if appended.backlog_id is not None:
            for live in strangers:
                live.has_unknown_past = False

    def _follow_up(self, draft: UnitOfWork) -> None:
        for saga_id, touched in draft.touched.items():
            state = touched.live.state
            is_over = state.status.is_ended or state.status is SagaStatus.PARKED
            if is_over and self._waiters.is_awaited(saga_id):
                ending = SagaOutcome(state.status, state.outcome, state.reason, state.residue)
                self._waiters.tell(saga_id, ending)

    async def _check_out(self, saga_ids: Sequence[SagaId]) -> None:
        """Wait until nobody in this process has a turn of these sagas, and have theirs."""
        while not self._busy.isdisjoint(saga_ids):
            self._freed.clear()
            await self._freed.wait()
        self._busy.update(saga_ids)

    def _check_in(self, saga_ids: Sequence[SagaId]) -> None:
        self._busy.difference_update(saga_ids)
        self._freed.set()
