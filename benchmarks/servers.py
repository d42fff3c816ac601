"""Measuring on servers: engine and floor on the same Kafka and PostgreSQL, in turns.

Each run has a namespace of topics and a database of its own. The database is dropped afterwards;
topics stay, with a retention of an hour. With a past, a store with many sagas and an empty one take
turns instead, and keep what earlier turns have left in them.
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
    Bar,
    Measured,
    Plan,
    circumstances,
    heading,
    measure_levels,
    print_levels,
)
from saga.adapters.ids import new_id
from saga.console.cli.output import NotSo, Printer

RETENTION: Final = "1h"
PARTITIONS: Final = "4"
ENGINE: Final = "saga"
FLOOR: Final = "floor"
LOADED: Final = "loaded"
EMPTY: Final = "empty"
CPU: Final = {f"cpu_us_{name}": f"{name} µs/saga" for name in ("orchestrator", "effects", "driver")}


@dataclass(frozen=True, slots=True)
class Past:
    finished: int
    still_open: int


def measure(plan: Plan, addresses: dict[str, str], printer: Printer) -> dict[str, Any]:
    """The engine and the floor in turns; NotSo if a server is away or a run failed."""
    with Progress(console=printer.err, transient=True) as progress, scratch(addresses) as own:
        turns = _Turns(Bar(progress, len(RIVALS) * plan.runs * len(plan.in_flight)))
        levels = measure_levels(
            plan, list(RIVALS), FLOOR, lambda name, *size: turns.take(name, name, own, *size)
        )
    return circumstances(plan) | {"levels": levels}


def measure_loaded(
    plan: Plan, past: Past, addresses: dict[str, str], printer: Printer
) -> dict[str, Any]:
    """The engine with *past* and without; NotSo if a server is away or a run failed."""
    with (
        Progress(console=printer.err, transient=True) as progress,
        scratch(addresses) as empty,
        scratch(addresses) as loaded,
    ):
        bar = Bar(progress, 1 + 2 * plan.runs * len(plan.in_flight))
        turns, places = _Turns(bar), {LOADED: loaded, EMPTY: empty}
        filled = bar.run("filling a store", "fill", loaded, past.finished, past.still_open)
        levels = measure_levels(
            plan,
            list(places),
            EMPTY,
            lambda name, *size: turns.take(name, ENGINE, places[name], *size),
        )
    sizes = {"finished": past.finished, "open": past.still_open}
    return circumstances(plan) | {"past": sizes | filled, "levels": levels}


def print_report(report: dict[str, Any], printer: Printer) -> None:
    printer.say(heading(report), "")
    print_levels(report["levels"], FLOOR, CPU, printer)
    printer.say("", "µs/saga: CPU of each process; Kafka and PostgreSQL take theirs beside it.")


def print_loaded(report: dict[str, Any], printer: Printer) -> None:
    past = report["past"]
    printer.say(
        heading(report),
        f"loaded: {past['finished']:,} finished and {past['open']:,} open sagas,"
        f" {past['entries']:,.0f} entries, {past['megabytes']:,.0f} MB,"
        f" filled in {past['seconds']:,.0f} s",
        "",
    )
    print_levels(report["levels"], EMPTY, CPU, printer)


@contextmanager
def scratch(addresses: dict[str, str]) -> Iterator[dict[str, str]]:
    """A namespace and a database that nobody else has; NotSo if none can be made."""
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

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._first = 0

    def take(
        self, name: str, rival: str, settings: dict[str, str], sagas: int, in_flight: int
    ) -> Measured:
        first, self._first = self._first, self._first + sagas + WARM_UP_SAGAS
        text = f"measuring: {name}, {in_flight} in flight"
        return self._bar.run(text, "servers", rival, settings, first, sagas, in_flight)
