"""The migration of one saga, inside the turn that records it.

Its whole history is replayed by the code of the other version, with what this batch has added to
it: so nothing that happened since a dry run slips through. Where that decides otherwise, or there
is no such code here, the refusal is recorded, and the saga stands as it stood.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from saga.authoring.registry import SagaRegistry
from saga.core.decider import Decision
from saga.core.events import Event, Migrated
from saga.core.history import RecordedTurn, pinned_in
from saga.core.identity import SagaId
from saga.core.intents import Noted, Verdict
from saga.core.piecewise import Piecewise, at_once
from saga.core.state import identity_of
from saga.core.texts import storable
from saga.core.values import value
from saga.errors import ReplayMismatch
from saga.ports import History
from saga.runtime.router import Delivery
from saga.runtime.saga_cache import LoadedSaga, UnloadableSaga, loading_migrated, without_code
from saga.runtime.unit_of_work import UnitOfWork


def sagas_to_migrate(deliveries: Iterable[Delivery]) -> list[SagaId]:
    """The sagas that some of these would migrate."""
    return [each.saga_id for each in deliveries if type(each.event.fact) is Migrated]


def standing(unit: UnitOfWork, saga: LoadedSaga | UnloadableSaga) -> LoadedSaga | None:
    """A saga as it stands, which may take a refusal without its code; None if it is unreadable."""
    if isinstance(saga, LoadedSaga):
        return saga
    return unit.without_code.get(saga.saga_id) or without_code(saga)


def is_behind(unit: UnitOfWork, saga: LoadedSaga) -> bool:
    """Whether what is in memory and what was read of the store are not of one time."""
    if isinstance(unit.sagas[saga.saga_id], UnloadableSaga):
        return False
    history = _history_of(unit, saga)
    # What this batch has added is numbered behind memory, whatever else is stored by now.
    return not history or (history.version, history.turns) != (saga.version, saga.turns)


def moved_by(
    unit: UnitOfWork,
    saga: LoadedSaga | UnloadableSaga,
    stands: LoadedSaga,
    delivery: Delivery,
    sagas: SagaRegistry,
) -> LoadedSaga:
    """The saga as the new code has it; or as it *stands*, where the delivery is refused."""
    event = delivery.event
    if identity_of(event) in stands.state.causes or stands.state.has_ended:
        return stands
    event = replace(event, at=max(event.at, stands.last_at))
    moved = at_once(trying(sagas, stands.saga_id, _history_of(unit, saga), event))
    delivery.event = moved.event
    if isinstance(moved.found, LoadedSaga):
        return moved.found
    delivery.refusal = storable(str(moved.found))
    return stands


@value
class Tried:
    """What comes of a migration: the saga as it would go on, or why it cannot.

    Its *event* says what code it was tried with.
    """

    event: Event
    found: LoadedSaga | ReplayMismatch | str


def trying(
    sagas: SagaRegistry, saga_id: SagaId, history: History, event: Event
) -> Piecewise[Tried]:
    """Try the migration that *event* is on a saga, whose *history* is all of its last run."""
    fact, pinned = event.fact, pinned_in(history)
    assert isinstance(fact, Migrated), fact
    if pinned is None:
        return Tried(event, "it has not begun: it will, with the newest version")
    if pinned.version != fact.from_version:
        return Tried(event, f"it is of version {pinned.version}, not {fact.from_version}")
    registered = sagas.find(pinned.definition, fact.definition_version)
    if registered is None:
        name = f"saga {pinned.definition!r} version {fact.definition_version}"
        return Tried(event, f"no worker here has {name}: deploy it, then migrate")
    fingerprint = registered.decider.fingerprint
    fact = replace(fact, from_fingerprint=pinned.fingerprint or None, fingerprint=fingerprint)
    event = replace(event, fact=fact)
    ahead = migration_ahead(saga_id, history, event)
    found = yield from loading_migrated(registered, saga_id, history, ahead)
    return Tried(event, found)


def migration_ahead(saga_id: SagaId, history: History, event: Event) -> RecordedTurn:
    """The turn that *event* is about to take behind *history*."""
    return RecordedTurn(saga_id, history.version + 1, event, [])


def decided(saga: LoadedSaga, delivery: Delivery) -> Decision:
    """What a saga decides on its migration, which was replayed before."""
    if delivery.refusal is None:
        return saga.decider.handle(saga.state, delivery.event)
    noted = Noted(verdict=Verdict.REFUSED, subject="migrate", detail=delivery.refusal)
    decision = saga.decider.handle(saga.state, delivery.event, [noted])
    state = saga.state
    state.version = saga.version + 1 + len(decision.intents)
    if state.program is not None:
        state.program.patches = None  # it is live, whatever this turn was told
    return decision


def stay_unloadable(unit: UnitOfWork, saga: UnloadableSaga) -> None:
    """Keep a saga whose code does not fit as it is, with what it has refused."""
    appended = unit.histories.get(saga.saga_id)
    if appended is None or saga.saga_id in unit.without_code:
        return
    assert isinstance(saga.entries, History), saga.saga_id
    recorded = [*saga.entries.recorded, appended.turns[-1]]
    entries = History(recorded, turns=saga.entries.turns + 1)
    unit.sagas[saga.saga_id] = unit.stood_still[saga.saga_id] = replace(saga, entries=entries)


def _history_of(unit: UnitOfWork, saga: LoadedSaga | UnloadableSaga) -> History:
    """All that is recorded of a saga's last run, in this batch too."""
    if isinstance(saga, UnloadableSaga):
        assert isinstance(saga.entries, History), saga.saga_id
        return saga.entries
    stored = unit.to_migrate.get(saga.saga_id) or History()  # it may have begun in this batch
    appended = unit.histories.get(saga.saga_id)
    more = [] if appended is None else appended.turns
    return History([*stored.recorded, *more], turns=stored.turns + len(more))
