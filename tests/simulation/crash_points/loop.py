"""An event loop whose time jumps as a world's does, but waits for real stores while one
is at work, and hardly moves meanwhile.
"""

import asyncio
import selectors
import time
from collections.abc import Iterator
from contextlib import contextmanager

from saga.core.identity import Instant
from saga.testing.world.loop import WORLD_BEGAN_AT

SLICE_S = 0.05
COUNTED_S_MAX = 0.005
"""How much of one wait for a real store counts: sagas have time limits, and machines are slow."""


class _Selector(selectors.DefaultSelector):
    loop: "StagedLoop"

    def select(self, timeout=None):
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.loop.at_work:
            began_s = time.monotonic()
            ready = super().select(SLICE_S if timeout is None else min(timeout, SLICE_S))
            self.loop.pass_by(min(time.monotonic() - began_s, COUNTED_S_MAX))
            return ready
        self.loop.pass_by(timeout)
        return []


class StagedLoop(asyncio.SelectorEventLoop):
    """The loop of one case."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self.at_work = 0
        """Calls of real stores that have not been answered yet."""
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Seconds since the case began."""
        return self._now_s

    def now(self) -> Instant:
        """The same as a moment."""
        return Instant(WORLD_BEGAN_AT + round(self._now_s * 1_000_000))

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside, time passes no faster than outside of the loop, and slowly in a long wait."""
        self.at_work += 1
        try:
            yield
        finally:
            self.at_work -= 1
