"""
A lane: work that waits for its turn, and how much of it is taken at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from saga.logs import get_logger
from saga.ports import Clock
from saga.runtime.work import Work

TURN_RECORDS_MAX = 256
"""Records in one transaction: enough to share its cost, few enough to keep latency low."""

LET_GO_POLL_S = 0.005
log = get_logger("saga.orchestrator")


class Lane:
    """
    Work that waits for its turn.
    """

    def __init__(self) -> None:
        self.pending = Work()
        self.has_work = asyncio.Event()
        self.is_busy = False
        self.is_abandoned = False
        self._records_taken = 0

    @property
    def has_records(self) -> bool:
        """
        Whether records wait for their turn or are having it.
        """
        return bool(self.pending.inbound) or (self.is_busy and self._records_taken > 0)

    def abandon(self) -> None:
        """
        Drop the records that wait. Those that are having their turn are fenced by the store, and
        not tried again.
        """
        self.pending.inbound.clear()
        self.is_abandoned = True

    def take(self) -> Work:
        """
        As much as belongs into one transaction.
        """
        pending = self.pending
        work = Work(pending.inbound[:TURN_RECORDS_MAX], pending.due, pending.revisits)
        self.pending = Work(pending.inbound[TURN_RECORDS_MAX:])
        self.is_abandoned = False
        self._records_taken = len(work.inbound)
        if not self.pending:
            self.has_work.clear()
        return work


async def finish_or_abandon(lanes: Sequence[Lane], clock: Clock, within_s: float) -> bool:
    """
    Have all records in hand dealt with before others may read them: whether that was possible.
    """
    until_s = clock.monotonic_s() + within_s
    while True:
        await clock.sleep(LET_GO_POLL_S)  # also for what was fetched a moment ago to arrive
        if not any(lane.has_records for lane in lanes):
            return True
        if clock.monotonic_s() >= until_s:
            log.warning("records in hand are left to others", why="not done in time")
            for lane in lanes:
                lane.abandon()
            return False
