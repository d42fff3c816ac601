"""The command line: what to measure, and the table of what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer
from rich.progress import Progress

from benchmarks import servers
from benchmarks.measuring import (
    Bar,
    Measured,
    Plan,
    circumstances,
    heading,
    measure_levels,
    print_levels,
)
from saga.console.cli.output import ExitCode, Misused, NotSo, Printer

IN_FLIGHT: Final = "1,64,256"
QUICK_SHARE: Final = 10
QUICK_RUNS: Final = 1
OPEN_SAGAS: Final = 100_000
FINISHED_IN_STORE: Final = 1_000_000
OPEN_IN_STORE: Final = 100_000


def program() -> typer.Typer:
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    made.command(context_settings={"help_option_names": ["-h", "--help"]})(benchmark)
    return made


def benchmark(
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
) -> None:
    """Measure sagas per second on this machine, beside a floor without an engine."""
    printer = Printer(is_json=is_json)
    try:
        plan = _plan(in_flight, sagas, runs, is_quick=is_quick)
        addresses = _addresses(bus, store, is_loaded=is_loaded)
        if addresses is None:
            report, show = _measure_files(plan, folder, printer), _print
        elif is_loaded:
            past = servers.Past(finished, still_open)
            report = servers.measure_loaded(plan, past, addresses, printer)
            show = servers.print_loaded
        else:
            report, show = servers.measure(plan, addresses, printer), servers.print_report
    except (Misused, NotSo) as error:
        printer.note(f"saga: {error}", style="red")
        code = ExitCode.USAGE if isinstance(error, Misused) else ExitCode.NOT_SO
        raise typer.Exit(code) from None
    if is_json:
        printer.json(report)
    else:
        show(report, printer)


def _plan(in_flight: str, sagas: int, runs: int, *, is_quick: bool) -> Plan:
    numbers = _numbers(in_flight)
    if is_quick:
        return Plan(numbers, sagas // QUICK_SHARE, QUICK_RUNS, OPEN_SAGAS // QUICK_SHARE)
    return Plan(numbers, sagas, runs, OPEN_SAGAS)


def _addresses(bus: str | None, store: str | None, *, is_loaded: bool) -> dict[str, str] | None:
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


def _measure_files(plan: Plan, folder: Path, printer: Printer) -> dict[str, Any]:
    with Progress(console=printer.err, transient=True) as progress, _scratch(folder) as kept:
        bar = Bar(progress, 2 * plan.runs * len(plan.in_flight) + 2)

        def measured(name: str, place: str, sagas: int, in_flight: int) -> Measured:
            return bar.run(
                f"measuring: {name}, {in_flight} in flight", name, place, sagas, in_flight
            )

        def in_turn(rival: str, sagas: int, in_flight: int) -> Measured:
            if rival == "saga":  # the last run is replayed
                rmtree(last, ignore_errors=True)
                return measured("engine", last, sagas, in_flight)
            with _scratch(folder) as place:
                return measured("floor", place, sagas, in_flight)

        last = f"{kept}/engine"
        levels = measure_levels(plan, ("saga", "floor"), "floor", in_turn)
        replayed = bar.run("measuring: replay", "replaying", last)
        with _scratch(folder) as place:
            opened = bar.run("measuring: open sagas", "opening", place, plan.open_sagas)
    return circumstances(plan) | {"levels": levels, "replay": replayed, "open": opened}


@contextmanager
def _scratch(folder: Path) -> Iterator[str]:
    try:
        made = TemporaryDirectory(prefix="saga-bench-", dir=folder)
    except OSError as error:
        raise Misused(f"--in: {folder}: {error.strerror}") from None
    with made as path:
        yield str(Path(path).resolve())


def _print(report: dict[str, Any], printer: Printer) -> None:
    printer.say(heading(report), "")
    cpu = {"cpu_us_per_saga": "CPU µs/saga"}
    print_levels(report["levels"], "floor", cpu, printer)
    replayed, opened = report["replay"], report["open"]
    printer.say(
        "",
        f"replay: {replayed['folded_per_s']:,.0f} entries/s of one core;"
        f" {replayed['checked_per_s']:,.0f} with reading them, as `saga replay` does",
        f"{opened['sagas']:,.0f} open sagas: {opened['resident_mb']:,.0f} MB at most",
    )
