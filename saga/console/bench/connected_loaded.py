"""What a past costs: the engine on a store with many sagas beside the engine on an empty one.

Both are databases of the same server, measured in turns; who is first changes with every turn. The
empty one keeps what the turns before have left in it, as the other does.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from rich.progress import Progress

from saga.console.bench.connected import WARM_UP_SAGAS
from saga.console.bench.connected_command import Measure, place
from saga.console.bench.measures import Measured
from saga.console.printer import Printer

ENGINE: Final = "saga"
LOADED: Final = "loaded"
EMPTY: Final = "empty"


@dataclass(frozen=True, slots=True)
class Past:
    """How many sagas are in the store already."""

    finished: int
    still_open: int


def measure_loaded(
    plan: Any, past: Past, addresses: dict[str, str], printer: Printer, in_a_process: Measure
) -> dict[str, Any]:
    """The engine on the servers at *addresses* as *plan* says, with *past* and without.

    Raises:
        NotSo: a server cannot be reached, or a measurement failed.
    """
    first = 0
    levels: list[dict[str, Any]] = []
    total = 1 + 2 * plan.runs * len(plan.in_flight)
    with (
        Progress(console=printer.err, transient=True) as progress,
        place(addresses) as empty,
        place(addresses) as loaded,
    ):
        places = {LOADED: loaded, EMPTY: empty}
        task = progress.add_task("filling a store", total=total)
        filled = in_a_process("filling", loaded, past.finished, past.still_open)
        progress.advance(task)
        for in_flight in plan.in_flight:
            sagas = plan.sagas_at(in_flight)
            runs: dict[str, list[Measured]] = {name: [] for name in places}
            for run in range(plan.runs):
                for name in (LOADED, EMPTY) if run % 2 else (EMPTY, LOADED):
                    progress.update(task, description=f"measuring: {name}, {in_flight} in flight")
                    found = in_a_process("connected", ENGINE, places[name], first, sagas, in_flight)
                    runs[name].append(found)
                    first += sagas + WARM_UP_SAGAS
                    progress.advance(task)
            levels.append(_level(in_flight, sagas, runs))
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "runs": plan.runs,
        "past": {"finished": past.finished, "open": past.still_open} | filled,
        "levels": levels,
    }


def _level(in_flight: int, sagas: int, runs: dict[str, list[Measured]]) -> dict[str, Any]:
    found: dict[str, Any] = {"in_flight": in_flight, "sagas": sagas}
    for name, of_it in runs.items():
        found[name] = {key: median(run[key] for run in of_it) for key in of_it[0]}
    pairs = zip(runs[LOADED], runs[EMPTY], strict=True)
    found["ratio"] = median(one["sagas_per_s"] / other["sagas_per_s"] for one, other in pairs)
    return found


def print_loaded(found: dict[str, Any], printer: Printer) -> None:
    """*found* for people."""
    past = found["past"]
    printer.say(f"{found['machine']}, Python {found['python']}, median of {found['runs']} runs")
    printer.say(
        f"loaded: {past['finished']:,} finished and {past['open']:,} open sagas,"
        f" {past['entries']:,.0f} entries, {past['megabytes']:,.0f} MB,"
        f" filled in {past['seconds']:,.0f} s\n"
    )
    cpu = ("orchestrator", "effects", "driver")
    columns = ("in flight", "store", "sagas/s", "of the empty", "p50 ms", "p99 ms")
    rows: list[tuple[object, ...]] = []
    for level in found["levels"]:
        for name in (LOADED, EMPTY):
            one = level[name]
            rows.append(
                (
                    level["in_flight"] if name == LOADED else None,
                    name,
                    round(one["sagas_per_s"]),
                    f"{level['ratio']:.0%}" if name == LOADED else "",
                    f"{one['p50_ms']:.2f}",
                    f"{one['p99_ms']:.2f}",
                    *(round(one[f"cpu_us_{part}"]) for part in cpu),
                )
            )
    printer.table((*columns, *(f"{part} µs/saga" for part in cpu)), rows)
