"""An event loop whose time is a number: it jumps to the next timer as soon as nothing is ready.

Callbacks run in the order in which they were called for, so the same calls give the same run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from saga.core.identity import Instant

WORLD_BEGAN_AT = Instant(1_700_000_000_000_000)
ROUNDS_MAX = 2_000_000
"""Of the loop in one world: far more than any world needs that gets somewhere."""


class WorldStandsStill(Exception):
    """Raised when nobody in a world has anything to do, ever."""


class WorldSpins(Exception):
    """Raised when a world's processes are busy without end and get nowhere."""


class LeftWorld(BaseException):
    """Raised where the application tries what a world does not have; stops the world."""


class SimulatedLoop(asyncio.BaseEventLoop):
    _scheduled: list[asyncio.TimerHandle]
    _clock_resolution: float

    def __init__(self) -> None:
        super().__init__()
        self._clock_resolution = 1e-6  # a float of years knows no nanoseconds
        self._now_s = 0.0
        self._rounds = 0
        self.is_refused = False
        """Whether the application has tried to leave its world: nothing happens after that."""
        self.is_ending = False
        self.on_leaving: Callable[[str], None] = lambda _does: None
        """Told what somebody does that a world does not have."""
        self._selector = self  # the base class asks it to wait, see `select`

    def time(self) -> float:
        """Seconds since the world began."""
        return self._now_s

    def now(self) -> Instant:
        return Instant(WORLD_BEGAN_AT + round(self._now_s * 1_000_000))

    def leap(self, to_s: float) -> None:
        """Let time jump to a moment, as if everybody had been frozen meanwhile."""
        self._now_s = max(self._now_s, to_s)

    def select(self, timeout: float | None) -> list[Any]:
        """Where a real loop would wait for sockets: time jumps."""
        if self.is_refused and not self.is_ending:
            raise LeftWorld("the application left its world")
        self._rounds += 1
        if self._rounds > ROUNDS_MAX:
            raise WorldSpins(f"{ROUNDS_MAX} rounds of the event loop")
        if timeout is None:
            raise WorldStandsStill("nobody waits for anything that could happen")
        if timeout > 0:
            self._now_s = max(self._now_s, self._scheduled[0].when())
        return []

    def run_in_executor(self, executor: object, func: object, *_args: object) -> NoReturn:
        self.on_leaving("starts a thread")
        raise RuntimeError(f"a world has no threads: {func!r} wants one from {executor!r}")

    async def getaddrinfo(self, host: Any, port: Any, **_options: Any) -> NoReturn:
        self.on_leaving("opens a socket")
        raise RuntimeError(f"a world has no network: {host}:{port}")

    async def subprocess_exec(self, *words: Any, **_options: Any) -> NoReturn:
        self.on_leaving("starts a process")
        raise RuntimeError(f"a world has no other processes: {words[1:]}")

    async def subprocess_shell(self, *words: Any, **_options: Any) -> NoReturn:
        await self.subprocess_exec(*words)

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits in a selector."""
