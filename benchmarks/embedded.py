"""Measuring on files: engine, floors and the same saga as a plain program, in turns.

Each run is a process of its own with files of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.progress import Progress

from benchmarks import ways
from benchmarks.child import COUNTING, WRITING
from benchmarks.measuring import (
    SAGA,
    Bar,
    Level,
    Plan,
    circumstances,
    compared,
    figures_table,
    heading,
    in_turns,
    ratios_table,
    told,
)
from benchmarks.order import app, order, placed
from benchmarks.product import addresses
from benchmarks.program import Program
from benchmarks.revisions import laid_out
from benchmarks.sqlite_floor import Floor
from benchmarks.tables import Table
from benchmarks.timing import (
    WARM_UP_SAGAS,
    Measured,
    percentiles,
    resident_mb,
    run_fast,
    stopwatch,
    tune_gc,
)
from benchmarks.weights import LIGHT, Weights, weigh
from saga.adapters.opening import open_store
from saga.console.cli.output import Misused, Printer
from saga.core.replay import replay
from saga.service import Service
from saga.settings import Settings

OPENED_AT_ONCE: Final = 500
OPENED_AHEAD_MAX: Final = 2_000
FOLDS_MIN: Final = 3
FOLD_SAGAS_MAX: Final = 1_000
SAMPLE_SAGAS: Final = 300
"""Whose rows are weighed, and whose commits and instructions are counted."""
CPU: Final = {"cpu_us_per_saga": "CPU µs/saga"}


def measure(plan: Plan, folder: Path, printer: Printer) -> dict[str, Any]:
    """All rivals in turns; NotSo if a run failed."""
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(console=printer.err, transient=True))
        engines: dict[str, Path | None] = {SAGA: None}
        if plan.revision is not None:
            engines[plan.revision] = stack.enter_context(laid_out(plan.revision))
        rivals = len(engines) + len(without_engine(LIGHT))
        runs = len(plan.in_flight) * rivals * (plan.runs + 2) + plan.runs * len(engines) + 2
        runs += len(plan.in_flight) + len(ways.WAYS) * (plan.runs + 1)
        turns = _Turns(Bar(progress, runs), engines, folder, stack.enter_context(_scratch(folder)))
        levels = [turns.level(plan, in_flight) for in_flight in plan.in_flight]
        replays = in_turns(list(engines), plan.runs, turns.replay)
        folded = turns.fold()
        opened = turns.open(plan.open_sagas)
        written = ways.measure(plan, turns.way)
    measured = {"levels": levels, "replay": compared(replays, [SAGA]) | folded, "open": opened}
    return circumstances(plan) | measured | {"ways": written}


class _Turns:
    """Measurements one after another; files of the engines' last ones are kept, to be replayed."""

    def __init__(
        self, bar: Bar, engines: Mapping[str, Path | None], folder: Path, kept: str
    ) -> None:
        self._bar = bar
        self._engines = engines
        self._folder = folder
        self._kept = kept

    def level(self, plan: Plan, in_flight: int) -> Level:
        sagas, text = plan.sagas_at(in_flight), f"{in_flight} in flight"
        size = min(sagas, SAMPLE_SAGAS), in_flight
        counts = {name: self._counts(text, name, "engine", size) for name in self._engines}
        weights = weigh(Path(self._kept) / SAGA)
        others = without_engine(weights)
        for name, (child, weight) in others.items():
            counts[name] = self._counts(text, name, child, size, weight)

        def run(name: str) -> Measured:
            if name in self._engines:
                return self._engine(text, name, "engine", (), (sagas, in_flight))
            child, weight = others[name]
            with _scratch(self._folder) as place:
                return self._bar.run(f"{text}: {name}", child, place, sagas, in_flight, weight)

        runs = in_turns([*self._engines, *others], plan.runs, run)
        sizes = {"in_flight": in_flight, "sagas": sagas, "weights": asdict(weights)}
        shares = self._engine(f"{text}, sampling", SAGA, "shares", (), (sagas, in_flight))
        return sizes | {"counts": counts, "shares": shares} | compared(runs, [SAGA])

    def replay(self, name: str) -> Measured:
        place = f"{self._kept}/{name}"
        return self._bar.run(f"replay: {name}", "replaying", place, folder=self._engines[name])

    def fold(self) -> Measured:
        return self._bar.run("replay without reading", "folding", f"{self._kept}/{SAGA}")

    def way(self, child: str, name: str, sagas: int, in_flight: int) -> Measured:
        """The order written in that way; *child* is `way`, or counts it."""
        with _scratch(self._folder) as place:
            what = [place, name, sagas, in_flight]
            words = ["way", *what] if child == COUNTING else what
            return self._bar.run(f"written as a {name}", child, *words)

    def open(self, sagas: int) -> Measured:
        with _scratch(self._folder) as place:
            return self._bar.run("open sagas", "opening", place, sagas)

    def _counts(
        self, text: str, name: str, measured: str, size: tuple[int, int], *more: object
    ) -> Measured:
        """What *measured* writes, and how many instructions it takes, each in a run of its own."""
        counts: Measured = {}
        for child in (WRITING, COUNTING):
            if name in self._engines:
                counts |= self._engine(f"{text}, {child}", name, child, (measured,), size)
                continue
            with _scratch(self._folder) as place:
                what = (measured, place, *size, *more)
                counts |= self._bar.run(f"{text}, {child}: {name}", child, *what)
        return counts

    def _engine(
        self,
        text: str,
        name: str,
        child: str,
        before: tuple[object, ...],
        size: tuple[int, int],
    ) -> Measured:
        place = f"{self._kept}/{name}"
        rmtree(place, ignore_errors=True)
        what = (*before, place, *size)
        return self._bar.run(f"{text}: {name}", child, *what, folder=self._engines[name])


