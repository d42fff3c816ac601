"""
A lane: work that waits for its turn, and how much of it is taken at a time.
"""

from __future__ import annotations

import asyncio

from saga.runtime.work import Work

TURN_RECORDS_MAX = 256
"""Records in one transaction: enough to share its cost, few enough to keep latency low."""


class Lane:
    """
    Work that waits for its turn.
    """

    def __init__(self) -> None:
        self.pending = Work()
        self.has_work = asyncio.Event()
        self.is_busy = False

    def take(self) -> Work:
        """
        As much as belongs into one transaction.
        """
        pending = self.pending
        work = Work(pending.inbound[:TURN_RECORDS_MAX], pending.due, pending.revisits)
        self.pending = Work(pending.inbound[TURN_RECORDS_MAX:])
        if not self.pending:
            self.has_work.clear()
        return work
