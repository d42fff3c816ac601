"""What all benchmarks share: the plan, runs in processes of their own, and their medians.

Machines are noisy. Only runs of the same minute are compared, and what is printed is the median.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final

import orjson

from saga.console.cli.output import NotSo

SAGAS_AT_ONE: Final = 600
"""One at a time takes milliseconds for each."""
PERCENT: Final = 100

Measured = dict[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    in_flight: tuple[int, ...]
    sagas: int
    runs: int
    open_sagas: int

    def sagas_at(self, in_flight: int) -> int:
        """How many sagas one measurement runs."""
        return min(self.sagas, SAGAS_AT_ONE) if in_flight == 1 else self.sagas


def run_child(name: str, *arguments: object) -> Measured:
    """One measurement in a process of its own.

    Raises:
        NotSo: the process failed.
    """
    command = [sys.executable, "-m", "benchmarks.child", name, orjson.dumps(arguments).decode()]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        last_line = child.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise NotSo(f"measuring {name} ended with {child.returncode}: {last_line[0]}")
    measured: Measured = orjson.loads(child.stdout)
    return measured


def medians(runs: Sequence[Measured]) -> Measured:
    """The median of each figure."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def median_ratio(runs: Sequence[Measured], others: Sequence[Measured]) -> float:
    """The median of the ratios in sagas a second, run by run."""
    pairs = zip(runs, others, strict=True)
    return median(run["sagas_per_s"] / other["sagas_per_s"] for run, other in pairs)


def percentiles(latencies: list[float]) -> Measured:
    """The median and the slowest of a hundred, in milliseconds."""
    cuts = quantiles(latencies, n=PERCENT, method="inclusive")
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}


def circumstances(plan: Plan) -> dict[str, Any]:
    """Where and how often was measured."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "runs": plan.runs,
    }


def heading(report: dict[str, Any]) -> str:
    """The same for people."""
    return f"{report['machine']}, Python {report['python']}, median of {report['runs']} runs"
