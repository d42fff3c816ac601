"""The clock: the only way in which time enters the engine."""

from __future__ import annotations

from typing import Protocol

from saga.core.identity import Instant


class Clock(Protocol):
    """Wall time for what is recorded, monotonic time for how long something took."""

    def now(self) -> Instant:
        """Microseconds since 1970-01-01 UTC."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds* of monotonic time."""
