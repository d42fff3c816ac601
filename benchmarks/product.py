"""The engine as its users run it: what is measured of any commit, by its public names only.

`--vs` runs this file on older code. What it imports of `saga` has to be there too.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any, Final

import orjson

from benchmarks.order import app, app_with, placed
from benchmarks.serving import Stop
from benchmarks.timing import WARM_UP_SAGAS, Measured, percentiles, run_fast, stopwatch, tune_gc
from saga import SagaApp, Service
from saga.settings import Settings
from saga.wiring import build_service

Watch = Callable[[int], AbstractContextManager[Measured]]


def addresses(folder: str) -> dict[str, str]:
    """Where the engine keeps all that is its own; what is not said is as by default."""
    return {"bus": f"local:///{folder}/saga.db", "store": f"sqlite:///{folder}/saga.db"}


def engine(folder: str, sagas: int, in_flight: int) -> Measured:
    """*sagas* with all that a user gets, from before each is published until it has ended."""
    return run_fast(running(app, folder, sagas, in_flight, stopwatch))


async def running(
    application: SagaApp, folder: str, sagas: int, in_flight: int, watch: Watch
) -> Measured:
    """As `engine`, of any *application* that such orders start."""
    async with application.service(**addresses(folder)) as service:
        await _run(service, range(min(sagas, WARM_UP_SAGAS)), in_flight)
        tune_gc()
        with watch(sagas) as measured:
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
    """Entries a second of one core, read and checked by `saga replay`, without its start."""
    words = ["--app", "benchmarks.order:app", "--store", addresses(folder)["store"]]
    _, start_s = _replay(*words, "--definition", "none-of-this-name")
    entries, seconds = _replay(*words)
    return {"entries": entries, "entries_per_s": entries / (seconds - start_s)}


def _replay(*words: str) -> tuple[int, float]:
    """How many entries `saga replay` has read, and the CPU seconds of its process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    replay = [sys.executable, "-m", "saga", "replay", "--json", *_ALONE, *words]
    done = subprocess.run(replay, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return orjson.loads(done.stdout.splitlines()[-1])["entries"], seconds


# Of one core; engines before this had no other way.
_ALONE: Final = ["--jobs", "0"] if find_spec("saga.console.cli.gate") else []


async def orchestrator(settings: dict[str, Any], contracts: int) -> Stop:
    return await _started(settings, contracts, "orchestrator")


async def effects(settings: dict[str, Any], contracts: int) -> Stop:
    return await _started(settings, contracts, "effects")


async def _started(settings: dict[str, Any], contracts: int, role: str) -> Stop:
    service = build_service(app_with(contracts), Settings.read({}, **settings), roles=[role])
    await service.__aenter__()  # by which any commit opens it
    return service.stop