def without_engine(weights: Weights) -> dict[str, tuple[str, Weights]]:
    """The other rivals: what measures each, and how much its rows weigh."""
    return {
        "floor": ("floor", LIGHT),
        "floor, saga's bytes": ("floor", weights),
        "program, two files": ("program", weights),
        "program, one file": ("program-one-file", weights),
    }


WITHOUT_ENGINE: Final = tuple(without_engine(LIGHT))


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
        _counts_table(report["levels"]),
        _shares_table(report["levels"]),
        ways.ways_table(report["ways"]),
        replay_rate,
        f"{opened['sagas']:,.0f} open sagas: {opened['resident_mb']:,.0f} MB at most",
    )


def _counts_table(levels: Sequence[Level]) -> Table:
    columns = ("in flight", "", "commits a saga", "kB of files a saga", "instructions a saga")
    rows: list[tuple[object, ...]] = []
    for level in levels:
        shown: int | None = level["in_flight"]
        for name, counts in level["counts"].items():
            commits, kilobytes = f"{counts['commits']:.2f}", f"{counts['kilobytes']:.1f}"
            rows.append((shown, name, commits, kilobytes, f"{counts['instructions']:,.0f}"))
            shown = None
    return Table(columns, rows)


def _shares_table(levels: Sequence[Level]) -> Table:
    """Of the engine's processor time, by folder; each with what libraries do for it."""
    places = sorted(
        {place for level in levels for place in level["shares"]},
        key=lambda place: -max(level["shares"].get(place, 0) for level in levels),
    )
    columns = ("CPU of saga", *(f"{level['in_flight']} in flight" for level in levels))
    return Table(
        columns,
        [
            (place, *(f"{level['shares'].get(place, 0):.0%}" for level in levels))
            for place in places
        ],
    )


@contextmanager
def _scratch(folder: Path) -> Iterator[str]:
    try:
        made = TemporaryDirectory(prefix="saga-bench-", dir=folder)
    except OSError as error:
        raise Misused(f"--in: {folder}: {error.strerror}") from None
    with made as path:
        yield str(Path(path).resolve())


def floor(folder: str, sagas: int, in_flight: int, weights: dict[str, int]) -> Measured:
    """*sagas* as a loop writes them."""
    rows = Floor(Path(folder), Weights(**weights))
    rows.run(range(min(sagas, WARM_UP_SAGAS)), in_flight)
    tune_gc()
    with stopwatch(sagas) as measured:
        latencies = rows.run(range(WARM_UP_SAGAS, WARM_UP_SAGAS + sagas), in_flight)
    rows.close()
    return measured | percentiles(latencies)


def program(folder: str, sagas: int, in_flight: int, weights: dict[str, int]) -> Measured:
    """*sagas* as a program without features runs them, with an inbox in a file of its own."""
    plain = Program(Path(folder), Weights(**weights), has_own_inbox=True)
    return run_fast(_program(plain, sagas, in_flight))


def program_one_file(folder: str, sagas: int, in_flight: int, weights: dict[str, int]) -> Measured:
    """The same with all in one file."""
    plain = Program(Path(folder), Weights(**weights), has_own_inbox=False)
    return run_fast(_program(plain, sagas, in_flight))


async def _program(plain: Program, sagas: int, in_flight: int) -> Measured:
    await plain.run(range(min(sagas, WARM_UP_SAGAS)), in_flight)
    tune_gc()
    with stopwatch(sagas) as measured:
        latencies = await plain.run(range(WARM_UP_SAGAS, WARM_UP_SAGAS + sagas), in_flight)
    plain.close()
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
