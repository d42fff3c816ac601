"""Lengths of time as people write them, and as the core counts them: whole microseconds."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache

SECOND_US = 1_000_000
UNITS_US = {
    "ms": 1_000,
    "s": SECOND_US,
    "m": 60 * SECOND_US,
    "h": 3_600 * SECOND_US,
    "d": 86_400 * SECOND_US,
}
DURATION_MAX_US = 100 * 366 * UNITS_US["d"]
"""A century: beyond it a duration is a typing error."""

Duration = timedelta | str
_TEXT = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", re.ASCII)


@lru_cache(maxsize=1024)
def duration_us(duration: Duration) -> int:
    """Microseconds of a `timedelta` or of text like `"30s"`, `"5m"`, `"2h"`, `"1d"`, `"250ms"`.

    What is below zero is over already, as a deadline that has passed: zero.

    Raises:
        ValueError: it is neither, or longer than a century.
    """
    if isinstance(duration, timedelta):
        length_us = duration // timedelta(microseconds=1)
    else:
        found = _TEXT.fullmatch(str(duration))
        if found is None:
            raise ValueError(
                f"{duration!r} is no duration: expected a timedelta or text like '30s', '5m', '2h'"
            )
        length_us = round(min(float(found[1]) * UNITS_US[found[2]], 2 * DURATION_MAX_US))
    if length_us > DURATION_MAX_US:
        raise ValueError(f"{duration!r} is no duration: the longest is a century")
    return max(length_us, 0)
