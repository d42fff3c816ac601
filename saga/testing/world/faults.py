"""What goes wrong in a world, drawn from its seed.

About half of the kinds of fault are absent from any one world: constant chaos hides bugs, because
nothing gets far enough to break. Once a world heals, nothing is drawn.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, dataclass
from enum import StrEnum
from random import Random
from typing import Any

ABSENT_SHARE = 0.5


class Fault(StrEnum):
    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    ERROR_BEFORE = "error before"
    ERROR_AFTER = "error after"


@dataclass(frozen=True, slots=True)
class Rates:
    """How likely each fault is, at most: shares of calls, records or sagas."""

    crash_before: float = 0.03
    crash_after: float = 0.03
    error_before: float = 0.08
    error_after: float = 0.06
    torn_publish: float = 0.08
    duplicate: float = 0.2
    late_duplicate: float = 0.1
    lost_reply: float = 0.25
    late_reply: float = 0.25
    slow_call: float = 0.3
    stalled_partition: float = 0.2
    small_fetch: float = 1.0
    cancel: float = 0.5
    pause: float = 0.3
    skewed_clock: float = 1.0
    clock_set: float = 0.01
    nemesis_every_s: float | None = None

    @classmethod
    def drawn(cls, rng: Random) -> Rates:
        rates: list[Any] = [
            0.0 if rng.random() < ABSENT_SHARE else rng.uniform(0.1, 1.0) * highest
            for highest in astuple(cls())[:-1]
        ]
        rates.append(None if rng.random() < ABSENT_SHARE else rng.uniform(0.4, 2.0))
        return cls(*rates)


POLLS = frozenset(
    {"store.due_timers", "store.now", "consumer.fetch", "clock.sleep", "consumer.assignment"}
)
"""Calls made all the time, whether or not anything happens: fewer of them are hit."""
POLL_SHARE = 0.1


class Faults:
    """The dice of one world, and what they have shown so far."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.rates = Rates.drawn(rng)
        self.is_on = True
        self.seen: Counter[str] = Counter()

    def at_call(self, point: str, *, can_fail: bool, can_crash: bool = True) -> Fault | None:
        if not self.is_on:
            return None
        rates, roll = self.rates, self.rng.random()
        if point in POLLS:
            roll /= POLL_SHARE
        for fault, rate in (
            (Fault.CRASH_BEFORE, rates.crash_before if can_crash else 0.0),
            (Fault.CRASH_AFTER, rates.crash_after if can_crash else 0.0),
            (Fault.ERROR_BEFORE, rates.error_before if can_fail else 0.0),
            (Fault.ERROR_AFTER, rates.error_after if can_fail else 0.0),
        ):
            if roll < rate:
                self.seen[f"{fault.value} {point}"] += 1
                return fault
            roll -= rate
        return None

    def hits(self, what: str, rate: float) -> bool:
        """Whether something of this *rate* happens now."""
        if not self.is_on or rate <= 0 or self.rng.random() >= rate:
            return False
        self.seen[what] += 1
        return True

    def heal(self) -> None:
        """Nothing goes wrong from now on."""
        self.is_on = False
