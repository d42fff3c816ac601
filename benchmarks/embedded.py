"""Measurements on files, each run in a process of its own."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Measured, percentiles
from benchmarks.order import app, order, placed
from benchmarks.sqlite_floor import Floor
from saga.adapters.opening import open_store
from saga.audit.replaying import replay_all
from saga.console.cli.serving import run_fast, tune_gc
from saga.core.replay import replay
from saga.service import Service
from saga.settings import Settings

WARM_UP_SAGAS: Final = 300
OPENED_AT_ONCE: Final = 500
OPENED_AHEAD_MAX: Final = 2_000
FOLDS_MIN: Final = 3
FOLD_SAGAS_MAX: Final = 1_000


def floor(folder: str, sagas: int, in_flight: int) -> Measured:
    """*sagas* without an engine."""
    rows = Floor(Path(folder))
    rows.run(sagas=min(sagas, WARM_UP_SAGAS), in_flight=in_flight)
    tune_gc()
    with _stopwatch(sagas) as measured:
        latencies = rows.run(sagas=sagas, in_flight=in_flight, first=WARM_UP_SAGAS)
    rows.close()
    return measured | percentiles(latencies)


def engine(folder: str, sagas: int, in_flight: int) -> Measured:
    """*sagas* with all that a user gets, from before each is published until it has ended."""
    return run_fast(_engine(folder, sagas, in_flight))


async def _engine(folder: str, sagas: int, in_flight: int) -> Measured:
    async with app.service(**_addresses(folder)) as service:
        await _run(service, range(min(sagas, WARM_UP_SAGAS)), in_flight)
        tune_gc()
        with _stopwatch(sagas) as measured:
            numbers = range(WARM_UP_SAGAS, WARM_UP_SAGAS + sagas)
            latencies = await _run(service, numbers, in_flight)
    return measured | percentiles(latencies)


async def _run(service: Service, numbers: range, in_flight: int) -> list[float]:
    """Run these orders, *in_flight* at a time; gives the latency of each in seconds."""
    waiting = iter(numbers)
    latencies: list[float] = []

    async def customer() -> None:
        for number in waiting:
            begun_at = time.perf_counter()
            saga_id = await service.publish(placed(number))
            assert saga_id is not None
            await service.outcome(saga_id)
            latencies.append(time.perf_counter() - begun_at)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(customer())
    return latencies


def replaying(folder: str) -> Measured:
    """Entries a second of one core, read and checked as by `saga replay`, and only folded."""
    return asyncio.run(_replaying(folder))


async def _replaying(folder: str) -> Measured:
    opened = open_store(Settings.read(**_addresses(folder)))
    try:
        tune_gc()
        entries, begun_at = 0, time.process_time()
        async for result in replay_all(opened.store, opened.catalogue, app.registry):
            assert result.is_ok, result
            entries += result.entries
        checked = entries / (time.process_time() - begun_at)
        page = await opened.catalogue.sagas(limit=FOLD_SAGAS_MAX)
        histories = await opened.store.load([summary.saga_id for summary in page])
    finally:
        await opened.close()
    registered = app.registry.find(order.name, order.version)
    assert registered is not None
    folded, begun_at = 0, time.process_time()
    for _ in range(FOLDS_MIN):
        for saga_id, history in histories.items():
            assert not isinstance(history, Exception)
            state = replay(registered.decider, saga_id, history)
            assert state.program is not None
            state.program.close()  # as every replay does: an open one costs a collection
            folded += len(history)
    return {
        "entries": entries,
        "checked_per_s": checked,
        "folded_per_s": folded / (time.process_time() - begun_at),
    }


def opening(folder: str, sagas: int) -> Measured:
    """Megabytes of memory for *sagas* that all wait for an answer."""
    return run_fast(_opening(folder, sagas))


async def _opening(folder: str, sagas: int) -> Measured:
    unanswered = type(app)(sagas=app.sagas)
    async with unanswered.service(**_addresses(folder)) as service:
        tune_gc()
        before, begun_at = _resident_mb(), time.perf_counter()
        publisher = service.publisher
        for first in range(0, sagas, OPENED_AT_ONCE):
            numbers = range(first, min(first + OPENED_AT_ONCE, sagas))
            await publisher.send([publisher.writer.record(placed(number)) for number in numbers])
            await _until_started(service, first - OPENED_AHEAD_MAX)
        await _until_started(service, sagas)
        return {
            "sagas": sagas,
            "resident_mb": _resident_mb(),
            "before_mb": before,
            "seconds": time.perf_counter() - begun_at,
        }


async def _until_started(service: Service, sagas: int) -> None:
    while service.counts["started"] < sagas:  # noqa: ASYNC110  # the counts tell nobody
        await asyncio.sleep(0.005)


def _addresses(folder: str) -> dict[str, Any]:
    return {
        "bus": f"local:///{folder}/saga.db",
        "store": f"sqlite:///{folder}/saga.db",
        "effects_store": f"sqlite:///{folder}/effects.db",
    }


@contextmanager
def _stopwatch(sagas: int) -> Iterator[Measured]:
    measured: Measured = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield measured
    measured["cpu_us_per_saga"] = (time.process_time() - cpu) / sagas * 1e6
    measured["sagas_per_s"] = sagas / (time.perf_counter() - wall)


def _resident_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere
