"""Taking turns: hops 3 to 6 of every message, for a whole batch at once.

Nothing is published before it is stored, and memory that is ahead of the store is thrown away. A
saga whose own code raises is parked, its record is deferred, and the rest of the batch goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

from saga.core.decider import RECORDED, Disposition
from saga.core.events import (
    Event,
    Fact,
    PauseScope,
    Resumed,
    SagaStarted,
    TimerFired,
    TimersAdded,
    TurnFailed,
)
from saga.core.history import RecordedTurn
from saga.core.identity import Instant, MessageId, SagaId
from saga.core.intents import Continued, Intent
from saga.core.status import ENDED, SagaStatus
from saga.core.texts import described, storable
from saga.core.values import value
from saga.errors import (
    BusUnavailable,
    DeliveryError,
    HistoryConflict,
    MessageTooLarge,
    PausesChanged,
    SagaError,
)
from saga.ports import Appended, EventStore, HistoryAppend, Record
from saga.ports.store import DeadLetterReason, DeferralReason, SkipReason
from saga.runtime import acting
from saga.runtime.conflicts import AGAIN_MAX, Contention
from saga.runtime.deferred import DeferredRecords
from saga.runtime.lines import write_lines
from saga.runtime.middleware import AroundTurn, info_of, taken_within
from saga.runtime.notices import GIVING_UP, notices
from saga.runtime.outcomes import OutcomeWaiters
from saga.runtime.pauses import DefinitionAct, Pauses
from saga.runtime.reaching import (
    deliveries_in,
    given_up_at,
    is_reached,
    needs_no_code,
    wait_for_saga,
    was_issued,
)
from saga.runtime.relay import Relay
from saga.runtime.router import Delivery, Reason, Rejected, Router, Shared, Skipped
from saga.runtime.saga_cache import (
    LONG_HISTORY_ADVICE,
    LONG_HISTORY_ENTRIES,
    LoadedSaga,
    SagaCache,
    UnloadableSaga,
    let_go,
    without_code,
)
from saga.runtime.store_clock import StoreClock
from saga.runtime.unhandled import append_letter
from saga.runtime.unit_of_work import CHANGES_OF_TIMERS, InboundBatch, UnitOfWork, suspects
from saga.users_code import is_ours, log_raised

_Other: TypeAlias = Rejected | Skipped | DefinitionAct
_NUDGE: Final = Resumed(reason="", scope=PauseScope.DEFINITION)
_RECORDED: Final = RECORDED.value
_NOTEWORTHY: Final = CHANGES_OF_TIMERS | GIVING_UP
_STILL: Final = ENDED | {SagaStatus.PARKED}
log = logging.getLogger(__name__)


@value
class CommittedBatch:
    """Turns that are stored, and for whose sagas `Turns.publish` is to follow."""

    unit: UnitOfWork
    appended: Appended
    saga_ids: Sequence[SagaId]


class Turns:
    def __init__(
        self,
        *,
        router: Router,
        cache: SagaCache,
        store: EventStore,
        deferred: DeferredRecords,
        relay: Relay,
        clock: StoreClock,
        waiters: OutcomeWaiters,
        pauses: Pauses,
        around: Sequence[AroundTurn] = (),
    ) -> None:
        self._pauses = pauses
        self._router = router
        self._cache = cache
        self._contention = Contention(cache)
        self._store = store
        self._deferred = deferred
        self._relay = relay
        self._clock = clock
        self._waiters = waiters
        self.on_end: Callable[[SagaId], None] | None = None
        """Told of each saga whose end is stored, where somebody wants to know."""
        self._around = around
        self._busy: set[SagaId] = set()
        self._freed = asyncio.Event()

    async def take_turns(self, batch: InboundBatch) -> CommittedBatch:
        """Take all turns that *batch* calls for, and store them in one transaction.

        Until `publish` has ended, this process takes no other turn of a saga in it, so that its
        intents leave in the order of its history.

        Raises:
            HistoryConflict: another worker was first, or what is paused has changed; nothing was
                recorded.
            AlreadyRecorded: another worker has handled some of the records; nothing was recorded.
            StoreUnavailable: try again; nothing was recorded.
            Unstorable: something in it cannot be recorded; take it apart, then `set_aside`.
        """
        return await self._take_turns(batch, {})

    async def _take_turns(
        self, batch: InboundBatch, failures: dict[int, BaseException]
    ) -> CommittedBatch:
        """*failures* are those of deliveries that are known; others are noted there."""
        at = await self._clock.read()
        await self._pauses.know()
        deliveries, others = await self._understand(batch, at)
        saga_ids = list(
            dict.fromkeys(
                [
                    *[delivery.saga_id for delivery in deliveries],
                    *[each.rerun_of for each in deliveries if each.rerun_of is not None],
                    *batch.looks,
                ]
            )
        )
        while not self._busy.isdisjoint(saga_ids):
            self._freed.clear()
            await self._freed.wait()
        self._busy.update(saga_ids)
        try:
            unit = await self._decide(deliveries, others, at, saga_ids, failures)
            try:
                self._look_at(unit, batch.looks)
                appended = await self._append_decided(unit, batch, deliveries)
            except BaseException as error:
                if isinstance(error, PausesChanged):
                    self._pauses.forget()
                let_go(unit.sagas.values())
                raise
        except BaseException:
            self._check_in(saga_ids)
            raise
        self._pauses.learn(unit.pauses.values())
        if unit.unhandled.handled:
            unit.revisits.update(batch.revisits)  # more may be deferred behind what was handled
        return CommittedBatch(unit, appended, saga_ids)

    async def set_aside(self, batch: InboundBatch, error: BaseException) -> CommittedBatch:
        """Take *batch*, a single record, timer or revisit, whose append raised *error*.

        Its saga parks with that, and the record waits behind it. Where the store takes not even
        that, the record becomes a dead letter, with what the store takes of it.

        Raises:
            What `take_turns` does, but Unstorable.
        """
        deliveries, _ = await self._understand(batch, self._clock.now())
        for blamed in suspects(len(deliveries)):
            try:
                return await self._take_turns(batch, dict.fromkeys(blamed, error))
            except Unstorable as again:
                log.error("nor that its saga parks: %s", again, extra={"reason": str(again)})  # noqa: TRY400
        unit = UnitOfWork(self._clock.now(), positions=batch.positions())
        appended = Appended(None)
        for record in batch.records:
            unit.reject(Rejected(record, DeadLetterReason.UNSTORABLE, described(error)))
            (letter,) = unit.unhandled.dead_letters
            try:
                await self._relay.publish_dead_letters([letter])
            except Exception as failure:
                log.exception("a copy is left out", extra={"reason": described(failure)})
            appended = await append_letter(
                self._store, letter, positions=unit.positions, at=unit.at
            )
        return CommittedBatch(unit, appended, ())

    async def park(self, saga_id: SagaId, reason: str) -> None:
        """Record that a saga cannot go on, for a *reason* found after its turn was stored.

        Nothing where it stands still already, or has ended. Raises what `take_turns` does.
        """
        while saga_id in self._busy:
            self._freed.clear()
            await self._freed.wait()
        self._busy.add(saga_id)
        unit = UnitOfWork(Instant(0))
        try:
            unit.at = await self._clock.read()
            unit.sagas = await self._cache.load([saga_id])
            saga = unit.sagas.get(saga_id)
            if not isinstance(saga, LoadedSaga):
                return
            before = saga.state.status
            if saga.state.is_poisoned or before.is_ended:
                self._cache.keep(saga)
                return
            self._note(unit, saga, TurnFailed(error=storable(reason)), f"{saga_id}/refused")
            unit.count_change(saga, has_started=False, before=before)
            await self._append(unit, InboundBatch())
        except BaseException:
            let_go(unit.sagas.values())
            raise
        finally:
            self._check_in([saga_id])
        self._waiters.tell(saga_id, SagaStatus.PARKED, reason=reason)

    async def publish(self, committed: CommittedBatch) -> None:
        try:
            await self._publish(committed.unit, committed.appended.backlog_id)
        finally:
            self._check_in(committed.saga_ids)
        if self._waiters.answers:
            self._waiters.answers.wake(committed.unit.changed)
        awaited = self._waiters.awaited
        for reached in committed.unit.reached:
            saga_id, state = reached.saga.saga_id, reached.saga.state
            if state.status in _STILL and saga_id in awaited:
                told = state.outcome, state.reason, state.residue
                self._waiters.tell(saga_id, state.status, *told)
            if self.on_end is not None and state.status in ENDED:
                self.on_end(saga_id)

    def forget(self) -> None:
        """Let go of all sagas in memory, whose code is not to run on behind a service's end."""
        self._cache.clear()

    async def _understand(
        self, batch: InboundBatch, at: Instant
    ) -> tuple[list[Delivery], list[_Other]]:
        """What is delivered, and the records that are not."""
        deliveries: list[Delivery] = []
        others: list[_Other] = []
        understand = self._router.understand
        for saga_id in batch.revisits:
            for record in await self._deferred.behind(saga_id):
                found = understand(record.inbound, at, deferred_id=record.record_id)
                if not isinstance(found, (list, Shared)):
                    others.append(found)
                    continue
                # A record that concerns several sagas was deferred for this one only.
                ours = [each for each in deliveries_in(found) if saga_id in each.concerned]
                for delivery in ours:
                    delivery.deferred_at = record.kept_at
                    if delivery.saga_id != saga_id:
                        delivery.deferred_id = 0  # what was deferred is the act on the ended one
                deliveries += ours
                if not ours:  # the code at hand says that it concerns another saga
                    nobodys = Skipped(record.inbound, SkipReason.NOT_LISTENED, record.record_id)
                    others.append(found.rejected if isinstance(found, Shared) else nobodys)
        for inbound in batch.records:
            found = understand(inbound, at)
            if isinstance(found, list):
                deliveries.extend(found)
            elif isinstance(found, Shared):
                deliveries.extend(found.deliveries)
                others.append(found.rejected)
            else:
                others.append(found)
        for timer in batch.due:
            # It was due: where a later measurement of the clock says less, that one is coarser.
            due = max(at, timer.due_at)
            event = Event(TimerFired(timer_id=timer.timer_id), due, MessageId(timer.timer_id))
            deliveries.append(Delivery(timer.saga_id, event, None))
        for saga_id in batch.resumes:
            event = Event(_NUDGE, at, MessageId(f"{saga_id}/resume"))
            deliveries.append(Delivery(saga_id, event, None, is_nudge=True))
        return deliveries, others

    async def _decide(
        self,
        deliveries: Sequence[Delivery],
        others: Sequence[_Other],
        at: Instant,
        saga_ids: Sequence[SagaId],
        failures: dict[int, BaseException],
    ) -> UnitOfWork:
        """Hops 4 and 5, again without turns that raised, and from the store if memory is behind."""
        asked: set[str] = set()
        while True:
            unit = UnitOfWork(at, sagas=self._cache.take(saga_ids))
            await self._contention.drop_stale(unit.sagas)
            unit.remembered = set(unit.sagas)
            await self._cache.complete(unit.sagas, saga_ids)
            for other in others:
                if isinstance(other, Skipped):
                    unit.skip(other)
                elif isinstance(other, DefinitionAct):
                    acting.pause(self._pauses, unit, other)
                else:
                    unit.reject(other)
            has_raised = True
            try:
                has_raised = self._deliver_all(unit, deliveries, failures)
            except _Outdated:
                pass  # what was in memory leaves it, and the store is asked
            finally:
                if has_raised:
                    let_go(unit.sagas.values())
            if has_raised and failures:
                await self._ask_for_limits(failures, asked)
            if not has_raised:
                early = len(unit.unhandled.early_events)
                if early:
                    unit.keep_early(await self._deferred.room_for_events(early))
                unloadable = unit.unloadable
                if unloadable:
                    unit.summaries = await self._cache.summaries_of(unloadable, at)
                return unit

    async def _append_decided(
        self, unit: UnitOfWork, batch: InboundBatch, deliveries: Sequence[Delivery]
    ) -> Appended:
        """Append, and decide anew only for sagas that other workers have moved on meanwhile."""
        for _ in range(AGAIN_MAX):
            try:
                return await self._append(unit, batch)
            except PausesChanged:
                raise
            except HistoryConflict:
                again = await self._contention.take_out_moved(unit, deliveries)
                if not again or self._cannot_decide(unit, again):
                    raise
        return await self._append(unit, batch)

    def _cannot_decide(self, unit: UnitOfWork, deliveries: Sequence[Delivery]) -> bool:
        """Whether a turn raises, or memory is behind: then the batch begins anew."""
        try:
            return self._deliver_all(unit, deliveries, {})
        except _Outdated:
            return True

    async def _ask_for_limits(self, failures: dict[int, BaseException], asked: set[str]) -> None:
        """Take back *failures* by limits of topics that were raised meanwhile."""
        refused = {
            index: error.topic
            for index, error in failures.items()
            if type(error) is MessageTooLarge  # users' own may not be looked at in any other way
        }
        exceeded = {index: topic for index, topic in refused.items() if topic not in asked}
        topics = {topic for topic in exceeded.values() if topic is not None}
        asked |= topics
        try:
            if topics and await self._relay.learn_limits(topics):
                for index in exceeded:
                    del failures[index]
        except BusUnavailable as error:  # what was known counts
            log.info("cannot look for limits: %s", error, extra={"reason": str(error)})

    def _deliver_all(
        self, unit: UnitOfWork, deliveries: Sequence[Delivery], failures: dict[int, BaseException]
    ) -> bool:
        """Whether a turn raised that is not among *failures*, where all of the batch are noted."""
        broken: set[SagaId] = set()
        if unit.pauses_seen is None:  # else some of it was decided with what was known before
            unit.pauses_seen = self._pauses.seen
        for index, delivery in enumerate(deliveries):
            saga_id = delivery.saga_id
            if saga_id in broken:
                continue
            try:
                self._deliver(unit, delivery, failures.get(index))
            except _TurnRaised as raised:
                failures[index] = raised.error
                broken.add(saga_id)
                text, reason = "turn failed: saga %s: %s", str(raised)
                place = {"saga_id": saga_id, "reason": reason}
                log_raised(log, logging.ERROR, text, saga_id, reason, error=raised.error, **place)
        return bool(broken)

    def _deliver(self, unit: UnitOfWork, delivery: Delivery, failure: BaseException | None) -> None:
        if delivery.rerun_of is not None and not acting.is_to_begin(unit, delivery):
            return
        saga = unit.sagas.get(delivery.saga_id)
        if not isinstance(saga, LoadedSaga):
            saga = self._brought(unit, saga, delivery)
            if saga is None:
                return
        if delivery.heard_by and not is_reached(saga, delivery):
            unit.let_go(delivery, SkipReason.OTHER_VERSION)
            return
        state = saga.state
        if failure is None:
            if self._pauses.paused or state.pause is not None:
                self._follow_definition(unit, saga, delivery)
            if delivery.is_nudge:
                return
        may_wait = state.is_poisoned or state.is_ahead or self._deferred.sagas
        if (may_wait or unit.unhandled.deferred_behind) and self._waits(unit, saga, delivery):
            return
        if failure is not None:
            self._take_failed(unit, saga, delivery, failure)
        # A saga knows what it has asked for, though not whether in this batch.
        elif saga.saga_id not in unit.changed or self._is_asked_for(unit, saga, delivery):
            if state.unarmed:
                self._add_timers(unit, saga)
            self._handle(unit, saga, delivery)

    def _brought(
        self, unit: UnitOfWork, saga: UnloadableSaga | None, delivery: Delivery
    ) -> LoadedSaga | None:
        """A saga that begins, or as its entries say; None where none can take a delivery."""
        if saga is not None:
            if not self._is_asked_for(unit, saga, delivery):
                return None
            return self._without_code(unit, saga, delivery)
        if delivery.starts is None:
            self._absent(unit, delivery)
            return None
        decider = delivery.starts.decider
        state = decider.initial_state(delivery.saga_id)
        begun = LoadedSaga(delivery.saga_id, decider, state, 0, unit.at, unit.at)
        unit.sagas[delivery.saga_id] = begun
        return begun

    def _without_code(
        self, unit: UnitOfWork, saga: UnloadableSaga, delivery: Delivery
    ) -> LoadedSaga | None:
        """The saga as its entries say, where that is enough for this delivery."""
        if delivery.is_nudge:
            return None
        found = unit.without_code.get(delivery.saga_id) or without_code(saga)
        if found is None or not needs_no_code(found.state, delivery):
            unit.stand_still(delivery, saga)
            return None
        if found.state.has_ended:
            unit.without_code[delivery.saga_id] = found
            self._handle(unit, found, delivery)
            return None
        unit.sagas[delivery.saga_id] = found
        return found

    def _is_asked_for(
        self, unit: UnitOfWork, saga: LoadedSaga | UnloadableSaga, delivery: Delivery
    ) -> bool:
        """Whether a saga can have asked for this before this batch; what it cannot is rejected."""
        intent = delivery.intent
        if intent is None or was_issued(unit, saga, intent):
            return True
        self._ask_the_store(unit, delivery)
        message = "no such intent was issued before this reply came"
        _reject(unit, delivery, DeadLetterReason.UNKNOWN_INTENT, message)
        return False

    def _take_failed(
        self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery, failure: BaseException
    ) -> None:
        """What becomes of a delivery on which a turn of its saga has raised, or was refused."""
        if not self._is_asked_for(unit, saga, delivery):
            return
        if saga.state.unarmed:
            self._add_timers(unit, saga)
        if delivery.abandons:
            saga.let_go()  # to abandon a saga does not need its code
            self._handle(unit, saga, delivery)
        else:
            self._fail(unit, saga, delivery, failure)

    def _follow_definition(self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery) -> None:
        """Write into a history that its definition was paused, or goes on."""
        act = acting.to_follow(self._pauses, saga, delivery)
        if act is None:
            return
        before = saga.state.status
        try:
            self._note(unit, saga, act.fact(), f"{saga.decider.name}/{act.command_id}")
        except BaseException as error:
            if is_ours(error):
                raise
            raise _TurnRaised(error) from error
        if saga.state.status is not before:
            unit.count_change(saga, has_started=False, before=before)

    def _absent(self, unit: UnitOfWork, delivery: Delivery) -> None:
        """The saga is not there; a record whose saga may yet come waits, but not for ever."""
        if delivery.inbound is None or delivery.is_perhaps:
            unit.settle(delivery)
        elif delivery.heard_by:
            wait_for_saga(unit, delivery)
        elif not delivery.may_be_early:
            unit.skip(self._router.absent(delivery))
        elif delivery.deferred_id and unit.at - delivery.deferred_at >= self._deferred.early_us:
            message = f"there is no saga {delivery.saga_id}, and none came in time"
            _reject(unit, delivery, DeadLetterReason.UNKNOWN_SAGA, message)
        else:
            message = f"there is no saga {delivery.saga_id} yet"
            until = given_up_at(unit, delivery, self._deferred.early_us)
            unit.defer(delivery, DeferralReason.EARLY, message, until=until)

    def _waits(self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery) -> bool:
        """Whether a saga that is there cannot take a delivery yet; then that is seen to."""
        if saga.state.is_poisoned and not delivery.is_operator:
            self._ask_the_store(unit, delivery)
            if self._is_asked_for(unit, saga, delivery):
                self._defer_to_release(unit, saga, delivery)
            return True
        if not (saga.state.is_ahead or self._is_out_of_turn(unit, saga, delivery)):
            return False
        if self._is_asked_for(unit, saga, delivery):
            message = "what is before it goes first"
            unit.defer(delivery, DeferralReason.BEHIND_DEFERRED, message)
            unit.revisits.add(saga.saga_id)
        return True

    def _defer_to_release(self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery) -> None:
        fact = delivery.event.fact
        if isinstance(fact, TimerFired) and fact.timer_id not in saga.state.timers:
            unit.settle(delivery)  # another worker was quicker; nothing is to come of it
            return
        message = "deferred until the saga is released"
        reason = DeferralReason.BEHIND_FAILED_TURN
        unit.defer(delivery, reason, message, since=saga.last_at)

    def _is_out_of_turn(self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery) -> bool:
        saga_id = delivery.saga_id
        if saga_id not in self._deferred.sagas and saga_id not in unit.unhandled.deferred_behind:
            return False
        if delivery.is_operator or delivery.deferred_id or delivery.inbound is None:
            return False
        # An early record waits for the trigger; a trigger whose turn failed comes before others.
        return delivery.starts is None or saga.version > 0

    def _handle(self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery) -> None:
        state = saga.state
        misfit = self._router.misfit(state, delivery)
        if misfit is not None:
            _refuse(unit, delivery, misfit)
            return
        if delivery.event.at < saga.last_at:
            # No entry is dated before the one before it, whatever has become of clocks meanwhile.
            delivery.event = replace(delivery.event, at=saga.last_at)
        before, was_poisoned = state.status, state.is_poisoned
        try:
            if self._around or delivery.is_operator:
                decide = partial(acting.decided, unit, saga, delivery)
                decision = taken_within(self._around, info_of(saga, delivery.event), decide)
            else:
                decision = saga.decider.handle(state, delivery.event)
            if decision.disposition is RECORDED:
                self._record(unit, saga, delivery.event, decision.intents)
        except BaseException as error:
            if is_ours(error):
                raise
            # The saga's own code: recorded as a fact once the batch has begun again.
            raise _TurnRaised(error) from error
        if decision.disposition is not RECORDED:
            self._leave_out(unit, saga, delivery, decision.disposition)
            return
        unit.counts[_RECORDED] += 1
        if decision.lines:
            unit.lines = [*(unit.lines or ()), (saga, decision.lines)]
        has_started = saga.turns == 1
        if has_started or state.status is not before:
            unit.count_change(saga, has_started=has_started, before=before)
        if delivery.starts is not None or delivery.is_operator:
            self._let_go_on(unit, saga, delivery, was_poisoned=was_poisoned)
        if delivery.inbound is None or delivery.deferred_id:
            unit.settle(delivery)

    def _let_go_on(
        self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery, *, was_poisoned: bool
    ) -> None:
        """What waits behind this saga may go on: it has begun, or was released."""
        unit.revisits.add(saga.saga_id)
        if was_poisoned and not saga.state.is_poisoned:
            unit.timers.arm_again(saga.state.timers.values(), saga.saga_id)
        if delivery.starts is not None and saga.state.pause is not None:
            self._follow_definition(unit, saga, delivery)

    def _leave_out(
        self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery, disposition: Disposition
    ) -> None:
        """What becomes of a delivery that led to no entry."""
        if disposition is Disposition.UNKNOWN:
            self._ask_the_store(unit, delivery)
        unit.counts[disposition.value] += 1
        match disposition:
            case Disposition.DUPLICATE:
                unit.settle(delivery)
            case Disposition.NO_NEWS if isinstance(fact := delivery.event.fact, TimerFired):
                unit.timers.arm_again([saga.state.timers[fact.timer_id]], saga.saga_id)
            case Disposition.NO_NEWS:
                unit.settle(delivery)
            case Disposition.AFTER_END:
                unit.let_go(delivery, SkipReason.ENDED)
            case Disposition.CONFLICT:
                message = "the same id came before with another content"
                _reject(unit, delivery, DeadLetterReason.ID_CONFLICT, message)
            case Disposition.KEY_TAKEN:
                message = "another trigger, with another content, has begun the saga of this key"
                _reject(unit, delivery, DeadLetterReason.KEY_TAKEN, message)
            case Disposition.UNKNOWN:
                message = "no such intent was ever issued"
                _reject(unit, delivery, DeadLetterReason.UNKNOWN_INTENT, message)
            case _:
                raise AssertionError(disposition)

    def _ask_the_store(self, unit: UnitOfWork, delivery: Delivery) -> None:
        """Begin again from the store: memory alone must not decide what append does not check."""
        if delivery.saga_id in unit.remembered:
            raise _Outdated(delivery.saga_id)

    def _record(
        self, unit: UnitOfWork, saga: LoadedSaga, event: Event, intents: Sequence[Intent]
    ) -> None:
        saga_id, state, encoder = saga.saga_id, saga.state, self._relay.encoder
        fact, parent = event.fact, state.parent
        turn = RecordedTurn(saga_id, saga.version + 1, event, intents)
        outgoing: list[Record] = []
        if intents:
            outgoing = encoder.records_of(
                saga_id,
                event.at,
                event.cause,
                intents,
                definition=saga.decider.name,
                key=state.key,
                traceparent=state.traceparent,
                are_stored=False,
            )
            if not _NOTEWORTHY.isdisjoint(map(type, intents)):
                unit.timers.note(saga_id, intents)
                name, key = saga.decider.name, state.key
                outgoing += [
                    encoder.notice(each, saga=saga_id, at=event.at, definition=name, key=key)
                    for each in notices(state, fact, intents)
                ]
        if parent is not None or (type(fact) is SagaStarted and fact.parent is not None):
            outgoing += encoder.told_to_parent(
                turn,
                parent,
                definition=saga.decider.name,
                key=state.key,
                traceparent=state.traceparent,
                are_stored=False,
            )
        history = unit.histories.get(saga_id)
        if history is None:
            unit.changed[saga_id] = saga
            unit.histories[saga_id] = HistoryAppend(saga_id, saga.turns, [turn])
            unit.outgoing_of[saga_id] = outgoing
        else:
            history.turns.append(turn)
            unit.outgoing_of[saga_id] += outgoing
        if state.run is not None:
            self._note_run(unit, saga, intents)
        saga.version += 1 + len(intents)
        saga.turns += 1
        saga.last_at = event.at

    def _note_run(self, unit: UnitOfWork, saga: LoadedSaga, intents: Sequence[Intent]) -> None:
        """Have the saga loaded from this turn on, where it begins a run."""
        if any(type(intent) is Continued for intent in intents):
            saga.before = saga.version
            unit.runs[saga.saga_id] = saga.turns + 1

    def _look_at(self, unit: UnitOfWork, saga_ids: Sequence[SagaId]) -> None:
        """Arm the new timeouts of sagas that nothing may ever come for."""
        for saga_id in saga_ids:
            saga = unit.sagas.get(saga_id)
            if isinstance(saga, LoadedSaga) and saga.state.unarmed and not saga.state.is_poisoned:
                self._add_timers(unit, saga)

    def _add_timers(self, unit: UnitOfWork, saga: LoadedSaga) -> None:
        """Arm the timeouts that this code has and the history has not, in a turn of its own."""
        self._note(unit, saga, TimersAdded(), f"{saga.saga_id}/timers-added")

    def _note(self, unit: UnitOfWork, saga: LoadedSaga, fact: Fact, cause: str) -> None:
        """Take a turn on a *fact* of our own; it is not dated before the entry before it."""
        at = max(unit.at, saga.last_at)
        event = Event(fact, at, MessageId(f"{cause}/{saga.version}"))
        self._record(unit, saga, event, saga.decider.handle(saga.state, event).intents)

    def _fail(
        self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery, error: BaseException
    ) -> None:
        """The saga's own code raised on this delivery: record that, and defer the record."""
        text = described(error)
        unit.counts["failed_turns"] += 1
        before = saga.state.status
        if before.is_ended and not delivery.undoes:
            _reject(unit, delivery, DeadLetterReason.TURN_FAILED, text)
            return
        started = delivery.event.fact
        fact = TurnFailed(
            error=text,
            position="/".join(map(str, delivery.inbound.position)) if delivery.inbound else None,
            definition=None if saga.state.is_started else saga.decider.name,
            definition_version=None if saga.state.is_started else saga.decider.version,
            key=started.key if isinstance(started, SagaStarted) else None,
        )
        self._note(unit, saga, fact, f"{delivery.event.cause}/failed")
        unit.count_change(saga, has_started=False, before=before)
        unit.defer(delivery, DeferralReason.TURN_FAILED, text)

    async def _append(self, unit: UnitOfWork, batch: InboundBatch) -> Appended:
        if unit.unhandled.dead_letters:
            # Before the positions: a copy may come twice, but none may be missing (CP-14, CP-15).
            try:
                await self._relay.publish_dead_letters(unit.unhandled.dead_letters)
            except Exception as error:
                if _is_known(error):
                    raise
                raise Unstorable(error) from error
        relayed = list(self._relay.relayed)
        unit.positions = batch.positions()
        transaction = unit.batch(relayed)
        began_s = self._clock.monotonic_s()
        try:
            appended = await self._store.append(transaction, at=unit.at)
        except Exception as error:
            if _is_known(error):
                raise
            raise Unstorable(error) from error
        unit.append_s = self._clock.monotonic_s() - began_s
        if relayed:
            self._relay.forget(relayed)
        if unit.unhandled.deferred_behind:
            self._deferred.add(unit.unhandled.deferred_behind)
        self._cache.keep(*unit.sagas.values())
        for saga_id, saga in unit.changed.items():
            if saga.version - saga.before >= LONG_HISTORY_ENTRIES:
                _tell_of_length(saga, unit.histories[saga_id])
        if unit.lines:
            write_lines(unit.lines)
        return appended

    async def _publish(self, unit: UnitOfWork, backlog_id: int | None) -> None:
        if backlog_id is None:
            return  # the store has published all in its own transaction
        sagas = unit.possibly_unpublished
        ids = [saga.saga_id for saga in sagas]
        await self._relay.publish(backlog_id, unit.outgoing, possibly_unpublished=ids)
        for saga in sagas:
            saga.is_possibly_unpublished = False

    def _check_in(self, saga_ids: Sequence[SagaId]) -> None:
        self._busy.difference_update(saga_ids)
        self._freed.set()


