"""How long to wait when the store or the bus cannot be reached: growing, capped, never in step."""

from __future__ import annotations

from saga.core.durations import SECOND_US
from saga.core.retry import Retry

TROUBLE = Retry(attempts=None, initial="50ms", factor=2.0, cap="5s", jitter=0.5)


class Backoff:
    """Counts failures in a row. *seed* tells workers apart, so that they do not return together."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._failures = 0

    def next_s(self) -> float:
        """Seconds to wait after one more failure."""
        self._failures += 1
        seed = f"{self._seed}/{self._failures}"
        return TROUBLE.delay_us(failed_attempts=self._failures, seed=seed) / SECOND_US

    def reset(self) -> None:
        """It works again."""
        self._failures = 0
