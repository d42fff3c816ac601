"""A statistics of a store: how much of what is in it, for those who watch from afar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from saga.core.frozen import frozen
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.ports.catalogue import UnhandledKind

UNFINISHED: Final = (
    SagaStatus.RUNNING,
    SagaStatus.ROLLING_BACK,
    SagaStatus.PARKED,
    SagaStatus.STALLED,
)
UNHANDLED_COUNTED_MAX: Final = 10_000
"""Parked records are counted up to here: they are wide, and that is more than enough to act."""


@frozen(kw_only=True)
class StoreStatistics:
    """What there is at one moment.

    Args:
        sagas: unfinished sagas by definition and status; what there are none of is left out.
        unhandled: unhandled records by kind and reason, at most `UNHANDLED_COUNTED_MAX` in all.
        backlog: batches that nobody has said to be published, and *backlog_since* the oldest one.
        timers_due: timers that are due, and *timers_due_since* the earliest one.
    """

    sagas: Mapping[tuple[str, SagaStatus], int]
    unhandled: Mapping[tuple[UnhandledKind, str], int]
    backlog: int
    backlog_since: Instant | None
    timers_due: int
    timers_due_since: Instant | None


class StatisticsReader(Protocol):
    """Who counts."""

    async def take(self, *, at: Instant) -> StoreStatistics:
        """Count, with *at* as the present.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        ...
