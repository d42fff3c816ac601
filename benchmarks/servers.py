"""Measuring on servers: engine and floor on the same Kafka and PostgreSQL, in turns.

Whatever is measured has a namespace of topics and a database of its own, made for it. The database
is dropped afterwards; topics stay, with a retention of an hour.
With a past, a store with many sagas and an empty one take turns instead; who is first changes with
every turn, and both keep what earlier turns have left in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from rich.progress import Progress

from benchmarks.driving import RIVALS, WARM_UP_SAGAS
from benchmarks.measuring import (
    Measured,
    Plan,
    circumstances,
    heading,
    median_ratio,
    medians,
    run_child,
)
from saga.adapters.ids import new_id
from saga.console.cli.output import NotSo, Printer

RETENTION: Final = "1h"
PARTITIONS: Final = "4"
ENGINE: Final = "saga"
FLOOR: Final = "floor"
LOADED: Final = "loaded"
EMPTY: Final = "empty"
CPU_OF: Final = ("orchestrator", "effects", "driver")


@dataclass(frozen=True, slots=True)
class Past:
    """How many sagas are in the store already."""

    finished: int
    still_open: int


def measure(plan: Plan, addresses: dict[str, str], printer: Printer) -> dict[str, Any]:
    """What *plan* asks for, of the engine and the floor on the servers at *addresses*.

    Raises:
        NotSo: a server cannot be reached, or a measurement failed.
    """
    levels: list[dict[str, Any]] = []
    with Progress(console=printer.err, transient=True) as progress, scratch(addresses) as own:
        turns = _Turns(progress, len(RIVALS) * plan.runs * len(plan.in_flight))
        for in_flight in plan.in_flight:
            sagas = plan.sagas_at(in_flight)
            runs: dict[str, list[Measured]] = {name: [] for name in RIVALS}
            for _ in range(plan.runs):
                for name, measured in runs.items():
                    measured.append(turns.take(name, name, own, sagas, in_flight))
            level: dict[str, Any] = {"in_flight": in_flight, "sagas": sagas}
            for name, measured in runs.items():
                level[name] = medians(measured) | {"ratio": median_ratio(measured, runs[FLOOR])}
            levels.append(level)
    return circumstances(plan) | {"levels": levels}


def measure_loaded(
    plan: Plan, past: Past, addresses: dict[str, str], printer: Printer
) -> dict[str, Any]:
    """The engine on the servers at *addresses* as *plan* says, with *past* and without.

    Raises:
        NotSo: a server cannot be reached, or a measurement failed.
    """
    levels: list[dict[str, Any]] = []
    with (
        Progress(console=printer.err, transient=True) as progress,
        scratch(addresses) as empty,
        scratch(addresses) as loaded,
    ):
        turns = _Turns(progress, 1 + 2 * plan.runs * len(plan.in_flight))
        filled = turns.step("filling a store", "fill", loaded, past.finished, past.still_open)
        places = {LOADED: loaded, EMPTY: empty}
        for in_flight in plan.in_flight:
            sagas = plan.sagas_at(in_flight)
            runs: dict[str, list[Measured]] = {name: [] for name in places}
            for run in range(plan.runs):
                for name in (LOADED, EMPTY) if run % 2 else (EMPTY, LOADED):
                    runs[name].append(turns.take(name, ENGINE, places[name], sagas, in_flight))
            levels.append(
                {
                    "in_flight": in_flight,
                    "sagas": sagas,
                    **{name: medians(measured) for name, measured in runs.items()},
                    "ratio": median_ratio(runs[LOADED], runs[EMPTY]),
                }
            )
    sizes = {"finished": past.finished, "open": past.still_open}
    return circumstances(plan) | {"past": sizes | filled, "levels": levels}


def print_report(report: dict[str, Any], printer: Printer) -> None:
    """What `measure` has given, for people."""
    printer.say(f"{heading(report)}\n")
    rows: list[tuple[object, ...]] = []
    for level in report["levels"]:
        for name in RIVALS:
            ratio = "" if name == FLOOR else f"{level[name]['ratio']:.0%}"
            in_flight = level["in_flight"] if name == ENGINE else None
            rows.append((in_flight, name, *_figures(level[name], ratio)))
    printer.table(_columns("", "of the floor"), rows)
    printer.say("\nµs/saga: CPU of each process; Kafka and PostgreSQL take theirs beside it.")


def print_loaded(report: dict[str, Any], printer: Printer) -> None:
    """What `measure_loaded` has given, for people."""
    past = report["past"]
    printer.say(heading(report))
    printer.say(
        f"loaded: {past['finished']:,} finished and {past['open']:,} open sagas,"
        f" {past['entries']:,.0f} entries, {past['megabytes']:,.0f} MB,"
        f" filled in {past['seconds']:,.0f} s\n"
    )
    rows: list[tuple[object, ...]] = []
    for level in report["levels"]:
        for name in (LOADED, EMPTY):
            ratio = f"{level['ratio']:.0%}" if name == LOADED else ""
            in_flight = level["in_flight"] if name == LOADED else None
            rows.append((in_flight, name, *_figures(level[name], ratio)))
    printer.table(_columns("store", "of the empty"), rows)


@contextmanager
def scratch(addresses: dict[str, str]) -> Iterator[dict[str, str]]:
    """Settings with a namespace and a database that nobody else has.

    Raises:
        NotSo: PostgreSQL cannot be reached, or its user may not make databases.
    """
    import psycopg

    from benchmarks.kafka_floor import make_tables

    name = f"bench_{new_id().replace('-', '')[:12]}"
    server = addresses["store"]
    try:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
    except psycopg.Error as error:
        raise NotSo(f"no database can be made for this: {error}") from error
    store = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    try:
        asyncio.run(make_tables(store))
        own = {"namespace": name.replace("_", "-"), "store": store}
        fixed = {"env": "bench", "partitions": PARTITIONS, "retention": RETENTION, "log": "error"}
        yield addresses | own | fixed
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


class _Turns:
    """Measurements one after another, each with orders that no other has had."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("measuring", total=total)
        self._first = 0

    def take(
        self, name: str, rival: str, settings: dict[str, str], sagas: int, in_flight: int
    ) -> Measured:
        """Run *rival*, shown as *name*."""
        first, self._first = self._first, self._first + sagas + WARM_UP_SAGAS
        text = f"measuring: {name}, {in_flight} in flight"
        return self.step(text, "servers", rival, settings, first, sagas, in_flight)

    def step(self, text: str, name: str, *arguments: object) -> Measured:
        """Run the measurement *name* while the bar says *text*."""
        self._progress.update(self._task, description=text)
        measured = run_child(name, *arguments)
        self._progress.advance(self._task)
        return measured


def _columns(name: str, ratio: str) -> tuple[str, ...]:
    cpu = (f"{process} µs/saga" for process in CPU_OF)
    return ("in flight", name, "sagas/s", ratio, "p50 ms", "p99 ms", *cpu)


def _figures(measured: Measured, ratio: str) -> tuple[object, ...]:
    return (
        round(measured["sagas_per_s"]),
        ratio,
        f"{measured['p50_ms']:.2f}",
        f"{measured['p99_ms']:.2f}",
        *(round(measured[f"cpu_us_{process}"]) for process in CPU_OF),
    )
