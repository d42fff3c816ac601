"""Where the processor's time of a run goes: samples of what runs, by folder of the engine."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from benchmarks.product import engine
from benchmarks.timing import Measured

EVERY_S: Final = 0.001
"""Of CPU time, not of waiting."""
ELSEWHERE: Final = "the loop, and what is called in it"
USERS: Final = "the saga, its handlers and the customers"
_LOOP_MODULE: Final = "benchmarks.timing"
_USERS_MODULES: Final = {"benchmarks.order", "benchmarks.product"}
_DEPTH: Final = 3


def shares(folder: str, sagas: int, in_flight: int) -> Measured:
    """The share of each folder, with what libraries and SQLite do for it, the largest first."""
    samples: Counter[str] = Counter()
    with _sampling(lambda frame: samples.update([_place(frame)])):
        engine(folder, sagas, in_flight)
    return {place: number / samples.total() for place, number in samples.most_common()}


@contextmanager
def _sampling(take: Callable[[FrameType | None], object]) -> Iterator[None]:
    before = signal.signal(signal.SIGPROF, lambda _, frame: take(frame))
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _place(frame: FrameType | None) -> str:
    """The folder of the innermost function of the engine, or of its users."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == _LOOP_MODULE:
            return ELSEWHERE
        if module in _USERS_MODULES:
            return USERS
        if module.startswith("saga."):
            return "/".join(module.split(".")[:-1][:_DEPTH])
        frame = frame.f_back
    return ELSEWHERE
