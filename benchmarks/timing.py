"""How every process of a benchmark runs and is timed, whatever code it measures.

Nothing here comes from the engine: an older commit of it is measured by the same lines.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import quantiles
from types import FrameType
from typing import Any, Final, TypeVar

import uvloop

GC_THRESHOLDS: Final = (50_000, 20, 50)
"""As `saga run` sets them."""
WARM_UP_SAGAS: Final = 300
PERCENT: Final = 100

Measured = dict[str, float]
T = TypeVar("T")


def run_fast(main: Coroutine[Any, Any, T]) -> T:
    with closing(main), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def tune_gc() -> None:
    """Freeze what there is, and collect rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


@contextmanager
def stopwatch(sagas: int) -> Iterator[Measured]:
    """Rate, and CPU time a saga, of what happens inside; they are there afterwards."""
    measured: Measured = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield measured
    measured["cpu_us_per_saga"] = (time.process_time() - cpu) / sagas * 1e6
    measured["sagas_per_s"] = sagas / (time.perf_counter() - wall)


@contextmanager
def counter(sagas: int) -> Iterator[Measured]:
    """Instructions of the interpreter a saga, in this thread: takes `stopwatch`'s place."""
    measured: Measured = {}
    with counting() as count:
        yield measured
    measured["instructions"] = count() / sagas


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """How many instructions of the interpreter have been run inside, by this thread."""
    count = 0

    def traced(frame: FrameType, what: str, _: object) -> Any:
        nonlocal count
        if what == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif what == "opcode":
            count += 1
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        yield lambda: count
    finally:
        sys.settrace(before)


def percentiles(latencies: list[float]) -> Measured:
    cuts = quantiles(latencies, n=PERCENT, method="inclusive")
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}


def resident_mb() -> float:
    """The most memory that this process has had.

    Linux hands a parent's peak to its children in `ru_maxrss`, and counts each anew as `VmHWM`.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere
