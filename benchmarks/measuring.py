"""What all benchmarks share: the plan, runs in processes of their own, and their medians.

Machines are noisy: only runs of the same minute are compared.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final

import orjson
from rich.progress import Progress

from saga.console.cli.output import NotSo, Printer

SAGAS_AT_ONE: Final = 600
"""One at a time takes milliseconds for each."""
PERCENT: Final = 100

Measured = dict[str, float]
Level = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    in_flight: tuple[int, ...]
    sagas: int
    runs: int
    open_sagas: int

    def sagas_at(self, in_flight: int) -> int:
        return min(self.sagas, SAGAS_AT_ONE) if in_flight == 1 else self.sagas


def run_child(name: str, *arguments: object) -> Measured:
    """One measurement in a process of its own; NotSo if that fails."""
    command = [sys.executable, "-m", "benchmarks.child", name, orjson.dumps(arguments).decode()]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        last_line = child.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise NotSo(f"measuring {name} ended with {child.returncode}: {last_line[0]}")
    measured: Measured = orjson.loads(child.stdout)
    return measured


class Bar:
    """Measurements one after another, and what the progress bar says of them."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("measuring", total=total)

    def run(self, text: str, name: str, *arguments: object) -> Measured:
        self._progress.update(self._task, description=text)
        measured = run_child(name, *arguments)
        self._progress.advance(self._task)
        return measured


def measure_levels(
    plan: Plan, rivals: Sequence[str], baseline: str, measure: Callable[[str, int, int], Measured]
) -> list[Level]:
    """The rivals in turns, another one first each time: medians, and ratios to *baseline*."""
    levels: list[Level] = []
    for in_flight in plan.in_flight:
        sagas = plan.sagas_at(in_flight)
        runs: dict[str, list[Measured]] = {name: [] for name in rivals}
        for run in range(plan.runs):
            for name in rivals if run % 2 else reversed(rivals):
                runs[name].append(measure(name, sagas, in_flight))
        level: Level = {"in_flight": in_flight, "sagas": sagas}
        for name in rivals:
            pairs = zip(runs[name], runs[baseline], strict=True)
            ratio = median(one["sagas_per_s"] / other["sagas_per_s"] for one, other in pairs)
            figures = {each: median(one[each] for one in runs[name]) for each in runs[name][0]}
            level[name] = figures | {"ratio": ratio}
        levels.append(level)
    return levels


def print_levels(
    levels: Sequence[Level], baseline: str, cpu: Mapping[str, str], printer: Printer
) -> None:
    """The table of what was measured; *cpu* names the figures of processor and their columns."""
    columns = ("in flight", "", "sagas/s", f"of the {baseline}", "p50 ms", "p99 ms", *cpu.values())
    rows: list[tuple[object, ...]] = []
    for level in levels:
        in_flight = level["in_flight"]
        for name in [each for each in level if each not in {"in_flight", "sagas"}]:
            figures = level[name]
            rows.append(
                (
                    in_flight,
                    name,
                    round(figures["sagas_per_s"]),
                    "" if name == baseline else f"{figures['ratio']:.0%}",
                    f"{figures['p50_ms']:.2f}",
                    f"{figures['p99_ms']:.2f}",
                    *(round(figures[each]) for each in cpu),
                )
            )
            in_flight = None
    printer.table(columns, rows)


def percentiles(latencies: list[float]) -> Measured:
    cuts = quantiles(latencies, n=PERCENT, method="inclusive")
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}


def circumstances(plan: Plan) -> dict[str, Any]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "runs": plan.runs,
    }


def heading(report: dict[str, Any]) -> str:
    return f"{report['machine']}, Python {report['python']}, median of {report['runs']} runs"
