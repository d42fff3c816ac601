"""The only place in which the engine asks for the time: the machine's, or one moved by hand."""

from __future__ import annotations

import asyncio
import heapq
import time
from itertools import count

from typing_extensions import override

from saga.core.identity import Instant
from saga.ports.clock import Clock


class SystemClock(Clock):
    @override
    def now(self) -> Instant:
        return Instant(time.time_ns() // 1000)

    @override
    def monotonic_s(self) -> float:
        return time.monotonic()

    @override
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock(Clock):
    """Stands still until `advance` moves it: for tests and worlds."""

    def __init__(self, now: Instant = Instant(1_700_000_000_000_000)) -> None:
        self._now = int(now)
        self._started = int(now)
        self._order = count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    @override
    def now(self) -> Instant:
        return Instant(self._now)

    @override
    def monotonic_s(self) -> float:
        return (self._now - self._started) / 1_000_000

    @override
    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        due_at = self._now + round(seconds * 1_000_000)
        heapq.heappush(self._sleepers, (due_at, next(self._order), woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Wakes whoever slept until then, in order of time."""
        self._now += round(seconds * 1_000_000)
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)

    def next_wake_s(self) -> float | None:
        """None where nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return (self._sleepers[0][0] - self._now) / 1_000_000 if self._sleepers else None
