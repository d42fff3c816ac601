"""The command line: what to measure, and what of it is printed or written into the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks import curves, embedded, servers
from benchmarks.measuring import Plan
from benchmarks.revisions import commit_of
from benchmarks.tables import Table, put_into_page
from saga.console.cli.output import ExitCode, Misused, NotSo, Printer

IN_FLIGHT: Final = "1,64,256"
PARTITIONS: Final = "4,16"
CONTRACTS: Final = "20,100"
QUICK_SHARE: Final = 10
QUICK_RUNS: Final = 1
OPEN_SAGAS: Final = 100_000
FINISHED_IN_STORE: Final = 1_000_000
OPEN_IN_STORE: Final = 100_000

Revision = Annotated[
    str | None,
    typer.Option("--vs", metavar="REV", help="Run the code of this commit in turns with it."),
]
Loaded = Annotated[
    bool, typer.Option("--loaded", help="There: a store with many sagas beside an empty one.")
]
Mixed = Annotated[
    bool, typer.Option("--mixed", help="As --loaded: sagas of all kinds, events, children, timers.")
]


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
    runs: Annotated[int, typer.Option(min=1, help="Runs, of which the median is told.")] = 5,
    folder: Annotated[
        Path, typer.Option("--in", help="Where the files go; the disk counts.")
    ] = Path(),
    revision: Revision = None,
    bus: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Measure on a Kafka, kafka://HOST:PORT, …"),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="… and a PostgreSQL, postgresql://USER@HOST/DB."),
    ] = None,
    partitions: Annotated[
        str, typer.Option(metavar="N,…", help="There: partitions of each topic.")
    ] = PARTITIONS,
    contracts: Annotated[
        str, typer.Option(metavar="N,…", help="There: contracts of the application.")
    ] = CONTRACTS,
    is_loaded: Loaded = False,
    is_hearing: Annotated[bool, typer.Option("--events", help="Events of other keys.")] = False,
    is_mixed: Mixed = False,
    finished: Annotated[
        int, typer.Option(min=0, help="Finished sagas in the loaded store.")
    ] = FINISHED_IN_STORE,
    still_open: Annotated[int, typer.Option("--open", min=0, help="Open ones.")] = OPEN_IN_STORE,
    is_curves: Annotated[
        bool,
        typer.Option("--curves", help="How costs grow instead: a table and a picture in docs/."),
    ] = False,
    is_quick: Annotated[bool, typer.Option("--quick", help="One short run: a first idea.")] = False,
    is_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    is_for_docs: Annotated[
        bool, typer.Option("--docs", help="Also renew the tables in docs/explanation/.")
    ] = False,
) -> None:
    """Measure sagas per second on this machine, beside floors without an engine."""
    printer = Printer(is_json=is_json)
    try:
        plan = _plan(in_flight, sagas, runs, revision, is_quick=is_quick)
        sizes = _sizes(partitions, contracts, is_quick=is_quick)
        options = {"--loaded": is_loaded, "--mixed": is_mixed, "--events": is_hearing}
        on_servers = _servers(bus, store, sizes, [name for name, on in options.items() if on])
        if on_servers is not None and is_hearing:
            section, report, parts = _heard(plan, on_servers, printer)
        elif is_curves:
            section, report, parts = _curves(plan, on_servers, printer, is_quick=is_quick)
        else:
            sizes_of_past = (finished, still_open) if is_loaded or is_mixed else None
            past = sizes_of_past and servers.Past(*sizes_of_past, is_beside_mixed_load=is_mixed)
            section, report, parts = _measured(plan, on_servers, past, folder, printer)
        if is_for_docs or (is_curves and not is_quick):
            put_into_page(section, parts)
    except (Misused, NotSo) as error:
        printer.note(f"saga: {error}", style="red")
        code = ExitCode.USAGE if isinstance(error, Misused) else ExitCode.NOT_SO
        raise typer.Exit(code) from None
    if is_json:
        printer.json(report)
    else:
        _print(parts, printer)


def _curves(
    plan: Plan, on_servers: servers.Servers | None, printer: Printer, *, is_quick: bool
) -> tuple[str, dict[str, Any], Sequence[str | Table]]:
    """As `_measured`; the picture is drawn as well, but for quick ones and those of servers."""
    if on_servers is not None:
        store = on_servers.store
        report = curves.measure(plan, printer, is_quick=is_quick, server=store)
        return "growth-servers", report, curves.parts(report)
    report = curves.measure(plan, printer, is_quick=is_quick)
    if not is_quick:
        curves.draw(report)
    return "growth", report, curves.parts(report)


def _heard(
    plan: Plan, on_servers: servers.Servers, printer: Printer
) -> tuple[str, dict[str, Any], Sequence[str | Table]]:
    """As `_measured`, of sagas that wait for events of others."""
    report = servers.measure_hearing(plan, on_servers, printer)
    return "hearing", report, servers.parts_hearing(report)


def _measured(
    plan: Plan,
    on_servers: servers.Servers | None,
    past: servers.Past | None,
    folder: Path,
    printer: Printer,
) -> tuple[str, dict[str, Any], Sequence[str | Table]]:
    """The name of its place in the page, and the report as data and for people."""
    if on_servers is None:
        report = embedded.measure(plan, folder, printer)
        return "embedded", report, embedded.parts(report)
    if past is None:
        report = servers.measure(plan, on_servers, printer)
        return "servers", report, servers.parts(report)
    report = servers.measure_loaded(plan, past, on_servers, printer)
    section = "mixed" if past.is_beside_mixed_load else "loaded"
    return section, report, servers.parts_loaded(report)


def _plan(in_flight: str, sagas: int, runs: int, revision: str | None, *, is_quick: bool) -> Plan:
    if revision is not None:
        commit_of(revision)
    levels = _numbers("--in-flight", in_flight, IN_FLIGHT)
    if is_quick:
        return Plan(levels, sagas // QUICK_SHARE, QUICK_RUNS, OPEN_SAGAS // QUICK_SHARE, revision)
    return Plan(levels, sagas, runs, OPEN_SAGAS, revision)


def _sizes(
    partitions: str, contracts: str, *, is_quick: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sizes = (
        _numbers("--partitions", partitions, PARTITIONS),
        _numbers("--contracts", contracts, CONTRACTS),
    )
    return (sizes[0][:1], sizes[1][:1]) if is_quick else sizes


def _servers(
    bus: str | None,
    store: str | None,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    needing: Sequence[str],
) -> servers.Servers | None:
    """The servers, where they are given; *needing* are options that need them."""
    if bus is None and store is None:
        if needing:
            named = " and ".join(needing)
            raise Misused(f"{named}: needs servers, --bus kafka://… and --store postgresql://…")
        return None
    if bus is None or store is None:
        raise Misused("--bus and --store go together: kafka://… and postgresql://…")
    return servers.Servers(bus, store, *sizes)


def _numbers(option: str, text: str, example: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise Misused(f"{option}: {text!r}: expected numbers above 0 like {example}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _print(parts: Sequence[str | Table], printer: Printer) -> None:
    for number, part in enumerate(parts):
        if number:
            printer.say("")
        if isinstance(part, Table):
            part.print(printer)
        else:
            printer.say(part)
