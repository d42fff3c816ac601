"""Deferred records: behind which sagas they wait, and when it is time to try them.

What lets them go on is an event, and is told: a saga began, was released, or took what came before
them. The worker whose turn it was tries them then. So a sweep looks only at what is new in the
store, and at a few of the others in turn, in case whoever took that turn has died since: it costs
the same however many records wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from saga.core.durations import SECOND_US
from saga.core.identity import Instant, SagaId
from saga.core.status import SagaStatus
from saga.ports import Catalogue, UnhandledRecord
from saga.ports.store import EARLY_EVENTS_MAX, Awaited, DeferralReason, UnhandledKind

PAGE_RECORDS_MAX: Final = 500
AGAIN_SAGAS: Final = 25
"""So many sagas a sweep are looked at again."""
TRY_ALL_ROUNDS: Final = 30
"""In every so many rounds over all sagas those are tried, too, that need other code."""
EARLY_EVENTS_MARGIN: Final = 1_000
"""So near to their limit the store is asked each time how many there are: others add to them."""
LEFT_TO_OPERATORS: Final = frozenset(
    {DeferralReason.TURN_FAILED, DeferralReason.BEHIND_FAILED_TURN}
)
"""Reasons of deferred records that wait until an operator releases the saga."""
STANDING_STILL: Final = frozenset({SagaStatus.PARKED, SagaStatus.STALLED})


class DeferredRecords:
    """Knows behind which *sagas* records wait; those of a saga that does not come are given up.

    In memory it has the id of each such saga, about 150 bytes.
    """

    def __init__(
        self, catalogue: Catalogue, *, early_hold_s: float, early_events_us: Collection[int] = ()
    ) -> None:
        """*early_events_us*: how long events of others wait for sagas that are not there yet."""
        self._catalogue = catalogue
        self.sagas: set[SagaId] = set()
        self.early_us = round(early_hold_s * SECOND_US)
        self._hold_us = min([self.early_us, *early_events_us])
        """After so long it is looked whose time is over; then that is known exactly."""
        self._longest_us = max([self.early_us, *early_events_us])
        self._early_events: int | None = None
        """How many wait, as far as is known; None where nobody has asked since the last sweep."""
        self._new: set[SagaId] = set()
        """Behind these this process has deferred something since the last sweep."""
        self._last_id = 0
        """All records up to this one were looked at."""
        self._holds: list[tuple[Instant, SagaId]] = []
        """When to give up sagas that did not come, the earliest first."""
        self._round = Round()

    def add(self, saga_ids: Mapping[SagaId, Instant | None]) -> None:
        """Records are deferred behind these sagas by this process, and given up at these times."""
        self._new.update(saga_ids)
        self._learn(saga_ids)
        for saga_id, given_up_at in saga_ids.items():
            if given_up_at is not None:
                heappush(self._holds, (given_up_at, saga_id))

    async def room_for_events(self, wanted: int) -> int:
        """How many more events of others may wait for their sagas, of so many."""
        known = self._early_events
        if known is None or known + wanted > EARLY_EVENTS_MAX - EARLY_EVENTS_MARGIN:
            known = await self._catalogue.early_events(limit=EARLY_EVENTS_MAX)
        granted = min(wanted, max(0, EARLY_EVENTS_MAX - known))
        self._early_events = known + granted
        return granted

    async def behind(self, saga_id: SagaId) -> Sequence[UnhandledRecord]:
        """The first records that are deferred behind a saga, in order."""
        records = await self._catalogue.unhandled(
            kind=UnhandledKind.DEFERRED, saga_id=saga_id, limit=PAGE_RECORDS_MAX
        )
        if not records:
            self.sagas.discard(saga_id)
        return records

    async def look_at_all(self, now: Instant) -> set[SagaId]:
        """Get to know all sagas behind which records wait; those that may go on with this code."""
        self._last_id = await self._catalogue.last_unhandled()
        self._round = Round()
        to_try: set[SagaId] = set()
        while True:
            page, is_last = await self._next_page(PAGE_RECORDS_MAX)
            to_try |= await self._may_go_on(page, now, needing_code=page.keys(), are_new=True)
            if is_last:
                return to_try

    async def sweep(self, now: Instant) -> set[SagaId]:
        """The sagas whose records may go on, as far as they are looked at this time."""
        own, self._new = self._new, set()
        self._early_events = None
        try:
            to_try = await self._look_at_new(own, now)
            if self.sagas:
                to_try |= await self._look_again(now)
        except BaseException:
            self._new |= own
            raise
        while self._holds and self._holds[0][0] <= now:
            to_try.add(heappop(self._holds)[1])
        return to_try

    async def _look_at_new(self, own: set[SagaId], now: Instant) -> set[SagaId]:
        """Look at what was deferred since the last sweep, by anybody."""
        found = {saga_id: Awaited(saga_id, DeferralReason.EARLY, now) for saga_id in own}
        last = await self._catalogue.last_unhandled()
        while self._last_id < last:
            page = await self._catalogue.unhandled(
                kind=UnhandledKind.DEFERRED,
                after=self._last_id,
                limit=PAGE_RECORDS_MAX,
                values=False,
            )
            for record in page:
                if record.saga_id is not None:
                    new = Awaited(record.saga_id, record.reason, record.kept_at)
                    found.setdefault(record.saga_id, new)
            self._last_id = page[-1].record_id if page else last
        self._learn(found)
        # What this process has deferred for want of code would be deferred again.
        # When these are given up is known already.
        needing_code = found.keys() - own
        return await self._may_go_on(found, now, needing_code=needing_code, are_new=True, own=own)

    async def _look_again(self, now: Instant) -> set[SagaId]:
        """Look at the next sagas of the round."""
        tries_all = self._round.number % TRY_ALL_ROUNDS == 0
        page, _ = await self._next_page(AGAIN_SAGAS)
        return await self._may_go_on(page, now, needing_code=page.keys() if tries_all else ())

    async def _next_page(self, limit: int) -> tuple[Mapping[SagaId, Awaited], bool]:
        """The next sagas of the round, and whether they are its last."""
        this_round = self._round
        page = await self._catalogue.awaited(after=this_round.after, limit=limit)
        found = {each.saga_id: each for each in page}
        self._learn(found)
        is_last = not page or len(page) + len(page.damaged) < limit
        if is_last:
            self.sagas -= this_round.known - this_round.seen
            self._round = Round(this_round.number + 1, known=frozenset(self.sagas))
        else:
            this_round.after = page[-1].saga_id
        return found, is_last

    async def _may_go_on(
        self,
        found: Mapping[SagaId, Awaited],
        now: Instant,
        *,
        needing_code: Collection[SagaId],
        are_new: bool = False,
        own: Collection[SagaId] = (),
    ) -> set[SagaId]:
        """Which sagas are there and move; of those that stand still, *needing_code* are tried."""
        if not found:
            return set()
        rows = await self._catalogue.summaries(sorted(found))
        status_of = {row.saga_id: row.status for row in rows}
        to_try: set[SagaId] = set()
        for saga_id, awaited in found.items():
            status = status_of.get(saga_id)
            if status is None and awaited.kept_at + self._longest_us > now:
                if are_new and saga_id not in own:
                    heappush(self._holds, (Instant(awaited.kept_at + self._hold_us), saga_id))
            elif status not in STANDING_STILL or (
                saga_id in needing_code and awaited.reason not in LEFT_TO_OPERATORS
            ):
                to_try.add(saga_id)
        return to_try

    def _learn(self, saga_ids: Collection[SagaId]) -> None:
        self.sagas.update(saga_ids)
        self._round.seen.update(saga_ids)


@dataclass(slots=True)
class Round:
    """One look at all sagas behind which records wait, a page at a time.

    Those *known* at its begin and not *seen* by its end have nothing waiting any more.
    """

    number: int = 0
    after: SagaId | None = None
    known: frozenset[SagaId] = frozenset()
    seen: set[SagaId] = field(default_factory=set)
