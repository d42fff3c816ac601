"""The command: measurements in turns, each in a process of its own, and what they say together.

Engine and floor take turns, because machines are noisy: only what ran in the same minute is
compared, and what is told is the median.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import orjson
import typer
from rich.progress import Progress

from saga.console.bench import connected_command, connected_loaded
from saga.console.bench.measures import Measured
from saga.console.printer import Printer
from saga.console.problems import Misused, NotSo

IN_FLIGHT: Final = "1,64,256"
SAGAS_AT_ONE: Final = 600
"""One at a time takes milliseconds for each."""
QUICK_SHARE: Final = 10
OPEN_SAGAS: Final = 100_000
FINISHED_IN_STORE: Final = 1_000_000
OPEN_IN_STORE: Final = 100_000
QUICK_RUNS: Final = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    in_flight: tuple[int, ...]
    sagas: int
    runs: int
    open_sagas: int

    def sagas_at(self, in_flight: int) -> int:
        """How many sagas are run for one measurement."""
        return min(self.sagas, SAGAS_AT_ONE) if in_flight == 1 else self.sagas

    @property
    def measurements(self) -> int:
        """How many there will be."""
        return 2 * self.runs * len(self.in_flight) + 2


def bench(
    *,
    in_flight: Annotated[
        str, typer.Option(metavar="N,…", help="How many sagas run at a time.")
    ] = IN_FLIGHT,
    sagas: Annotated[int, typer.Option(min=100, help="Sagas of a run.")] = 6_000,
    runs: Annotated[int, typer.Option(min=1, help="Runs, of which the median is told.")] = 3,
    folder: Annotated[
        Path, typer.Option("--in", help="Where the files go; the disk counts.")
    ] = Path(),
    bus: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Measure on a Kafka, kafka://HOST:PORT, …"),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="… and a PostgreSQL, postgresql://USER@HOST/DB."),
    ] = None,
    is_loaded: Annotated[
        bool,
        typer.Option("--loaded", help="There: a store with many sagas beside an empty one."),
    ] = False,
    finished: Annotated[
        int, typer.Option(min=0, help="Finished sagas in the loaded store.")
    ] = FINISHED_IN_STORE,
    still_open: Annotated[
        int, typer.Option("--open", min=0, help="Open sagas in the loaded store.")
    ] = OPEN_IN_STORE,
    is_quick: Annotated[bool, typer.Option("--quick", help="One short run: a first idea.")] = False,
    is_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Measure sagas per second on this machine, beside a floor without an engine."""
    printer = Printer(is_json=is_json)
    try:
        plan = Plan(_numbers(in_flight), sagas, runs, OPEN_SAGAS)
        if is_quick:
            plan = Plan(plan.in_flight, sagas // QUICK_SHARE, QUICK_RUNS, OPEN_SAGAS // QUICK_SHARE)
        addresses = _servers(bus, store, is_loaded=is_loaded)
        if addresses is None:
            found = _measure(plan, folder, printer)
        elif is_loaded:
            past = connected_loaded.Past(finished, still_open)
            found = connected_loaded.measure_loaded(plan, past, addresses, printer, _in_a_process)
        else:
            found = connected_command.measure_connected(plan, addresses, printer, _in_a_process)
    except (Misused, NotSo) as error:
        printer.note(f"saga: {error}", style="red")
        return 2 if isinstance(error, Misused) else 1
    if is_json:
        printer.json(found)
    elif is_loaded:
        connected_loaded.print_loaded(found, printer)
    elif bus is not None:
        connected_command.print_connected(found, printer)
    else:
        _print(found, printer)
    return 0


def _servers(bus: str | None, store: str | None, *, is_loaded: bool) -> dict[str, str] | None:
    if bus is None and store is None:
        if is_loaded:
            raise Misused("--loaded needs servers: --bus kafka://… and --store postgresql://…")
        return None
    if bus is None or store is None:
        raise Misused("--bus and --store go together: kafka://… and postgresql://…")
    return {"bus": bus, "store": store}


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise Misused(f"--in-flight: {text!r}: expected numbers above 0 like {IN_FLIGHT}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _measure(plan: Plan, folder: Path, printer: Printer) -> dict[str, Any]:
    levels: list[dict[str, Any]] = []
    with Progress(console=printer.err, transient=True) as progress:
        task = progress.add_task("measuring", total=plan.measurements)

        def measured(name: str, *arguments: object) -> Measured:
            progress.update(task, description=f"measuring: {name} {arguments or ''}")
            found = _in_a_process(name, *arguments)
            progress.advance(task)
            return found

        with _fresh(folder) as kept:
            for in_flight in plan.in_flight:
                sagas = plan.sagas_at(in_flight)
                floors, products = [], []
                for run in range(plan.runs):
                    with _fresh(folder) as place:
                        floors.append(measured("floor", place, sagas, in_flight))
                    place = f"{kept}/{in_flight}-{run}"
                    products.append(measured("product", place, sagas, in_flight))
                levels.append(_level(in_flight, sagas, floors, products))
            replayed = measured("replaying", f"{kept}/{plan.in_flight[-1]}-0")
        with _fresh(folder) as place:
            opened = measured("opening", place, plan.open_sagas)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "runs": plan.runs,
        "levels": levels,
        "replay": replayed,
        "open": opened,
    }


def _level(
    in_flight: int, sagas: int, floors: list[Measured], products: list[Measured]
) -> dict[str, Any]:
    def middle(runs: list[Measured]) -> Measured:
        return {name: median(run[name] for run in runs) for name in runs[0]}

    pairs = zip(products, floors, strict=True)
    ratio = median(one["sagas_per_s"] / other["sagas_per_s"] for one, other in pairs)
    return {
        "in_flight": in_flight,
        "sagas": sagas,
        "floor": middle(floors),
        "saga": middle(products),
        "ratio": ratio,
    }


def _in_a_process(name: str, *arguments: object) -> Measured:
    command = [sys.executable, "-m", "saga.console.bench", name, orjson.dumps(arguments).decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise NotSo(f"measuring {name} ended with {done.returncode}: {words[0]}")
    found: Measured = orjson.loads(done.stdout)
    return found


@contextmanager
def _fresh(folder: Path) -> Iterator[str]:
    try:
        made = TemporaryDirectory(prefix="saga-bench-", dir=folder)
    except OSError as error:
        raise Misused(f"--in: {folder}: {error.strerror}") from None
    with made as path:
        yield str(Path(path).resolve())


def _print(found: dict[str, Any], printer: Printer) -> None:
    printer.say(f"{found['machine']}, Python {found['python']}, median of {found['runs']} runs\n")
    columns = ("in flight", "", "sagas/s", "of the floor", "p50 ms", "p99 ms", "CPU µs/saga")
    rows: list[tuple[object, ...]] = []
    for level in found["levels"]:
        for name in ("saga", "floor"):
            one = level[name]
            share = f"{level['ratio']:.0%}" if name == "saga" else ""
            rows.append(
                (
                    level["in_flight"] if name == "saga" else None,
                    name,
                    round(one["sagas_per_s"]),
                    share,
                    f"{one['p50_ms']:.2f}",
                    f"{one['p99_ms']:.2f}",
                    round(one["cpu_us_per_saga"]),
                )
            )
    printer.table(columns, rows)
    replayed, opened = found["replay"], found["open"]
    printer.say(
        f"\nreplay: {replayed['folded_per_s']:,.0f} entries/s of one core;"
        f" {replayed['checked_per_s']:,.0f} with reading them, as `saga replay` does"
    )
    printer.say(f"{opened['sagas']:,.0f} open sagas: {opened['resident_mb']:,.0f} MB at most")
