"""Trying again what fails for a reason that passes: a broker or a database that is away.

Nothing is given up here: a caller with a deadline cancels, and finds `Backoff.last_error`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from saga.core.durations import SECOND_US
from saga.core.retry import Retry
from saga.errors import SagaError
from saga.ports.clock import Clock

T = TypeVar("T")
P = ParamSpec("P")

AWAY = Retry(attempts=None, initial="50ms", factor=2.0, cap="5s", jitter=0.5)
"""For a server that is away: it is back within seconds, and is not to be flooded then."""
log = logging.getLogger(__name__)


class Backoff:
    """Failures in a row, and the waits between them; the limits of *policy* are not looked at.

    *name* seeds the jitter, so that workers do not return together.
    """

    def __init__(
        self, name: str, clock: Clock, policy: Retry = AWAY, *, log_level: int = logging.WARNING
    ) -> None:
        self._name = name
        self._clock = clock
        self._policy = policy
        self._log_level = log_level
        self.failures = 0
        self.last_error: BaseException | None = None

    async def pause(self, what: str, error: BaseException) -> None:
        """Wait as long as is due after one more failure of *what*."""
        self.failures += 1
        self.last_error = error
        seed = f"{self._name}/{self.failures}"
        pause_s = self._policy.delay_us(failed_attempts=self.failures, seed=seed) / SECOND_US
        if self.failures & (self.failures - 1) == 0:  # the first, second, fourth, … is worth a line
            log.log(
                self._log_level,
                "%s: %s; failure %d, again in %.2f s: %s",
                self._name,
                what,
                self.failures,
                pause_s,
                error,
                extra={"reason": str(error), "failures": self.failures},
            )
        await self._clock.sleep(pause_s)

    def reset(self) -> None:
        self.failures = 0
        self.last_error = None


async def retried(
    what: str,
    backoff: Callable[[], Backoff],
    act: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """What *act* gives, repeated while it raises a retriable error; *what* is for the log."""
    waits: Backoff | None = None
    while True:
        try:
            return await act(*args, **kwargs)
        except SagaError as error:
            if not error.retriable:
                raise
            waits = waits or backoff()
            await waits.pause(what, error)


async def once_there(what: str, backoff: Backoff, act: Callable[[], Awaitable[T]]) -> T:
    """As `retried`, at a start: what does not pass by itself is raised at once."""
    while True:
        try:
            return await act()
        except SagaError as error:
            if not (error.retriable and error.passes):
                raise
            await backoff.pause(what, error)
