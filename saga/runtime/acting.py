"""What acts ask of a unit of work beyond a turn: to pause a definition, to run a saga again."""

from __future__ import annotations

from dataclasses import replace

from saga.core.decider import RECORDED, Decision, Disposition
from saga.core.events import Act, Migrated, OperatorActed, SagaStarted
from saga.runtime import migration_turn, reruns
from saga.runtime.pauses import ActDone, DefinitionAct, Pauses
from saga.runtime.router import Delivery
from saga.runtime.saga_cache import LoadedSaga, UnloadableSaga, without_code
from saga.runtime.unit_of_work import UnitOfWork


def pause(pauses: Pauses, unit: UnitOfWork, act: DefinitionAct) -> None:
    """Have a definition paused, or go on, once this is committed."""
    row = pauses.after(act, unit.at, unit.pauses)
    unit.counts[RECORDED.value if row is not None else Disposition.DUPLICATE.value] += 1
    if row is not None:
        unit.pauses[row.definition] = row


def to_follow(pauses: Pauses, saga: LoadedSaga, delivery: Delivery) -> ActDone | None:
    """The act on its definition that is to be written into a history; None where there is none.

    A saga that is about to begin under a paused definition is told so.
    """
    state, name, fact = saga.state, saga.decider.name, delivery.event.fact
    act = pauses.paused.get(name)
    if not saga.version:
        if act is not None and isinstance(fact, SagaStarted):
            delivery.event = replace(delivery.event, fact=replace(fact, paused=True))
        return None
    if state.has_ended or state.is_poisoned:
        return None
    is_paused = state.pause is not None and state.pause.by_definition
    has_just_begun = saga.turns == 1 and isinstance(fact, SagaStarted)
    if (act is not None) is is_paused and not (is_paused and has_just_begun):
        return None
    return act or pauses.ended.get(name)  # None where the row cannot be read


def is_to_begin(unit: UnitOfWork, delivery: Delivery) -> bool:
    """Whether a rerun begins: its ended saga has taken it, perhaps long before."""
    if delivery.event.cause not in unit.reruns and not delivery.deferred_id:
        return False
    assert delivery.rerun_of is not None, delivery
    ended = unit.without_code.get(delivery.rerun_of) or unit.sagas.get(delivery.rerun_of)
    if isinstance(ended, UnloadableSaga):
        ended = without_code(ended)
    if ended is None or ended.state.trigger is None:
        return False
    delivery.event = reruns.with_trigger(delivery.event, ended.state)
    return True


def decided(unit: UnitOfWork, saga: LoadedSaga, delivery: Delivery) -> Decision:
    """What a saga decides; a rerun that cannot be is refused whatever it says."""
    fact = delivery.event.fact
    if type(fact) is Migrated:
        return migration_turn.decided(saga, delivery)
    if type(fact) is not OperatorActed or fact.act is not Act.RERUN:
        return saga.decider.handle(saga.state, delivery.event)
    refused = reruns.refused(fact, delivery.refusal, unit.sagas)
    decision = saga.decider.handle(saga.state, delivery.event, refused)
    if decision.disposition is RECORDED and not decision.intents:
        unit.reruns.add(delivery.event.cause)
    return decision
