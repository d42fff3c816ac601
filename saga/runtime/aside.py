"""Where a batch puts what no turn can take: held behind its saga, or dead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from saga.contracts import UnreadableCode
from saga.core.events import TimerFired
from saga.core.identity import Instant, SagaId
from saga.ports import Catalogue, DueTimer, Inbound, UnhandledRecord
from saga.ports.store import DeadLetterReason, DeferralReason, UnhandledKind
from saga.runtime.parking import dead, held
from saga.runtime.router import Delivery
from saga.runtime.unit_of_work import UnitOfWork

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

    async def deferred_behind(self, saga_id: SagaId) -> Sequence[UnhandledRecord]:
        """The first records that are held behind a saga, in order."""
        records = await self._catalogue.unhandled(
            kind=UnhandledKind.DEFERRED, saga_id=saga_id, limit=HELD_PAGE_RECORDS_MAX
        )
        if not records:
            self.sagas.discard(saga_id)
        return records

    def early(self, draft: UnitOfWork, delivery: Delivery) -> None:
        """Its saga is not there (yet): hold the record for a while."""
        if delivery.inbound is None:
            assert isinstance(delivery.event.fact, TimerFired)
            draft.cleared.append(delivery.event.fact.timer_id)
            return
        if delivery.deferred_id and draft.at - delivery.deferred_at >= self._early_hold_us:
            message = f"there is no saga {delivery.saga_id}, and none came within the hold"
            self.bury(
                draft,
                delivery.inbound,
                DeadLetterReason.UNKNOWN_SAGA,
                message,
                deferred_id=delivery.deferred_id,
            )
            return
        self.hold(draft, delivery, DeferralReason.EARLY, f"there is no saga {delivery.saga_id} yet")

    def hold(
        self, draft: UnitOfWork, delivery: Delivery, reason: DeferralReason, message: str
    ) -> None:
        """Keep a record, in order, behind its saga. A timer is looked at again later."""
        if delivery.inbound is None:
            self.postpone(draft, delivery)
            return
        draft.holding.add(delivery.saga_id)
        if delivery.deferred_id:
            return  # it is held already, in its place
        draft.counts["held"] += 1
        draft.held.append(held(delivery.inbound, reason, message, draft.at, delivery.saga_id))

    async def mark_corrupt(self, draft: UnitOfWork) -> None:
        """Say in the index what is wrong with histories that cannot be read."""
        corrupt = [one.saga_id for one in draft.unloadable.values() if not one.entries]
        if not corrupt:
            return
        for summary in await self._catalogue.summaries(corrupt):
            found = draft.unloadable[summary.saga_id]
            draft.corrupt.append(
                replace(
                    summary,
                    status=found.status,
                    reason=found.reason,
                    waiting_for="operator",
                    updated_at=draft.at,
                )
            )

    def postpone(self, draft: UnitOfWork, delivery: Delivery) -> None:
        """Leave a due timer of a saga that is held up alone for a while."""
        fact = delivery.event.fact
        assert isinstance(fact, TimerFired), fact
        later = Instant(draft.at + POSTPONED_S * 1_000_000)
        draft.postponed[fact.timer_id] = DueTimer(fact.timer_id, delivery.saga_id, later)

    def refuse(
        self,
        draft: UnitOfWork,
        delivery: Delivery,
        reason: DeadLetterReason | UnreadableCode,
        message: str,
    ) -> None:
        """Set aside a record that reached its saga and cannot be meant for it."""
        if delivery.inbound is not None:
            self.bury(draft, delivery.inbound, reason, message, deferred_id=delivery.deferred_id)

    def bury(
        self,
        draft: UnitOfWork,
        inbound: Inbound,
        reason: DeadLetterReason | UnreadableCode,
        message: str,
        *,
        deferred_id: int,
    ) -> None:
        """Set a record aside for good, unless somebody redrives it."""
        draft.dead.append(dead(inbound, reason, message, draft.at))
        draft.counts["dead"] += 1
        if deferred_id:
            draft.handled.append(deferred_id)
