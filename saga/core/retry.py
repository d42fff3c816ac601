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
        only_on: codes of the failures that are tried again, where not all are: `timeout` is that of
            a missed deadline, `failed` that of a failure for which the service gave none.

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
    only_on: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts={self.attempts}: at least one attempt is needed")
        if not 0 <= self.factor <= sys.float_info.max:
            raise ValueError(f"factor={self.factor}: expected a finite number that is not below 0")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter}: expected a share, from 0 to 1")
        _check_codes(self.never_on, self.only_on)
        for duration in (self.initial, self.cap, self.within):
            if duration is not None:
                duration_us(duration)

    def allows(self, *, failed_attempts: int, elapsed_us: int, code: str | None = None) -> bool:
        """Whether one more attempt may follow and begin *elapsed_us* after the first."""
        if code is not None and code in self.never_on:
            return False
        if self.only_on is not None and (code or "failed") not in self.only_on:
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


def _check_codes(never_on: object, only_on: object) -> None:
    """Refuse what is no list of codes: a text alone would be taken for its characters."""
    for name, codes in (("never_on", never_on), ("only_on", only_on)):
        if codes is None and name == "only_on":
            continue
        if not isinstance(codes, tuple) or not all(isinstance(code, str) for code in codes):
            raise ValueError(f'{name}={codes!r}: expected a tuple of codes, as ("busy",)')
    if only_on == ():
        raise ValueError("only_on=(): nothing would be tried again: use attempts=1")
    if both := set(never_on) & set(only_on or ()):  # type: ignore[call-overload]  # as was checked
        raise ValueError(f"only_on and never_on both name {', '.join(sorted(both))}")


def fraction(seed: str) -> float:
    """A number from 0 up to 1, the same for the same *seed*."""
    digest = blake2b(seed.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


STEP_DEFAULT = Retry()
ONCE = Retry(attempts=1)
FOREVER = Retry(attempts=None)
UNDO_DEFAULT = Retry(attempts=None, initial="500ms", cap="1m")
