"""Where time comes from: the machine's clock, or one that is moved by hand.

The only place in which the engine asks the machine for the time.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from itertools import count

from saga.core.identity import Instant


class SystemClock:
    """The machine's clock."""

    def now(self) -> Instant:
        """Microseconds since 1970-01-01 UTC."""
        return Instant(time.time_ns() // 1000)

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds* of monotonic time."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until `advance` moves it: for tests and simulated worlds."""

    def __init__(self, now: Instant = Instant(1_700_000_000_000_000)) -> None:
        self._now = int(now)
        self._started = int(now)
        self._order = count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now(self) -> Instant:
        """Microseconds since 1970-01-01 UTC."""
        return Instant(self._now)

    def monotonic_s(self) -> float:
        """Seconds that were advanced so far."""
        return (self._now - self._started) / 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was moved by *seconds*."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        due_at = self._now + round(seconds * 1_000_000)
        heapq.heappush(self._sleepers, (due_at, next(self._order), woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Move on by *seconds* and wake whoever slept until then, in order of time."""
        self._now += round(seconds * 1_000_000)
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)

    def next_wake_s(self) -> float | None:
        """Seconds until somebody is to be woken, or None where nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return (self._sleepers[0][0] - self._now) / 1_000_000 if self._sleepers else None
