"""What to do when bus or store cannot be reached: wait, a little longer each time, and try again.

Nothing is given up and nothing is parked for trouble that passes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from saga.core.retry import Retry
from saga.errors import SagaError
from saga.ports.clock import Clock

T = TypeVar("T")

_log = logging.getLogger("saga.effects")


class Patience:
    """Repeats what fails for a passing reason. *name* seeds the jitter."""

    def __init__(self, name: str, clock: Clock, backoff: Retry) -> None:
        self._name = name
        self._clock = clock
        self._backoff = backoff

    async def insist(self, what: str, act: Callable[[], Awaitable[T]]) -> T:
        """The result of *act*, which is repeated while it raises something retriable."""
        failures = 0
        while True:
            try:
                return await act()
            except SagaError as error:
                if not error.retriable:
                    raise
                failures += 1
                await self.wait(what, failures, error)

    async def wait(self, what: str, failures: int, error: BaseException) -> None:
        """Wait as long as is due after so many *failures* in a row."""
        if failures & (failures - 1) == 0:  # the first, second, fourth, … is worth a line
            _log.warning("%s: %s failed %d times: %s", self._name, what, failures, error)
        seed = f"{self._name}/{what}/{failures}"
        delay_us = self._backoff.delay_us(failed_attempts=failures, seed=seed)
        await self._clock.sleep(delay_us / 1_000_000)
