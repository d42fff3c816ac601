"""Measuring on servers: engine and floors on the same Kafka and PostgreSQL, in turns.

Each place, so many partitions a topic and so many contracts, has a namespace of topics and a
database of its own. The database is dropped afterwards; topics stay, with a retention of an hour.
With a past, a store with many sagas and an empty one take turns instead, and keep what earlier
turns have left in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from rich.progress import Progress

from benchmarks.driving import ENGINES, FLOORS, WARM_UP_SAGAS, Place
from benchmarks.hearing import APART, EQUAL, RIVALS, SHARE_WANTED
from benchmarks.measuring import (
    SAGA,
    Bar,
    Plan,
    circumstances,
    figures_table,
    heading,
    measure_levels,
    ratios_table,
)
from benchmarks.revisions import laid_out
from benchmarks.tables import Table
from benchmarks.timing import Measured
from saga.adapters.ids import new_id
from saga.console.cli.output import NotSo, Printer

RETENTION: Final = "1h"
SAMPLE_SAGAS: Final = 300
SAMPLE_IN_FLIGHT: Final = 16
LOADED: Final = "loaded"
EMPTY: Final = "empty"
CPU: Final = {f"cpu_us_{name}": f"{name} µs/saga" for name in ("orchestrator", "effects", "driver")}


@dataclass(frozen=True, slots=True)
class Servers:
    """Their addresses, and what is measured on them."""

    bus: str
    store: str
    partitions: tuple[int, ...]
    contracts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Past:
    finished: int
    still_open: int
    is_beside_mixed_load: bool = False
    """Whether sagas of all kinds run beside it, and not only orders."""


def measure(plan: Plan, servers: Servers, printer: Printer) -> dict[str, Any]:
    """The engine and the floors in turns; NotSo if a server is away or a run failed."""
    sizes = list(product(servers.partitions, servers.contracts))
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(console=printer.err, transient=True))
        folder = None
        if plan.revision is not None:
            folder = str(stack.enter_context(laid_out(plan.revision)))
        rivals = len(ENGINES) + len(FLOORS) + (folder is not None)
        bar = Bar(progress, len(sizes) * (rivals * plan.runs * len(plan.in_flight) + 1))
        places = [
            {"partitions": partitions, "contracts": contracts}
            | _place(plan, servers, _Turns(bar), folder, (partitions, contracts))
            for partitions, contracts in sizes
        ]
    return circumstances(plan) | {"places": places}


def _place(
    plan: Plan, servers: Servers, turns: _Turns, folder: str | None, size: tuple[int, int]
) -> dict[str, Any]:
    partitions, contracts = size
    with scratch(servers, partitions) as own, scratch(servers, partitions) as of_revision:
        here = Place(settings=own, contracts=contracts, folder=None, weights={})
        here["weights"] = turns.weigh(here, min(plan.sagas, SAMPLE_SAGAS))
        places = dict.fromkeys((*ENGINES, *FLOORS), here)
        if plan.revision is not None:  # its tables are of another layout
            places[plan.revision] = {**here, "settings": of_revision, "folder": folder}

        def take(name: str, *size: int) -> Measured:
            rival = SAGA if name == plan.revision else name
            return turns.take(name, rival, places[name], *size)

        levels = measure_levels(plan, list(places), list(ENGINES), take)
    return {"weights": here["weights"], "levels": levels}


def measure_loaded(plan: Plan, past: Past, servers: Servers, printer: Printer) -> dict[str, Any]:
    """The engine with *past* and without; NotSo if a server is away or a run failed."""
    partitions, contracts = servers.partitions[0], servers.contracts[0]
    with (
        Progress(console=printer.err, transient=True) as progress,
        scratch(servers, partitions) as empty,
        scratch(servers, partitions) as loaded,
    ):
        bar = Bar(progress, 1 + 2 * plan.runs * len(plan.in_flight))
        turns = _Turns(bar)
        places = {
            name: Place(settings=settings, contracts=contracts, folder=None, weights={})
            for name, settings in ((LOADED, loaded), (EMPTY, empty))
        }
        filled = bar.run("filling a store", "fill", loaded, past.finished, past.still_open)

        def take(name: str, *size: int) -> Measured:
            if past.is_beside_mixed_load:
                return turns.mix(name, places[name], *size)
            return turns.take(name, SAGA, places[name], *size)

        levels = measure_levels(plan, list(places), [LOADED], take)
    sizes = {"finished": past.finished, "open": past.still_open}
    return circumstances(plan) | {"past": sizes | filled, "levels": levels}


def measure_hearing(plan: Plan, servers: Servers, printer: Printer) -> dict[str, Any]:
    """Sagas that wait for events, whatever keys those have; NotSo if a server is away."""
    partitions = servers.partitions[0]
    with (
        Progress(console=printer.err, transient=True) as progress,
        scratch(servers, partitions) as settings,
    ):
        bar = Bar(progress, len(RIVALS) * plan.runs * len(plan.in_flight))
        turns = _Turns(bar)
        place = Place(settings=settings, contracts=0, folder=None, weights={})
        levels = measure_levels(
            plan, RIVALS, [APART], lambda name, *size: turns.hear(name, place, *size)
        )
    return circumstances(plan) | {"partitions": partitions, "levels": levels}


def parts_hearing(report: dict[str, Any]) -> Sequence[str | Table]:
    """The report for people."""
    return (
        heading(report),
        f"two orchestrators, {report['partitions']} partitions a topic",
        figures_table(report["levels"], {"cpu_us_orchestrator": "orchestrators µs/saga"}),
        ratios_table(report["levels"]),
        *(_against_goal(level) for level in report["levels"]),
    )


def _against_goal(level: Mapping[str, Any]) -> str:
    reached = level["beside"][APART][EQUAL]["sagas_per_s"]["median"]
    verdict = "reached" if reached >= SHARE_WANTED else "not reached"
    return (
        f"with {level['in_flight']} in flight, {APART}: {reached:.2f} of the rate;"
        f" the goal of {SHARE_WANTED:.2f} is {verdict}"
    )


def parts(report: dict[str, Any]) -> Sequence[str | Table]:
    """The report for people."""
    told: list[str | Table] = [heading(report)]
    for place in report["places"]:
        told.append(f"{place['partitions']} partitions a topic, {place['contracts']} contracts:")
        told += [figures_table(place["levels"], CPU), ratios_table(place["levels"])]
    told.append("µs/saga: CPU of each process; Kafka and PostgreSQL take theirs beside it.")
    return told


def parts_loaded(report: dict[str, Any]) -> Sequence[str | Table]:
    """The report for people."""
    past = report["past"]
    filled = (
        f"loaded: {past['finished']:,} finished and {past['open']:,} open sagas,"
        f" {past['entries']:,.0f} entries, {past['megabytes']:,.0f} MB,"
        f" filled in {past['seconds']:,.0f} s"
    )
    return (
        heading(report),
        filled,
        figures_table(report["levels"], CPU),
        ratios_table(report["levels"]),
    )


@contextmanager
def scratch(servers: Servers, partitions: int) -> Iterator[dict[str, str]]:
    """A namespace and a database that nobody else has; NotSo if none can be made."""
    import psycopg

    from benchmarks.kafka_floor import make_tables

    name = f"bench_{new_id().replace('-', '')[:12]}"
    server = servers.store
    try:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
    except psycopg.Error as error:
        raise NotSo(f"no database can be made for this: {error}") from error
    store = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    try:
        asyncio.run(make_tables(store))
        own = {"bus": servers.bus, "store": store, "namespace": name.replace("_", "-")}
        fixed = {"env": "bench", "retention": RETENTION, "log": "error"}
        yield own | fixed | {"partitions": str(partitions)}
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


class _Turns:
    """Measurements one after another, each with orders that no other has had."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._first = 0

    def weigh(self, place: Place, sagas: int) -> dict[str, int]:
        """What the records and rows of today's engine weigh; nothing has run at the *place*."""
        first, self._first = self._first, self._first + sagas + WARM_UP_SAGAS
        size = (first, sagas, SAMPLE_IN_FLIGHT)
        weights = self._bar.run("weighing", "weigh-servers", place, *size)
        return {name: int(weight) for name, weight in weights.items()}

    def hear(self, rival: str, place: Place, sagas: int, in_flight: int) -> Measured:
        first, self._first = self._first, self._first + sagas + WARM_UP_SAGAS
        text = f"measuring: {rival}, {in_flight} in flight"
        return self._bar.run(text, "hearing", rival, place, first, sagas, in_flight)

    def mix(self, name: str, place: Place, sagas: int, in_flight: int) -> Measured:
        first, self._first = self._first, self._first + sagas + WARM_UP_SAGAS
        text = f"measuring: a mixed load, {name}, {in_flight} in flight"
        return self._bar.run(text, "mixed", place, first, sagas, in_flight)

    def take(self, name: str, rival: str, place: Place, sagas: int, in_flight: int) -> Measured:
        first, self._first = self._first, self._first + sagas + WARM_UP_SAGAS
        partitions, contracts = place["settings"]["partitions"], place["contracts"]
        text = f"{name}, {in_flight} in flight, {partitions} partitions, {contracts} contracts"
        return self._bar.run(f"measuring: {text}", "servers", rival, place, first, sagas, in_flight)
