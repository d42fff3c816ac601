"""Measuring on files: engine, floors and the same saga as a plain program, in turns.

Each run is a process of its own with files of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.progress import Progress

from benchmarks.measuring import (
    SAGA,
    Bar,
    Plan,
    circumstances,
    compared,
    figures_table,
    heading,
    in_turns,
    measure_levels,
    ratios_table,
    told,
)
from benchmarks.order import app, order, placed
from benchmarks.product import WARM_UP_SAGAS, addresses
from benchmarks.revisions import laid_out
from benchmarks.sqlite_floor import Floor
from benchmarks.tables import Table
from benchmarks.timing import Measured, percentiles, resident_mb, run_fast, stopwatch, tune_gc
from saga.adapters.opening import open_store
from saga.console.cli.output import Misused, Printer
from saga.core.replay import replay
from saga.service import Service
from saga.settings import Settings

OPENED_AT_ONCE: Final = 500
OPENED_AHEAD_MAX: Final = 2_000
FOLDS_MIN: Final = 3
FOLD_SAGAS_MAX: Final = 1_000
WITHOUT_ENGINE: Final = {"floor": "floor"}
"""Rivals, and what measures them."""
CPU: Final = {"cpu_us_per_saga": "CPU µs/saga"}


def measure(plan: Plan, folder: Path, printer: Printer) -> dict[str, Any]:
    """All rivals in turns; NotSo if a run failed."""
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(console=printer.err, transient=True))
        engines: dict[str, Path | None] = {SAGA: None}
        if plan.revision is not None:
            engines[plan.revision] = stack.enter_context(laid_out(plan.revision))
        rivals = [*engines, *WITHOUT_ENGINE]
        total = plan.runs * (len(plan.in_flight) * len(rivals) + len(engines)) + 2
        bar = Bar(progress, total)
        kept = stack.enter_context(_scratch(folder))

        def run(rival: str, sagas: int, in_flight: int) -> Measured:
            text, size = f"measuring: {rival}, {in_flight} in flight", (sagas, in_flight)
            if rival in engines:  # the last run is replayed
                place = f"{kept}/{rival}"
                rmtree(place, ignore_errors=True)
                return bar.run(text, "engine", place, *size, folder=engines[rival])
            with _scratch(folder) as place:
                return bar.run(text, WITHOUT_ENGINE[rival], place, *size)

        levels = measure_levels(plan, rivals, [SAGA], run)
        replays = in_turns(
            list(engines),
            plan.runs,
            lambda rival: bar.run(
                f"measuring: replay, {rival}",
                "replaying",
                f"{kept}/{rival}",
                folder=engines[rival],
            ),
        )
        folded = bar.run("measuring: replay without reading", "folding", f"{kept}/{SAGA}")
        place = stack.enter_context(_scratch(folder))
        opened = bar.run("measuring: open sagas", "opening", place, plan.open_sagas)
    measured = {"levels": levels, "replay": compared(replays, [SAGA]) | folded, "open": opened}
    return circumstances(plan) | measured


def parts(report: dict[str, Any]) -> Sequence[str | Table]:
    """The report for people."""
    replayed, opened = report["replay"], report["open"]
    rate = replayed["measured"][SAGA]["entries_per_s"]["median"]
    beside = "".join(
        f", {told(ratios['entries_per_s'])} times {other}'s"
        for other, ratios in replayed["beside"][SAGA].items()
    )
    replay_rate = (
        f"`saga replay`: {rate:,.0f} entries/s of one core{beside};"
        f" {replayed['folded_per_s']:,.0f} without reading them"
    )
    return (
        heading(report),
        figures_table(report["levels"], CPU),
        ratios_table(report["levels"]),
        replay_rate,
        f"{opened['sagas']:,.0f} open sagas: {opened['resident_mb']:,.0f} MB at most",
    )


@contextmanager
def _scratch(folder: Path) -> Iterator[str]:
    try:
        made = TemporaryDirectory(prefix="saga-bench-", dir=folder)
    except OSError as error:
        raise Misused(f"--in: {folder}: {error.strerror}") from None
    with made as path:
        yield str(Path(path).resolve())


def floor(folder: str, sagas: int, in_flight: int) -> Measured:
    """*sagas* without an engine."""
    rows = Floor(Path(folder))
    rows.run(sagas=min(sagas, WARM_UP_SAGAS), in_flight=in_flight)
    tune_gc()
    with stopwatch(sagas) as measured:
        latencies = rows.run(sagas=sagas, in_flight=in_flight, first=WARM_UP_SAGAS)
    rows.close()
    return measured | percentiles(latencies)


def folding(folder: str) -> Measured:
    """Entries a second of one core, only folded."""
    return asyncio.run(_folding(folder))


async def _folding(folder: str) -> Measured:
    opened = open_store(Settings.read({}, **addresses(folder)))
    try:
        page = await opened.catalogue.sagas(limit=FOLD_SAGAS_MAX)
        histories = await opened.store.load([summary.saga_id for summary in page])
    finally:
        await opened.close()
    registered = app.registry.find(order.name, order.version)
    assert registered is not None
    tune_gc()
    folded, begun_at = 0, time.process_time()
    for _ in range(FOLDS_MIN):
        for saga_id, history in histories.items():
            assert not isinstance(history, Exception)
            state = replay(registered.decider, saga_id, history)
            assert state.program is not None
            state.program.close()  # as every replay does: an open one costs a collection
            folded += len(history)
    return {"folded_per_s": folded / (time.process_time() - begun_at)}


def opening(folder: str, sagas: int) -> Measured:
    """Megabytes of memory for *sagas* that all wait for an answer."""
    return run_fast(_opening(folder, sagas))


async def _opening(folder: str, sagas: int) -> Measured:
    unanswered = type(app)(sagas=app.sagas)
    async with unanswered.service(**addresses(folder)) as service:
        tune_gc()
        before, begun_at = resident_mb(), time.perf_counter()
        publisher = service.publisher
        for first in range(0, sagas, OPENED_AT_ONCE):
            numbers = range(first, min(first + OPENED_AT_ONCE, sagas))
            await publisher.send([publisher.writer.record(placed(number)) for number in numbers])
            await _until_started(service, first - OPENED_AHEAD_MAX)
        await _until_started(service, sagas)
        return {
            "sagas": sagas,
            "resident_mb": resident_mb(),
            "before_mb": before,
            "seconds": time.perf_counter() - begun_at,
        }


async def _until_started(service: Service, sagas: int) -> None:
    while service.counts["started"] < sagas:  # noqa: ASYNC110  # the counts tell nobody
        await asyncio.sleep(0.005)
