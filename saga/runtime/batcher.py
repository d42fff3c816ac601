"""A lane: work that waits for its turn, and how much of it is taken at a time.

A small batch costs nearly as much as a large one, so under load a lane gathers: it waits until as
many records are there as the last batch had, and after its end never longer than that one took.
Who falls behind does not wait at all, and neither does a saga that is alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from saga.ports import Clock, Inbound
from saga.runtime.work import Work

TURN_RECORDS_MAX = 256
"""Records in one transaction: enough to share its cost, few enough to keep latency low."""

GATHERED_RECORDS_MIN = 4
"""A last batch of fewer records is no load."""
GATHER_S_MAX = 0.02
"""A batch may have taken long because a server was away: nobody is to wait for that again."""

PUBLISHING_MAX = 4
"""Batches of a lane that are stored and being published; beyond it no further one has its turn."""

LET_GO_POLL_S = 0.005
log = logging.getLogger(__name__)


class Batcher:
    """Work that waits for its turn."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.pending = Work()
        self.has_work = asyncio.Event()
        self.is_busy = False
        self.is_abandoned = False
        self._records_taken = 0
        self._took_s = self._ended_s = 0.0
        self._are_enough = asyncio.Event()
        self._publishing: set[asyncio.Task[None]] = set()

    @property
    def has_records(self) -> bool:
        """Whether records wait for their turn, are having it, or have led to what is not
        published.
        """
        is_at_work = self.is_busy and self._records_taken > 0
        return bool(self.pending.inbound or self._publishing) or is_at_work

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do and nothing under way."""
        return not (self.is_busy or self.pending or self._publishing)

    def put(self, record: Inbound) -> None:
        """Have a record wait for its turn."""
        inbound = self.pending.inbound
        inbound.append(record)
        self.has_work.set()
        if len(inbound) >= self._records_taken:
            self._are_enough.set()

    async def gather(self) -> None:
        """Wait, under load, for so many records that a batch of them is worth its while."""
        wanted = self._records_taken
        if wanted < GATHERED_RECORDS_MIN or len(self.pending.inbound) >= wanted:
            return
        until_s = self._ended_s + min(self._took_s, GATHER_S_MAX)
        left_s = until_s - self._clock.monotonic_s()
        if left_s <= 0:
            return
        self._are_enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await self._are_enough.wait()

    def wait_no_more(self) -> None:
        """Take what is there, even if that is nothing: no more will come."""
        self.has_work.set()
        self._are_enough.set()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A batch has its turn."""
        self.is_busy = True
        began_s = self._clock.monotonic_s()
        try:
            yield
        finally:
            self.is_busy = False
            self._ended_s = self._clock.monotonic_s()
            self._took_s = self._ended_s - began_s

    async def publish_beside(
        self, group: asyncio.TaskGroup, publish: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Have a batch published while the next one has its turn; wait where too many are."""
        while len(self._publishing) >= PUBLISHING_MAX:
            await asyncio.wait(self._publishing, return_when=asyncio.FIRST_COMPLETED)
        task = group.create_task(publish())
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    def abandon(self) -> None:
        """Drop the records that wait. Those that are having their turn are fenced by the store, and
        not tried again.
        """
        self.pending.inbound.clear()
        self.is_abandoned = True

    def take(self) -> Work:
        """As much as belongs into one transaction."""
        pending = self.pending
        work = Work(pending.inbound[:TURN_RECORDS_MAX], pending.due, pending.revisits)
        self.pending = Work(pending.inbound[TURN_RECORDS_MAX:])
        self.is_abandoned = False
        self._records_taken = len(work.inbound)
        if not self.pending:
            self.has_work.clear()
        return work


async def finish_or_abandon(lanes: Sequence[Batcher], clock: Clock, within_s: float) -> bool:
    """Have all records in hand dealt with before others may read them: whether that was
    possible.
    """
    until_s = clock.monotonic_s() + within_s
    while True:
        await clock.sleep(LET_GO_POLL_S)  # also for what was fetched a moment ago to arrive
        if not any(lane.has_records for lane in lanes):
            return True
        if clock.monotonic_s() >= until_s:
            log.warning("records in hand were not done in time and are left to other workers")
            for lane in lanes:
                lane.abandon()
            return False
