"""Hop 5 for one delivery: what its saga decides on it, or what becomes of it where it cannot.

All that comes of it is noted in the batch's unit of work; nothing is asked of store or bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from saga.core.decider import RECORDED, Disposition
from saga.core.events import (
    Event,
    Fact,
    Migrated,
    SagaStarted,
    TimerFired,
    TimersAdded,
    TurnFailed,
)
from saga.core.history import RecordedTurn
from saga.core.identity import MessageId, SagaId
from saga.core.intents import Continued, Intent
from saga.core.texts import described
from saga.ports import HistoryAppend, Record
from saga.ports.store import DeadLetterReason, DeferralReason, SkipReason
from saga.runtime import acting, migration_turn
from saga.runtime.deferred import DeferredRecords
from saga.runtime.middleware import AroundTurn, info_of, taken_within
from saga.runtime.notices import GIVING_UP, notices
from saga.runtime.pauses import Pauses
from saga.runtime.reaching import (
    given_up_at,
    is_reached,
    needs_no_code,
    wait_for_saga,
    was_issued,
)
from saga.runtime.relay import RecordEncoder
from saga.runtime.router import Delivery, Reason, Rejected, Router, Skipped
from saga.runtime.saga_cache import LoadedSaga, UnloadableSaga, without_code
from saga.runtime.unit_of_work import CHANGES_OF_TIMERS, UnitOfWork
from saga.users_code import is_ours, with_place

_RECORDED: Final = RECORDED.value
_NOTEWORTHY: Final = CHANGES_OF_TIMERS | GIVING_UP


class Dispatcher:
    def __init__(
        self,
        *,
        router: Router,
        deferred: DeferredRecords,
        encoder: RecordEncoder,
        pauses: Pauses,
        around: Sequence[AroundTurn],
    ) -> None:
        self._router = router
        self._deferred = deferred
        self._encoder = encoder
        self._pauses = pauses
        self._around = around

    def deliver(self, unit: UnitOfWork, delivery: Delivery, failure: BaseException | None) -> None:
        """Have a saga take a delivery, on which *failure* was raised before, if any was.

        Raises:
            TurnRaised: the saga's own code raised.
            Outdated: memory would decide, and the store has to.
        """
        if delivery.rerun_of is not None and not acting.is_to_begin(unit, delivery):
            return
        saga = unit.sagas.get(delivery.saga_id)
        if saga is not None and type(delivery.event.fact) is Migrated and failure is None:
            self._migrate(unit, saga, delivery)
            return
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
        self._take(unit, saga, delivery, failure)

    def look_at(self, unit: UnitOfWork, saga_ids: Sequence[SagaId]) -> None:
        """Arm the new timeouts of sagas that nothing may ever come for."""
        for saga_id in saga_ids:
            saga = unit.sagas.get(saga_id)
            if isinstance(saga, LoadedSaga) and saga.state.unarmed and not saga.state.is_poisoned:
                self._add_timers(unit, saga)

    def _migrate(
        self, unit: UnitOfWork, saga: LoadedSaga | UnloadableSaga, delivery: Delivery
    ) -> None:
        """Have a saga go on with the code of another version, or note why it cannot."""
        stands = migration_turn.standing(unit, saga)
        if stands is None:
            unit.stand_still(delivery, saga)  # type: ignore[arg-type]  # none is loaded
            return
        if migration_turn.is_behind(unit, stands):
            raise Outdated(delivery.saga_id)
        if isinstance(saga, UnloadableSaga) and stands.state.has_ended:
            unit.without_code[delivery.saga_id] = stands
        moved = migration_turn.moved_by(unit, saga, stands, delivery, self._router.sagas)
        before = moved.version
        self._handle(unit, moved, delivery)
        if moved is not stands and moved.version > before:
            self._go_on_as(unit, saga, moved)
        elif moved is not stands:
            moved.let_go()  # the command was not for this saga
        elif isinstance(saga, UnloadableSaga):
            migration_turn.stay_unloadable(unit, saga)

    def _go_on_as(
        self, unit: UnitOfWork, saga: LoadedSaga | UnloadableSaga, moved: LoadedSaga
    ) -> None:
        """Have *moved* take the place of a saga; the timers of one that stood still are late."""
        if isinstance(saga, LoadedSaga):
            saga.let_go()
        unit.sagas[saga.saga_id] = unit.changed[saga.saga_id] = moved
        unit.timers.arm_again(moved.state.timers.values(), moved.saga_id)
        if moved.state.unarmed and not moved.state.is_poisoned:
            self._add_timers(unit, moved)

    def note(self, unit: UnitOfWork, saga: LoadedSaga, fact: Fact, cause: str) -> None:
        """Take a turn on a *fact* of our own; it is not dated before the entry before it."""
        at = max(unit.at, saga.last_at)
        event = Event(fact, at, MessageId(f"{cause}/{saga.version}"))
        self._record(unit, saga, event, saga.decider.handle(saga.state, event).intents)

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

    def _take(
        self,
        unit: UnitOfWork,
        saga: LoadedSaga,
        delivery: Delivery,
        failure: BaseException | None,
    ) -> None:
        if failure is not None:
            self._take_failed(unit, saga, delivery, failure)
        # A saga knows what it has asked for, though not whether in this batch.
        elif saga.saga_id not in unit.changed or self._is_asked_for(unit, saga, delivery):
            if saga.state.unarmed:
                self._add_timers(unit, saga)
            self._handle(unit, saga, delivery)

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
            self.note(unit, saga, act.fact(), f"{saga.decider.name}/{act.command_id}")
        except BaseException as error:
            if is_ours(error):
                raise
            raise TurnRaised(error) from error
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
        before, was_poisoned, event = state.status, state.is_poisoned, delivery.event
        try:
            if self._around or delivery.is_operator:
                decide = partial(acting.decided, unit, saga, delivery)
                decision = taken_within(self._around, info_of(saga, event), decide)
            else:
                decision = saga.decider.handle(state, event)
            if decision.disposition is RECORDED:
                self._record(unit, saga, event, decision.intents)
        except BaseException as error:
            if is_ours(error):
                raise
            # The saga's own code: recorded as a fact once the batch has begun again.
            raise TurnRaised(error) from error
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
        is_timer = isinstance(delivery.event.fact, TimerFired)
        if disposition is Disposition.UNKNOWN or (is_timer and disposition is Disposition.NO_NEWS):
            self._ask_the_store(unit, delivery)
        unit.counts[disposition.value] += 1
        match disposition:
            case Disposition.DUPLICATE:
                unit.settle(delivery)
            case Disposition.NO_NEWS if isinstance(fact := delivery.event.fact, TimerFired):
                unit.put_off(delivery, saga.state.timers[fact.timer_id].due_at)
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
            raise Outdated(delivery.saga_id)

    def _record(
        self, unit: UnitOfWork, saga: LoadedSaga, event: Event, intents: Sequence[Intent]
    ) -> None:
        saga_id, state, encoder = saga.saga_id, saga.state, self._encoder
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
            unit.changed[saga_id] = saga  # another object where its code is gone
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

    def _add_timers(self, unit: UnitOfWork, saga: LoadedSaga) -> None:
        """Arm the timeouts that this code has and the history has not, in a turn of its own."""
        self.note(unit, saga, TimersAdded(), f"{saga.saga_id}/timers-added")

    def _fail(
        self, unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery, error: BaseException
    ) -> None:
        """The saga's own code raised on this delivery: record that, and defer the record."""
        text = with_place(described(error), error)
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
        self.note(unit, saga, fact, f"{delivery.event.cause}/failed")
        unit.count_change(saga, has_started=False, before=before)
        unit.defer(delivery, DeferralReason.TURN_FAILED, text)


class TurnRaised(Exception):
    """Raised where a saga's own code has raised *error*."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(described(error))
        self.error = error


class Outdated(Exception):
    """Raised where memory would decide and another worker may know more."""


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
