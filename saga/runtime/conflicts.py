"""A batch of which some sagas have moved on meanwhile: theirs is taken out, the rest stands.

Where events travel under keys of their own, two workers often take turns of one saga at a time. The
one that is second decides again for that saga, and not for all others of its batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from saga.core.identity import SagaId
from saga.ports import SagaSummary
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

    async def drop_stale(self, sagas: dict[SagaId, LoadedSaga | UnloadableSaga]) -> None:
        """Let go of what is in memory and behind the store, where there was a conflict lately."""
        if not self._wary_batches or not sagas:
            return
        self._wary_batches -= 1
        for row in await self._cache.rows_of(sagas):
            saga = sagas[row.saga_id]
            if isinstance(saga, LoadedSaga) and saga.version != row.version:
                saga.let_go()
                del sagas[row.saga_id]

    async def take_out_moved(
        self, unit: UnitOfWork, deliveries: Sequence[Delivery]
    ) -> Sequence[Delivery]:
        """Take the sagas that moved on out of *unit*, loaded anew; what they have to decide again.

        Nothing where they cannot be told from the others, or have done more than take turns.
        """
        self._wary_batches = WARY_BATCHES
        moved = _moved_on(unit, await self._cache.rows_of(unit.changed))
        if not moved or not _take_out(unit, moved, deliveries):
            return ()
        await self._cache.complete(unit.sagas, [*unit.sagas, *sorted(moved)])
        return [delivery for delivery in deliveries if delivery.saga_id in moved]


def _moved_on(unit: UnitOfWork, rows: Iterable[SagaSummary]) -> set[SagaId]:
    """The sagas that have other entries in the store than those that *unit* was decided on."""
    moved: set[SagaId] = set()
    for row in rows:
        decided = sum(map(len, unit.histories[row.saga_id].turns))
        if row.version != unit.changed[row.saga_id].version - decided:
            moved.add(row.saga_id)
    return moved


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
