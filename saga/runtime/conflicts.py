"""A batch of which some sagas have moved on meanwhile: theirs is taken out, the rest stands.

Where events travel under keys of their own, two workers often take turns of one saga at a time. The
one that is second decides again for that saga, and not for all others of its batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from saga.core.identity import SagaId
from saga.errors import HistoryConflict
from saga.runtime.router import Delivery
from saga.runtime.saga_cache import LoadedSaga, SagaCache, UnloadableSaga
from saga.runtime.unit_of_work import UnitOfWork

AGAIN_MAX: Final = 20
"""So often in a row only those that moved on are decided again."""
WARY_BATCHES: Final = 100
"""For so many batches behind a conflict it is looked first whether what is in memory is stale."""


class Contention:
    """What becomes of a batch, some of whose sagas other workers take turns of as well."""

    def __init__(self, cache: SagaCache) -> None:
        self._cache = cache
        self._wary_batches = 0

    async def load(
        self, saga_ids: Collection[SagaId]
    ) -> tuple[dict[SagaId, LoadedSaga | UnloadableSaga], Collection[SagaId]]:
        """The sagas that exist, and which of them may be behind the store, as they were in memory.

        Where there was a conflict lately, none is.
        """
        sagas = self._cache.take(saga_ids)
        remembered = dict.fromkeys(sagas)
        await self._cache.complete(sagas, saga_ids)
        if not self._wary_batches or not remembered:
            return sagas, remembered
        self._wary_batches -= 1
        # Behind the loading, as others may take turns while that goes on.
        await self._cache.catch_up(sagas, remembered)
        await self._cache.complete(sagas, saga_ids)
        return sagas, ()

    async def take_out_moved(
        self, unit: UnitOfWork, deliveries: Sequence[Delivery], conflict: HistoryConflict
    ) -> Sequence[Delivery]:
        """Take the sagas that moved on out of *unit*, loaded anew; what they have to decide again.

        Nothing where they cannot be told from the others, or have done more than take turns.
        """
        self._wary_batches = WARY_BATCHES
        moved = {SagaId(saga_id) for saga_id in conflict.saga_ids}
        if not moved or not moved <= unit.histories.keys():
            return ()
        published = {
            saga_id: saga.version - sum(map(len, unit.histories[saga_id].turns))
            for saga_id in moved
            if not (saga := unit.changed[saga_id]).is_possibly_unpublished
        }
        if not _take_out(unit, moved, deliveries):
            return ()
        saga_ids = [*unit.sagas, *sorted(moved)]
        await self._cache.complete(unit.sagas, saga_ids, published=published)
        return [delivery for delivery in deliveries if delivery.saga_id in moved]


def _take_out(
    unit: UnitOfWork, saga_ids: Collection[SagaId], deliveries: Sequence[Delivery]
) -> bool:
    """Take what these sagas have decided out of *unit*; False where they did more than turns."""
    came: dict[SagaId, list[Delivery]] = {saga_id: [] for saga_id in saga_ids}
    for delivery in deliveries:
        if delivery.saga_id in came:
            came[delivery.saga_id].append(delivery)
    if not all(_only_took_turns(unit, saga_id, each) for saga_id, each in came.items()):
        return False
    for saga_id in saga_ids:
        unit.counts["recorded"] -= len(unit.histories.pop(saga_id).turns)
        unit.changed.pop(saga_id).let_go()
        del unit.outgoing_of[saga_id]
        del unit.sagas[saga_id]
    for reached in unit.reached:
        if reached.saga.saga_id in came:
            unit.counts[reached.status.value] -= 1
    unit.reached = [each for each in unit.reached if each.saga.saga_id not in came]
    unit.remembered = set(unit.remembered).difference(came)
    if unit.lines:
        unit.lines = [each for each in unit.lines if each[0].saga_id not in came]
    unit.timers.take_out(came.keys())
    return True


def _only_took_turns(unit: UnitOfWork, saga_id: SagaId, came: Sequence[Delivery]) -> bool:
    """Whether each delivery to a saga has led to one turn, and to nothing else."""
    history = unit.histories[saga_id]
    if not history.expected_turns or saga_id in unit.runs or saga_id in unit.without_code:
        return False
    if not all(each.inbound and not (each.deferred_id or each.is_operator) for each in came):
        return False
    return [turn.event.cause for turn in history.turns] == [each.event.cause for each in came]
