"""Taking turns: hops 3 to 6 of every message, for a whole batch at once.

Nothing is published before it is stored, and memory that is ahead of the store is thrown away. A
saga whose own code raises is parked, its record is deferred, and the rest of the batch goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, TypeAlias

from saga.core.events import Event, PauseScope, Resumed, TimerFired, TurnFailed
from saga.core.identity import Instant, MessageId, SagaId
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
from saga.ports import Appended, EventStore, HistoryAppend
from saga.ports.store import DeadLetterReason, SkipReason
from saga.runtime import acting
from saga.runtime.conflicts import AGAIN_MAX, Contention
from saga.runtime.deferred import DeferredRecords
from saga.runtime.dispatcher import Dispatcher, Outdated, TurnRaised
from saga.runtime.lines import write_lines
from saga.runtime.middleware import AroundTurn
from saga.runtime.migration_turn import sagas_to_migrate
from saga.runtime.outcomes import OutcomeWaiters
from saga.runtime.pauses import DefinitionAct, Pauses
from saga.runtime.reaching import deliveries_in
from saga.runtime.relay import Relay
from saga.runtime.router import Delivery, Rejected, Router, Shared, Skipped
from saga.runtime.saga_cache import (
    LONG_HISTORY_ADVICE,
    LONG_HISTORY_ENTRIES,
    LoadedSaga,
    SagaCache,
    let_go,
)
from saga.runtime.store_clock import StoreClock
from saga.runtime.unhandled import append_letter
from saga.runtime.unit_of_work import InboundBatch, UnitOfWork, suspects
from saga.users_code import log_raised

_Other: TypeAlias = Rejected | Skipped | DefinitionAct
_NUDGE: Final = Resumed(reason="", scope=PauseScope.DEFINITION)
_SAGA_ID: Final = attrgetter("saga_id")
_RERUN_OF: Final = attrgetter("rerun_of")
_STILL: Final = ENDED | {SagaStatus.PARKED}
log = logging.getLogger(__name__)


@value
class CommittedBatch:
    """Turns that are stored, and for whose sagas `Turns.publish` is to follow."""

    unit: UnitOfWork
    appended: Appended
    saga_ids: Sequence[SagaId]


class Turns:
    dispatcher_type: type[Dispatcher] = Dispatcher

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
        self._dispatcher = self.dispatcher_type(
            router=router, deferred=deferred, encoder=relay.encoder, pauses=pauses, around=around
        )
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
        reruns = filter(None, map(_RERUN_OF, deliveries))
        saga_ids = list(dict.fromkeys([*map(_SAGA_ID, deliveries), *reruns, *batch.looks]))
        while not self._busy.isdisjoint(saga_ids):
            self._freed.clear()
            await self._freed.wait()
        self._busy.update(saga_ids)
        try:
            unit = await self._decide(deliveries, others, at, saga_ids, failures)
            try:
                self._dispatcher.look_at(unit, batch.looks)
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
            self._dispatcher.note(
                unit, saga, TurnFailed(error=storable(reason)), f"{saga_id}/refused"
            )
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
        await self._cache.keep_snapshots()

    def is_running(self, saga_id: SagaId) -> bool:
        """Whether the next turn of a saga is taken here, as far as is known: it does not stand."""
        if saga_id in self._busy:
            return True
        saga = self._cache.get(saga_id)
        return saga is not None and saga.state.status not in _STILL

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
            deliveries.append(Delivery(timer.saga_id, event, None, timer=timer))
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
            sagas, possibly_stale = await self._contention.load(saga_ids)
            unit = UnitOfWork(at, sagas=sagas, remembered=possibly_stale)
            is_decided = False
            try:
                if migrating := sagas_to_migrate(deliveries):
                    unit.to_migrate = await self._cache.histories_of(sagas, migrating)
                self._note_others(unit, others)
                if not self._deliver_all(unit, deliveries, failures):
                    await self._complete(unit)
                    is_decided = True
                    return unit
            except Outdated:
                pass  # what was in memory leaves it, and the store is asked
            finally:
                if not is_decided:
                    let_go(unit.sagas.values())
            if failures:
                await self._ask_for_limits(failures, asked)

    def _note_others(self, unit: UnitOfWork, others: Sequence[_Other]) -> None:
        """Note the records that are not delivered."""
        for other in others:
            if isinstance(other, Skipped):
                unit.skip(other)
            elif isinstance(other, DefinitionAct):
                acting.pause(self._pauses, unit, other)
            else:
                unit.reject(other)

    async def _complete(self, unit: UnitOfWork) -> None:
        """Ask the store what else an append says: of early events, and of what cannot be loaded."""
        early = len(unit.unhandled.early_events)
        if early:
            unit.keep_early(await self._deferred.room_for_events(early))
        unloadable = unit.unloadable
        if unloadable:
            unit.summaries = await self._cache.summaries_of(unloadable, unit.at)

    async def _append_decided(
        self, unit: UnitOfWork, batch: InboundBatch, deliveries: Sequence[Delivery]
    ) -> Appended:
        """Append, and decide anew only for sagas that other workers have moved on meanwhile."""
        for _ in range(AGAIN_MAX):
            try:
                return await self._append(unit, batch)
            except PausesChanged:
                raise
            except HistoryConflict as conflict:
                again = await self._contention.take_out_moved(unit, deliveries, conflict)
                if not again or self._cannot_decide(unit, again):
                    raise
        return await self._append(unit, batch)

    def _cannot_decide(self, unit: UnitOfWork, deliveries: Sequence[Delivery]) -> bool:
        """Whether a turn raises, or memory is behind: then the batch begins anew."""
        try:
            return self._deliver_all(unit, deliveries, {})
        except Outdated:
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
        deliver = self._dispatcher.deliver
        for index, delivery in enumerate(deliveries):
            saga_id = delivery.saga_id
            if saga_id in broken:
                continue
            try:
                deliver(unit, delivery, failures.get(index))
            except TurnRaised as raised:
                failures[index] = raised.error
                broken.add(saga_id)
                text, reason = "turn failed: saga %s: %s", str(raised)
                place = {"saga_id": saga_id, "reason": reason}
                log_raised(log, logging.ERROR, text, saga_id, reason, error=raised.error, **place)
        return bool(broken)

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
        for saga in unit.changed.values():
            if saga.version - saga.before >= LONG_HISTORY_ENTRIES:
                _tell_of_length(saga, unit.histories[saga.saga_id])
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


class Unstorable(Exception):
    """Raised where the store refuses something in a batch, with *error*; nothing was recorded."""

    def __init__(self, error: Exception) -> None:
        super().__init__(described(error))
        self.error = error


def _is_known(error: Exception) -> bool:
    """Whether *error* is trouble that passes, or a conflict, and not something in the batch."""
    if not isinstance(error, SagaError):
        return False
    return error.retriable or not isinstance(error, DeliveryError)
