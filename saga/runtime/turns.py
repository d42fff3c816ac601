"""Taking turns: hops 3 to 6 of every message, for a whole batch at once.

The order is the promise. Nothing is published before it is stored; what is stored names the
positions that it accounts for; memory that is ahead of the store is thrown away. A saga whose own
code raises is parked with the record it choked on, and the rest of the batch goes on.
"""

from __future__ import annotations

import asyncio
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
from saga.logs import get_logger
from saga.ports import Appended, Clock, EventStore
from saga.runtime import parking
from saga.runtime.aside import Aside
from saga.runtime.draft import Draft
from saga.runtime.live import Lifeless, Live, LiveSagas
from saga.runtime.outgoing import Outgoing
from saga.runtime.relay import Relay
from saga.runtime.router import Router, Unfit, Visit
from saga.runtime.watch import Ending, Watchers
from saga.runtime.work import Outdated, TurnRaised, Work

log = get_logger("saga.turns")


@dataclass(frozen=True, slots=True)
class Taken:
    """Turns that are stored, and for whose sagas `Turns.publish` is to follow."""

    draft: Draft
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
        live: LiveSagas,
        store: EventStore,
        aside: Aside,
        outgoing: Outgoing,
        relay: Relay,
        names: TopicNames,
        clock: Clock,
        watchers: Watchers,
    ) -> None:
        self._router = router
        self._live = live
        self._store = store
        self._aside = aside
        self._outgoing = outgoing
        self._relay = relay
        self._names = names
        self._clock = clock
        self._watchers = watchers
        self._busy: set[SagaId] = set()
        self._freed = asyncio.Event()

    async def take_turns(self, work: Work) -> Taken:
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
        visits, unfit = await self._understand(work, at)
        saga_ids = list(dict.fromkeys(visit.saga_id for visit in visits))
        await self._check_out(saga_ids)
        try:
            draft = await self._decide(visits, unfit, at, saga_ids)
            appended = await self._append(draft, work)
        except BaseException:
            self._check_in(saga_ids)
            raise
        if draft.unparked:
            draft.revisits.update(work.revisits)  # there may be more behind what was held
        return Taken(draft, appended, saga_ids)

    async def publish(self, taken: Taken) -> None:
        """Publish what was stored, and tell who waits for a saga that it has ended."""
        try:
            await self._publish(taken.draft, taken.appended)
        finally:
            self._check_in(taken.saga_ids)
        self._follow_up(taken.draft)

    async def _understand(self, work: Work, at: Instant) -> tuple[list[Visit], list[Unfit]]:
        visits: list[Visit] = []
        unfit: list[Unfit] = []
        for saga_id in work.revisits:
            for record in await self._aside.held_behind(saga_id):
                inbound = parking.inbound_of(record)
                found = self._router.understand(inbound, at, held_id=record.parked_id)
                if isinstance(found, Unfit):
                    unfit.append(found)
                    continue
                for visit in found:
                    # A record that concerns several sagas was held for this one only.
                    if visit.saga_id == saga_id:
                        visit.held_at = record.parked_at
                        visits.append(visit)
        understand = self._router.understand
        for inbound in work.inbound:
            found = understand(inbound, at)
            if isinstance(found, Unfit):
                unfit.append(found)
            else:
                visits.extend(found)
        for timer in work.due:
            event = Event(TimerFired(timer_id=timer.timer_id), at, MessageId(timer.timer_id))
            visits.append(Visit(timer.saga_id, event, None))
        return visits, unfit

    async def _decide(
        self,
        visits: Sequence[Visit],
        unfit: Sequence[Unfit],
        at: Instant,
        saga_ids: Sequence[SagaId],
    ) -> Draft:
        """Hops 4 and 5.

        A turn that raises leaves its state half changed, so all begin again without it; and so they
        do, from the store, where memory may be behind.
        """
        failures: dict[int, Exception] = {}
        while True:
            draft = Draft(at, remembered=self._live.among(saga_ids))
            found = await self._live.load(saga_ids) if saga_ids else {}
            for refused in unfit:
                self._aside.bury(
                    draft,
                    refused.inbound,
                    refused.reason,
                    refused.message,
                    held_id=refused.held_id,
                )
            try:
                has_raised = self._visit_all(draft, found, visits, failures)
            except Outdated:
                continue  # what was in memory has left it, and the store is asked
            if not has_raised:
                await self._aside.mark_corrupt(draft)
                draft.visited = [saga for saga in found.values() if isinstance(saga, Live)]
                return draft

    def _visit_all(
        self,
        draft: Draft,
        found: dict[SagaId, Live | Lifeless],
        visits: Sequence[Visit],
        failures: dict[int, Exception],
    ) -> bool:
        """Whether a turn has raised that is not among *failures*, where it is noted: all such turns
        of a batch are found in one go, as each concerns its own saga only.
        """
        broken: set[SagaId] = set()
        for index, visit in enumerate(visits):
            saga_id = visit.saga_id
            if saga_id in broken:
                continue
            try:
                self._visit(draft, found, visit, failures.get(index))
            except TurnRaised as raised:
                failures[index] = raised.error
                broken.add(saga_id)
                log.exception(
                    "turn failed", saga_id=saga_id, error=str(raised), exc_info=raised.error
                )
        return bool(broken)

    def _visit(
        self,
        draft: Draft,
        found: dict[SagaId, Live | Lifeless],
        visit: Visit,
        failure: Exception | None,
    ) -> None:
        saga = found.get(visit.saga_id)
        if isinstance(saga, Lifeless):
            draft.lifeless[saga.saga_id] = saga
            self._aside.hold(draft, visit, saga.code, saga.reason)
            return
        if saga is None:
            if visit.starts is None:
                self._aside.early(draft, visit)
                return
            decider = visit.starts.decider
            state = decider.initial_state(visit.saga_id)
            saga = found[visit.saga_id] = Live(visit.saga_id, decider, state, 0, draft.at)
        if saga.state.is_poisoned and not visit.is_operator:
            self._ask_the_store(draft, visit)
            fact = visit.event.fact
            if isinstance(fact, TimerFired) and fact.timer_id not in saga.state.timers:
                draft.cleared.append(fact.timer_id)  # somebody was quicker; nothing is to come
                return
            self._aside.hold(draft, visit, "behind_failed_turn", "held until the saga is released")
            return
        if self._is_out_of_turn(draft, saga, visit):
            self._aside.hold(draft, visit, "behind_held", "records held before it go first")
            draft.revisits.add(visit.saga_id)
            return
        if failure is not None:
            self._fail(draft, saga, visit, failure)
        else:
            self._handle(draft, saga, visit)

    def _is_out_of_turn(self, draft: Draft, live: Live, visit: Visit) -> bool:
        if visit.is_operator or visit.held_id:
            return False
        # What came early waits for the trigger; a trigger whose turn failed comes before others.
        if visit.starts is not None and live.version == 0:
            return False
        is_behind = visit.saga_id in self._aside.sagas or visit.saga_id in draft.holding
        return visit.inbound is not None and is_behind

    def _handle(self, draft: Draft, live: Live, visit: Visit) -> None:
        event = visit.event
        problem = self._router.misfit(live.state, visit)
        if problem is not None:
            self._aside.refuse(draft, visit, *problem)
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
            self._ask_the_store(draft, visit)
        draft.counts[decision.disposition.value] += 1
        match decision.disposition:
            case Disposition.RECORDED:
                has_started = live.version == len(decision.intents) + 1
                draft.note_change(live, has_started=has_started, before=before)
                if visit.is_operator or visit.starts is not None:
                    draft.revisits.add(live.saga_id)
            case Disposition.CONFLICT | Disposition.UNKNOWN:
                message = "the same id came before with another content"
                if decision.disposition is Disposition.UNKNOWN:
                    message = "no such intent was ever issued"
                self._aside.refuse(draft, visit, decision.disposition.value, message)
                return
            case _:
                pass
        self._done_with(draft, visit)

    def _ask_the_store(self, draft: Draft, visit: Visit) -> None:
        """What leaves no entry is not held against the history's version when it is appended. Where
        a later history might say otherwise, memory alone does not decide it.
        """
        if visit.saga_id in draft.remembered:
            raise Outdated(visit.saga_id)

    def _record(self, draft: Draft, live: Live, event: Event, intents: Sequence[object]) -> None:
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
        draft.touch(live).entries.extend(entries)
        live.version += len(entries)
        draft.note_timers(live.saga_id, intents)  # type: ignore[arg-type]  # the decision's own

    def _fail(self, draft: Draft, live: Live, visit: Visit, error: Exception) -> None:
        """The saga's own code raised on this visit: record that, and hold the record."""
        text = f"{type(error).__name__}: {error}"
        draft.counts["failed_turns"] += 1
        if live.state.status.is_ended:
            self._aside.refuse(draft, visit, "turn_failed", text)
            return
        position = visit.inbound.position if visit.inbound is not None else None
        unborn = not live.state.is_started
        starting = visit.event.fact if isinstance(visit.event.fact, SagaStarted) else None
        fact = TurnFailed(
            error=text,
            position="/".join(str(part) for part in position) if position else None,
            definition=live.decider.name if unborn else None,
            definition_version=live.decider.version if unborn else None,
            key=starting.key if starting is not None else None,
        )
        event = Event(fact, draft.at, MessageId(f"{visit.event.cause}/failed/{live.version}"))
        before = live.state.status
        decision = live.decider.handle(live.state, event)
        self._record(draft, live, event, decision.intents)
        draft.note_change(live, has_started=False, before=before)
        self._aside.hold(draft, visit, "turn_failed", text)

    def _done_with(self, draft: Draft, visit: Visit) -> None:
        if visit.held_id:
            draft.unparked.append(visit.held_id)
        fact = visit.event.fact
        if isinstance(fact, TimerFired) and fact.timer_id not in draft.armed:
            draft.cleared.append(fact.timer_id)

    async def _append(self, draft: Draft, work: Work) -> Appended:
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

    async def _publish(self, draft: Draft, appended: Appended) -> None:
        strangers = draft.strangers
        await self._relay.publish(
            appended, draft.outgoing, strangers=[live.saga_id for live in strangers]
        )
        if appended.backlog_id is not None:
            for live in strangers:
                live.has_unknown_past = False

    def _follow_up(self, draft: Draft) -> None:
        for saga_id, touched in draft.touched.items():
            state = touched.live.state
            is_over = state.status.is_ended or state.status is SagaStatus.PARKED
            if is_over and self._watchers.is_watched(saga_id):
                ending = Ending(state.status, state.outcome, state.reason, state.residue)
                self._watchers.tell(saga_id, ending)

    async def _check_out(self, saga_ids: Sequence[SagaId]) -> None:
        """Wait until nobody in this process has a turn of these sagas, and have theirs."""
        while not self._busy.isdisjoint(saga_ids):
            self._freed.clear()
            await self._freed.wait()
        self._busy.update(saga_ids)

    def _check_in(self, saga_ids: Sequence[SagaId]) -> None:
        self._busy.difference_update(saga_ids)
        self._freed.set()
