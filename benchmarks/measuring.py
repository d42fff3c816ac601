"""What all benchmarks share: the plan, runs in processes of their own, and what they come to.

Machines are noisy: only runs of the same minute are compared, each with its neighbour. A figure is
a median, and is told with the least and the most.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
from rich.progress import Progress

from benchmarks.revisions import commit_of, todays_commit
from benchmarks.tables import Table
from benchmarks.timing import Measured
from saga.console.cli.output import NotSo

SAGAS_AT_ONE: Final = 600
"""One at a time takes milliseconds for each."""
SAGA: Final = "saga"
COMPARED: Final = {
    "sagas_per_s": "sagas/s",
    "p50_ms": "p50",
    "p99_ms": "p99",
    "cpu_us_per_saga": "CPU",
}

Spread = dict[str, Any]
"""Of some runs: median, least, most, and all of them."""
Level = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    in_flight: tuple[int, ...]
    sagas: int
    runs: int
    open_sagas: int
    revision: str | None = None

    def sagas_at(self, in_flight: int) -> int:
        return min(self.sagas, SAGAS_AT_ONE) if in_flight == 1 else self.sagas


def run_child(name: str, *arguments: object, folder: Path | None = None) -> Measured:
    """One measurement in a process of its own; NotSo if that fails.

    In a *folder* laid out for it, it measures the engine that is there.
    """
    command = [sys.executable, "-m", "benchmarks.child", name, orjson.dumps(arguments).decode()]
    child = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
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

    def run(self, text: str, name: str, *arguments: object, folder: Path | None = None) -> Measured:
        self._progress.update(self._task, description=text)
        measured = run_child(name, *arguments, folder=folder)
        self._progress.advance(self._task)
        return measured


def measure_levels(
    plan: Plan,
    rivals: Sequence[str],
    subjects: Sequence[str],
    measure: Callable[[str, int, int], Measured],
) -> list[Level]:
    """The rivals in turns at each level, and each of the *subjects* beside each other rival."""
    levels: list[Level] = []
    for in_flight in plan.in_flight:
        sagas = plan.sagas_at(in_flight)
        runs = in_turns(rivals, plan.runs, lambda name: measure(name, sagas, in_flight))  # noqa: B023
        levels.append({"in_flight": in_flight, "sagas": sagas} | compared(runs, subjects))
    return levels


def in_turns(
    rivals: Sequence[str], runs: int, measure: Callable[[str], Measured]
) -> dict[str, list[Measured]]:
    """Each of the *rivals* so many times, another one first each time."""
    measured: dict[str, list[Measured]] = {name: [] for name in rivals}
    for run in range(runs):
        for name in rivals if run % 2 else reversed(rivals):
            measured[name].append(measure(name))
    return measured


def compared(runs: Mapping[str, Sequence[Measured]], subjects: Sequence[str]) -> dict[str, Any]:
    """The figures of all, and ratios: each run of a subject to the run of a rival beside it."""
    others = [name for name in runs if name not in subjects]
    return {
        "measured": {
            name: {figure: spread([run[figure] for run in own]) for figure in own[0]}
            for name, own in runs.items()
        },
        "beside": {
            name: {other: _ratios(runs[name], runs[other]) for other in others} for name in subjects
        },
    }


def _ratios(own: Sequence[Measured], other: Sequence[Measured]) -> dict[str, Spread]:
    pairs = list(zip(own, other, strict=True))
    return {
        figure: spread([one[figure] / beside[figure] for one, beside in pairs])
        for figure in own[0]
        if figure in other[0]
    }


def spread(values: Sequence[float]) -> Spread:
    return {
        "median": median(values),
        "least": min(values),
        "most": max(values),
        "runs": list(values),
    }


def figures_table(levels: Sequence[Level], cpu: Mapping[str, str]) -> Table:
    """What was measured; *cpu* names the figures of processor and their columns."""
    columns = ("in flight", "", "sagas/s", "p50 ms", "p99 ms", *cpu.values())
    rows: list[tuple[object, ...]] = []
    for level in levels:
        shown: int | None = level["in_flight"]
        for name, figures in level["measured"].items():
            of = {figure: each["median"] for figure, each in figures.items()}
            latencies = (f"{of['p50_ms']:.2f}", f"{of['p99_ms']:.2f}")
            used = (round(of[each]) if each in of else None for each in cpu)
            rows.append((shown, name, round(of["sagas_per_s"]), *latencies, *used))
            shown = None
    return Table(columns, rows)


def ratios_table(levels: Sequence[Level]) -> Table:
    """How often the subject's figure holds the other's: the median, and the least and the most."""
    columns = ("in flight", "", "beside", *COMPARED.values())
    rows: list[tuple[object, ...]] = []
    for level in levels:
        shown: int | None = level["in_flight"]
        for name, others in level["beside"].items():
            for other, ratios in others.items():
                rows.append((shown, name, other, *(told(ratios[each]) for each in COMPARED)))
                shown = None
    return Table(columns, rows)


def told(ratio: Spread) -> str:
    """A ratio with its spread."""
    return f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})"


def circumstances(plan: Plan) -> dict[str, Any]:
    """Where and of what everything is measured; *load* is that of the minute before."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "commit": todays_commit(),
        "beside_commit": plan.revision and commit_of(plan.revision),
        "runs": plan.runs,
    }


def heading(report: Mapping[str, Any]) -> str:
    return (
        f"{report['machine']} (load {report['load']:g} before), Python {report['python']}, "
        f"commit {report['commit']}, median of {report['runs']} runs"
    )
