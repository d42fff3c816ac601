"""Long work that is done piece by piece: a generator, whose value is the result.

Who has an event loop lets others run between two pieces (`saga.tasks.Interleaved`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Piecewise: TypeAlias = Generator[None, None, T]


def at_once(pieces: Piecewise[T]) -> T:
    """What comes of *pieces*, without a pause."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result
