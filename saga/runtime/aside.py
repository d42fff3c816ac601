"""Where a batch puts what no turn can take: held behind its saga, or dead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from saga.core.events import TimerFired
from saga.core.identity import Instant, SagaId
from saga.ports import Catalogue, DueTimer, Inbound, ParkedRecord
from saga.ports.catalogue import ParkedKind
from saga.runtime.draft import Draft
from saga.runtime.parking import dead, held
from saga.runtime.router import Visit

POSTPONED_S = 30
"""How long a due timer of a saga that is held up is left alone."""
HELD_PAGE_RECORDS_MAX = 500


class Aside:
    """Sets records aside, and knows which sagas they are held behind."""

    def __init__(self, catalogue: Catalogue, *, early_hold_s: float) -> None:
        self._catalogue = catalogue
        self._early_hold_us = round(early_hold_s * 1_000_000)
        self.sagas: set[SagaId] = set()
        """Sagas that records are held behind, as far as this process knows."""

    async def held_behind(self, saga_id: SagaId) -> Sequence[ParkedRecord]:
        """The first records that are held behind a saga, in order."""
        records = await self._catalogue.parked(
            kind=ParkedKind.HELD, saga_id=saga_id, limit=HELD_PAGE_RECORDS_MAX
        )
        if not records:
            self.sagas.discard(saga_id)
        return records

    def early(self, draft: Draft, visit: Visit) -> None:
        """Its saga is not there (yet): hold the record for a while."""
        if visit.inbound is None:
            assert isinstance(visit.event.fact, TimerFired)
            draft.cleared.append(visit.event.fact.timer_id)
            return
        if visit.held_id and draft.at - visit.held_at >= self._early_hold_us:
            message = f"there is no saga {visit.saga_id}, and none came within the hold"
            self.bury(draft, visit.inbound, "unknown_saga", message, held_id=visit.held_id)
            return
        self.hold(draft, visit, "early", f"there is no saga {visit.saga_id} yet")

    def hold(self, draft: Draft, visit: Visit, reason: str, message: str) -> None:
        """Keep a record, in order, behind its saga. A timer is looked at again later."""
        if visit.inbound is None:
            self.postpone(draft, visit)
            return
        draft.holding.add(visit.saga_id)
        if visit.held_id:
            return  # it is held already, in its place
        draft.counts["held"] += 1
        draft.held.append(held(visit.inbound, reason, message, draft.at, visit.saga_id))

    async def mark_corrupt(self, draft: Draft) -> None:
        """Say in the index what is wrong with histories that cannot be read."""
        corrupt = [one.saga_id for one in draft.lifeless.values() if not one.entries]
        if not corrupt:
            return
        for summary in await self._catalogue.summaries(corrupt):
            found = draft.lifeless[summary.saga_id]
            draft.corrupt.append(
                replace(
                    summary,
                    status=found.status,
                    reason=found.reason,
                    waiting_for="operator",
                    updated_at=draft.at,
                )
            )

    def postpone(self, draft: Draft, visit: Visit) -> None:
        """Leave a due timer of a saga that is held up alone for a while."""
        fact = visit.event.fact
        assert isinstance(fact, TimerFired), fact
        later = Instant(draft.at + POSTPONED_S * 1_000_000)
        draft.postponed[fact.timer_id] = DueTimer(fact.timer_id, visit.saga_id, later)

    def refuse(self, draft: Draft, visit: Visit, reason: str, message: str) -> None:
        """Set aside a record that reached its saga and cannot be meant for it."""
        if visit.inbound is not None:
            self.bury(draft, visit.inbound, reason, message, held_id=visit.held_id)

    def bury(
        self, draft: Draft, inbound: Inbound, reason: str, message: str, *, held_id: int
    ) -> None:
        """Set a record aside for good, unless somebody redrives it."""
        draft.dead.append(dead(inbound, reason, message, draft.at))
        draft.counts["dead"] += 1
        if held_id:
            draft.unparked.append(held_id)
