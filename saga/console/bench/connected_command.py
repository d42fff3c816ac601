"""The command on servers: engine and floor on the same Kafka and PostgreSQL, in turns.

Everything that is measured has topics of a namespace and a database of its own, made for it and
dropped afterwards; topics stay, with a retention of an hour.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from rich.progress import Progress

from saga.adapters.ids import new_id
from saga.console.bench.connected import RIVALS, WARM_UP_SAGAS
from saga.console.bench.measures import Measured
from saga.console.printer import Printer
from saga.console.problems import NotSo

RETENTION: Final = "1h"
PARTITIONS: Final = "4"

Measure = Callable[..., Measured]


def measure_connected(
    plan: Any, addresses: dict[str, str], printer: Printer, in_a_process: Measure
) -> dict[str, Any]:
    """Everything that *plan* asks for, of the engine and the floor on the servers at *addresses*.

    Raises:
        NotSo: a server cannot be reached, or a measurement failed.
    """
    first = 0
    levels: list[dict[str, Any]] = []
    total = len(RIVALS) * plan.runs * len(plan.in_flight)
    with Progress(console=printer.err, transient=True) as progress, place(addresses) as own:
        task = progress.add_task("measuring", total=total)
        for in_flight in plan.in_flight:
            sagas = plan.sagas_at(in_flight)
            runs: dict[str, list[Measured]] = {name: [] for name in RIVALS}
            for _ in range(plan.runs):
                for name, found in runs.items():
                    progress.update(task, description=f"measuring: {name}, {in_flight} in flight")
                    found.append(in_a_process("connected", name, own, first, sagas, in_flight))
                    first += sagas + WARM_UP_SAGAS
                    progress.advance(task)
            levels.append(level(in_flight, sagas, runs))
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "runs": plan.runs,
        "levels": levels,
    }


def level(in_flight: int, sagas: int, runs: dict[str, list[Measured]]) -> dict[str, Any]:
    """The medians of *runs*, and each one's ratio to the floor of the same turn."""
    found: dict[str, Any] = {"in_flight": in_flight, "sagas": sagas}
    for name, of_it in runs.items():
        pairs = zip(of_it, runs["floor"], strict=True)
        ratio = median(one["sagas_per_s"] / other["sagas_per_s"] for one, other in pairs)
        middle = {key: median(run[key] for run in of_it) for key in of_it[0]}
        found[name] = middle | {"ratio": ratio}
    return found


def print_connected(found: dict[str, Any], printer: Printer) -> None:
    """*found* for people."""
    printer.say(f"{found['machine']}, Python {found['python']}, median of {found['runs']} runs\n")
    cpu = ("orchestrator", "effects", "driver")
    columns = ("in flight", "", "sagas/s", "of the floor", "p50 ms", "p99 ms")
    rows: list[tuple[object, ...]] = []
    for level in found["levels"]:
        for name in RIVALS:
            one = level[name]
            rows.append(
                (
                    level["in_flight"] if name == "saga" else None,
                    name,
                    round(one["sagas_per_s"]),
                    "" if name == "floor" else f"{one['ratio']:.0%}",
                    f"{one['p50_ms']:.2f}",
                    f"{one['p99_ms']:.2f}",
                    *(round(one[f"cpu_us_{part}"]) for part in cpu),
                )
            )
    printer.table((*columns, *(f"{part} µs/saga" for part in cpu)), rows)
    printer.say("\nµs/saga: CPU of each process; Kafka and PostgreSQL take theirs beside it.")


@contextmanager
def place(addresses: dict[str, str]) -> Iterator[dict[str, str]]:
    """Settings with a namespace and a database that nobody else has.

    Raises:
        NotSo: PostgreSQL cannot be reached, or its user may not make databases.
    """
    import psycopg

    from saga.console.bench.connected_floor import make_tables

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
