"""What a service waits for before it is idle, and what it leaves behind then.

A retry or a deadline that is due soon goes on by itself. A sleep or a person does not, nor does
what nobody here answers, nor a saga that is parked; and what fails again and again is not waited
for without end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from saga.core.identity import Instant
from saga.core.intents import TimerPurpose, purpose_of
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.ports import Catalogue, Clock
from saga.ports.store import UNFINISHED, DueTimer, UnhandledKind

PAGE_TIMERS: Final = 500
SAGAS_MAX: Final = 1_000
"""Of each status and of deferred records, so many are looked at."""
WAITS_SHOWN_MAX: Final = 5
_MOVING: Final = frozenset({SagaStatus.RUNNING, SagaStatus.ROLLING_BACK})
_BY_ITSELF: Final = frozenset({TimerPurpose.RETRY, TimerPurpose.DEADLINE, TimerPurpose.SAGA})


@value(kw_only=True)
class Left:
    """What is not done, and does not go on by itself soon."""

    sagas: Mapping[str, int]
    """How many by status."""
    waiting_for: Mapping[str, int]
    """How many of those that are not parked wait for what."""
    deferred: int
    """Records that wait for their saga."""
    next_at: Instant | None
    """When the next retry or deadline is due."""
    not_read: Sequence[str]
    """Why partitions are not read: each waits for an operator."""

    def __bool__(self) -> bool:
        return bool(self.sagas or self.deferred or self.not_read)

    def __str__(self) -> str:
        sagas = [f"{count:,} {status.replace('_', ' ')}" for status, count in self.sagas.items()]
        waits = Counter(self.waiting_for).most_common()
        told = [f"{count:,} wait for {what}" for what, count in waits[:WAITS_SHOWN_MAX]]
        if len(waits) > WAITS_SHOWN_MAX:
            told.append(f"{sum(count for _, count in waits[WAITS_SHOWN_MAX:]):,} for other things")
        records = [f"{self.deferred:,} records are deferred"] if self.deferred else []
        return "; ".join([", ".join(sagas) or "no saga", *told, *records, *self.not_read])


class Waits:
    """The retries and deadlines that the orchestrator of this process is going to see to.

    *not_read* tells why it does not read some partitions.
    """

    def __init__(
        self, catalogue: Catalogue, clock: Clock, not_read: Callable[[], Sequence[str]]
    ) -> None:
        self._catalogue = catalogue
        self._clock = clock
        self._not_read = not_read

    async def are_due(self, *, within_us: int) -> bool:
        """Whether one is due within that time, of a saga that waits for nobody."""
        until = self._clock.now() + within_us
        async for page in self._pages():
            soon = {timer.saga_id for timer in page if timer.due_at <= until and _goes_on(timer)}
            found = await self._catalogue.summaries(sorted(soon)) if soon else ()
            if any(saga.status in _MOVING for saga in found):
                return True
            if page[-1].due_at > until:
                return False
        return False

    async def left(self) -> Left:
        """What is left now; at most so many of each kind are counted."""
        sagas: dict[str, int] = {}
        waiting: Counter[str] = Counter()
        for status in UNFINISHED:
            found = await self._catalogue.sagas(status=status, limit=SAGAS_MAX)
            if found:
                sagas[status.value] = len(found)
            if status in _MOVING:
                waiting.update(saga.waiting_for or "their turn" for saga in found)
        deferred = await self._catalogue.unhandled(kind=UnhandledKind.DEFERRED, limit=SAGAS_MAX)
        return Left(
            sagas=sagas,
            waiting_for=waiting,
            deferred=len(deferred),
            next_at=await self._next_at(),
            not_read=self._not_read(),
        )

    async def _next_at(self) -> Instant | None:
        async for page in self._pages():
            for timer in filter(_goes_on, page):
                return timer.due_at
        return None

    async def _pages(self) -> AsyncIterator[Sequence[DueTimer]]:
        """All timers, the earliest first."""
        after = None
        while page := await self._catalogue.timers(after=after, limit=PAGE_TIMERS):
            yield page
            after = page[-1].timer_id


def _goes_on(timer: DueTimer) -> bool:
    """Whether it is a retry or a deadline, which needs nobody."""
    return purpose_of(timer.timer_id) in _BY_ITSELF
