"""Whom a record reaches, once that is looked for: a saga, nobody yet, or nobody here."""

from __future__ import annotations

from collections.abc import Sequence

from saga.core.events import ReplyReceived, SagaStarted
from saga.core.identity import Instant, IntentName
from saga.core.runs import is_of_earlier_run, is_of_run_before
from saga.core.state import SagaState, identity_of
from saga.ports.store import DeferralReason, SkipReason
from saga.runtime.router import Delivery, Shared
from saga.runtime.saga_cache import LoadedSaga, UnloadableSaga
from saga.runtime.unit_of_work import UnitOfWork, issued


def deliveries_in(found: list[Delivery] | Shared) -> Sequence[Delivery]:
    return found if isinstance(found, list) else found.deliveries


def is_reached(saga: LoadedSaga, delivery: Delivery) -> bool:
    """Whether a saga that is there takes an event of others; else its version does not listen.

    What would have started it reaches it, where it runs already and began with another one.
    """
    state, is_heard = saga.state, saga.decider.version in delivery.heard_by
    if delivery.starts is None:
        return is_heard
    # Of its trigger nothing is kept beside it; of what else came, what it said is.
    is_its_trigger = state.causes.get(identity_of(delivery.event), 0) is None
    started = delivery.event.fact
    is_childs = isinstance(started, SagaStarted) and started.parent is not None
    if is_heard and state.is_started and not is_its_trigger and not is_childs:
        delivery.hear()
    return True


def wait_for_saga(unit: UnitOfWork, delivery: Delivery) -> None:
    """Have an event of others wait as long as the definition says, then let it go."""
    until = given_up_at(unit, delivery, delivery.early_us)
    if until <= unit.at:
        unit.let_go(delivery, SkipReason.NOT_THERE)
    else:
        message = f"there is no saga {delivery.definition} {delivery.saga_id} yet"
        unit.defer(delivery, DeferralReason.EARLY_EVENT, message, until=until)


def given_up_at(unit: UnitOfWork, delivery: Delivery, early_us: int) -> Instant:
    """When a record that waits for its saga to begin is waited for no more."""
    since = delivery.deferred_at if delivery.deferred_id else unit.at
    return Instant(since + early_us)


def was_issued(unit: UnitOfWork, saga: LoadedSaga | UnloadableSaga, name: IntentName) -> bool:
    """Whether this intent was stored before this batch, so that there can be a reply to it.

    Who can guess an intent's id could else answer it beforehand. Of a history that cannot be read
    nothing is known.
    """
    if isinstance(saga, UnloadableSaga):
        bodies = [entry.body for entry in saga.entries]
        return not bodies or is_of_run_before(bodies, name.step) or name[1:] in issued(bodies)
    if not saga.state.was_issued(name):
        return is_of_earlier_run(saga.state, name.step)
    return name.saga_id not in unit.changed or not unit.issues(name)


def needs_no_code(state: SagaState, delivery: Delivery) -> bool:
    """Whether a saga can take this without its code: it is abandoned, or has ended.

    What an ended one has not had yet, and may have to undo, does need it.
    """
    fact = delivery.event.fact
    if state.is_poisoned or not state.has_ended:
        return delivery.abandons
    return not isinstance(fact, ReplyReceived) or state.is_answered(fact.intent_id)
