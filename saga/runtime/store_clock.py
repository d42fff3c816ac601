"""The store's clock as a worker knows it: all that is recorded is dated by it, and timers are due.

A worker measures how far its own clock is from the store's, again and again. The answer was true at
some moment between question and answer; the earliest of them counts, so that no timer is early.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from typing_extensions import override

from saga.core.durations import SECOND_US
from saga.core.identity import Instant
from saga.ports import Clock, EventStore

MEASURE_S: Final = 10.0
ERROR_S_MAX: Final = 1.0
AGE_S_MAX: Final = 60.0
STEP_S_MAX: Final = 0.5
"""By how much a machine's two clocks may part before the store is asked anew."""


class Measured(NamedTuple):
    """It was at least *earliest* when this machine's clocks said *own* and *monotonic_s*."""

    earliest: Instant
    own: Instant
    monotonic_s: float
    error_s: float


class StoreClock(Clock):
    """Where the store has no clock of its own, this is the machine's."""

    def __init__(self, store: EventStore, own: Clock) -> None:
        self._store = store
        self._own = own
        self._measured: Measured | None = None
        self._has_own = True
        """Whether the store may have a clock of its own."""

    @override
    def now(self) -> Instant:
        measured = self._measured
        if measured is None:
            return self._own.now()
        passed_s = self._own.monotonic_s() - measured.monotonic_s
        return Instant(measured.earliest + int(passed_s * SECOND_US))

    @override
    def monotonic_s(self) -> float:
        return self._own.monotonic_s()

    @override
    async def sleep(self, seconds: float) -> None:
        await self._own.sleep(seconds)

    @property
    def ahead_s(self) -> float:
        """How far the store's clock is ahead of this machine's, as it was last measured."""
        measured = self._measured
        if measured is None:
            return 0.0
        return (measured.earliest - measured.own) / SECOND_US + measured.error_s

    @property
    def error_s(self) -> float:
        return 0.0 if self._measured is None else self._measured.error_s

    async def measure(self) -> None:
        """Ask the store for its time; raises StoreUnavailable."""
        began_s = self._own.monotonic_s()
        earliest = await self._store.now()
        monotonic_s = self._own.monotonic_s()
        self._has_own = earliest is not None
        if earliest is not None:
            error_s = (monotonic_s - began_s) / 2
            self._measured = Measured(earliest, self._own.now(), monotonic_s, error_s)

    async def read(self) -> Instant:
        """As `now`, but measured anew if this machine's clock was set; raises StoreUnavailable."""
        if self._measured is not None and self._has_stepped(self._measured):
            await self.measure()
        return self.now()

    async def keep(self) -> None:
        """Measure, where that was long ago or says too little; raises StoreUnavailable."""
        if self._has_own and (self._age_s >= MEASURE_S or self.why_unsure() is not None):
            await self.measure()

    def why_unsure(self) -> str | None:
        """Why the store's time is not known well enough to fire timers; None where it is."""
        measured = self._measured
        if not self._has_own:
            return None
        if measured is None:
            return "the store's clock was not measured yet: no timer fires"
        age_s = self._age_s
        if age_s >= AGE_S_MAX:
            return f"the store's clock was last measured {age_s:.0f} s ago: no timer fires"
        if measured.error_s > ERROR_S_MAX:
            what = f"the store's clock is known to within {measured.error_s:.1f} s only"
            return f"{what}, as its answers take too long: no timer fires"
        if self._has_stepped(measured):
            return "this machine's clock was set, or stood still: no timer fires before it is known"
        return None

    def _has_stepped(self, measured: Measured) -> bool:
        passed_s = self._own.monotonic_s() - measured.monotonic_s
        return abs((self._own.now() - measured.own) / SECOND_US - passed_s) > STEP_S_MAX

    @property
    def _age_s(self) -> float:
        measured = self._measured
        return AGE_S_MAX if measured is None else self.monotonic_s() - measured.monotonic_s