def _tell_of_length(saga: LoadedSaga, history: HistoryAppend) -> None:
    """Say once that a history has become long."""
    if saga.length - sum(map(len, history.turns)) < LONG_HISTORY_ENTRIES:
        place = {"saga_id": saga.saga_id, "entries": saga.length}
        text = "saga %s has a history of %d entries, over which its function runs again whenever "
        text += "it is brought back: %s"
        log.warning(text, saga.saga_id, saga.length, LONG_HISTORY_ADVICE, extra=place)


class _TurnRaised(Exception):
    """Raised where a saga's own code has raised *error*."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(described(error))
        self.error = error


class Unstorable(Exception):
    """Raised where the store refuses something in a batch, with *error*; nothing was recorded."""

    def __init__(self, error: Exception) -> None:
        super().__init__(described(error))
        self.error = error


class _Outdated(Exception):
    """Raised where memory would decide and another worker may know more."""


def _is_known(error: Exception) -> bool:
    """Whether *error* is trouble that passes, or a conflict, and not something in the batch."""
    if not isinstance(error, SagaError):
        return False
    return error.retriable or not isinstance(error, DeliveryError)


def _refuse(unit: UnitOfWork, delivery: Delivery, misfit: Rejected | Skipped) -> None:
    """Leave out a record that is not meant for the saga it reached."""
    if isinstance(misfit, Rejected):
        _reject(unit, delivery, misfit.reason, misfit.message)
    elif delivery.is_perhaps:
        unit.settle(delivery)
    else:
        unit.skip(misfit)


def _reject(unit: UnitOfWork, delivery: Delivery, reason: Reason, message: str) -> None:
    """Make a record a dead letter that reached its saga and cannot be meant for it."""
    if delivery.is_perhaps:
        unit.settle(delivery)  # an event that starts sagas, and names an intent as its mere cause
    elif delivery.inbound is not None:
        unit.reject(Rejected(delivery.inbound, reason, message, delivery.deferred_id))
