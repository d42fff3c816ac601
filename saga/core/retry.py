"""When to try again: a frozen policy, and how long to wait after an attempt.

The jitter is seeded by the intent's id, so that a replay computes the same delay and two sagas that
failed together do not come back together ("full jitter" scaled down to a share of the delay, see
Brooker, "Exponential Backoff and Jitter", 2015).
"""

from __future__ import annotations

import sys
from contextlib import suppress
from hashlib import blake2b

from saga.core.durations import Duration, duration_us
from saga.core.values import value

__all__ = ["FOREVER", "ONCE", "STEP_DEFAULT", "UNDO_DEFAULT", "Retry"]


@value
class Retry:
    """How often and how fast a failed attempt is repeated.

    Args:
        attempts: all attempts, the first included; None is without limit.
        factor: by how much each further delay grows; below 1, they shrink.
        jitter: the share of a delay that is left to chance, from 0 to 1.
        within: no attempt begins later than this after the first one.
        never_on: codes of failures that are final at once.

    Raises:
        ValueError: a value makes no sense.
    """

    attempts: int | None = 3
    initial: Duration = "500ms"
    factor: float = 2.0
    cap: Duration = "1m"
    jitter: float = 0.2
    within: Duration | None = None
    never_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts={self.attempts}: at least one attempt is needed")
        if not 0 <= self.factor <= sys.float_info.max:
            raise ValueError(f"factor={self.factor}: expected a finite number that is not below 0")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter}: expected a share, from 0 to 1")
        for duration in (self.initial, self.cap, self.within):
            if duration is not None:
                duration_us(duration)

    def allows(self, *, failed_attempts: int, elapsed_us: int, code: str | None = None) -> bool:
        """Whether one more attempt may follow and begin *elapsed_us* after the first."""
        if code is not None and code in self.never_on:
            return False
        if self.attempts is not None and failed_attempts >= self.attempts:
            return False
        return self.within is None or elapsed_us <= duration_us(self.within)

    def delay_us(self, *, failed_attempts: int, seed: str) -> int:
        """Microseconds to wait after so many failed attempts; *seed* picks the jitter."""
        initial_us = duration_us(self.initial)
        delay_us: float = duration_us(self.cap) if initial_us else 0
        # What a float cannot hold any more is beyond every cap.
        with suppress(OverflowError):
            delay_us = min(initial_us * float(self.factor) ** (failed_attempts - 1), delay_us)
        return round(delay_us * (1 - self.jitter * fraction(seed)))


def fraction(seed: str) -> float:
    """A number from 0 up to 1, the same for the same *seed*."""
    digest = blake2b(seed.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


STEP_DEFAULT = Retry()
ONCE = Retry(attempts=1)
FOREVER = Retry(attempts=None)
UNDO_DEFAULT = Retry(attempts=None, initial="500ms", cap="1m")
