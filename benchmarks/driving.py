"""Sagas on Kafka and PostgreSQL, driven from outside; engine and floor by the same code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from itertools import islice
from typing import Final, TypedDict

from benchmarks.measuring import SAGA
from benchmarks.order import OrderConfirmed, OrderRejected, app_with, placed
from benchmarks.processes import FLOOR_TOPICS, Process, floor_topic, running
from benchmarks.timing import Measured, percentiles, run_fast, tune_gc
from saga.adapters.ids import new_id
from saga.adapters.opening import open_bus
from saga.console.cli.output import NotSo
from saga.contracts import contract_of
from saga.errors import BusUnavailable
from saga.ports import Bus, Consumer, Record, Source, TopicSpec
from saga.publishing.writer import EventWriter
from saga.settings import Settings

WARM_UP_SAGAS: Final = 600
FETCH_S: Final = 0.05
STALL_S: Final = 30.0
TOPICS_S: Final = 120.0

TWO: Final = "saga, two orchestrators"
ENGINES: Final[Mapping[str, tuple[str, ...]]] = {
    SAGA: ("orchestrator", "effects"),
    TWO: ("orchestrator", "orchestrator", "effects"),
}
HEAVY_FLOOR: Final = "floor, saga's bytes"
FLOORS: Final = ("floor", HEAVY_FLOOR)
FLOOR_PROCESSES: Final = ("floor-orchestrator", "floor-effects")


class Place(TypedDict):
    """What is measured on servers, beside a rival and a load."""

    settings: dict[str, str]
    contracts: int
    folder: str | None
    """The engine's code; None: today's."""
    weights: dict[str, int]
    """Of the engine's records and rows, for the heavy floor."""


def on_servers(rival: str, place: Place, first: int, sagas: int, in_flight: int) -> Measured:
    """*sagas* of *rival* at a *place*, numbered from *first*."""
    return run_fast(_drive(rival, place, range(first, first + sagas), in_flight))


async def _drive(rival: str, place: Place, numbers: range, in_flight: int) -> Measured:
    settings, sagas = Settings.read({}, **place["settings"]), len(numbers)
    opened = open_bus(settings)
    try:
        floor_topics = [
            TopicSpec(floor_topic(settings, name), settings.partitions, settings.retention_s)
            for name in FLOOR_TOPICS
        ]
        app = app_with(place["contracts"])
        await create([*floor_topics, *app.topic_specs(settings)], opened.bus)
        async with _running(rival, place) as processes:
            driver = await Driver.listening(opened.bus, settings, is_floor=rival in FLOORS)
            warm_up = range(numbers.stop, numbers.stop + min(sagas, WARM_UP_SAGAS))
            await driver.run(warm_up, in_flight)
            tune_gc()
            used = await _cpu_s(processes)
            began_at = time.perf_counter()
            latencies = await driver.run(numbers, in_flight)
            seconds = time.perf_counter() - began_at
            used = {name: after - used[name] for name, after in (await _cpu_s(processes)).items()}
    finally:
        await opened.close()
    cpu = {f"cpu_us_{name}": cpu_s / sagas * 1e6 for name, cpu_s in used.items()}
    cpu["cpu_us_per_saga"] = cpu["cpu_us_orchestrator"] + cpu["cpu_us_effects"]
    return cpu | {"sagas_per_s": sagas / seconds} | percentiles(latencies)


async def create(topics: Sequence[TopicSpec], bus: Bus) -> None:
    """Make them; Kafka takes its time for a thousand partitions."""
    async with asyncio.timeout(TOPICS_S):
        while True:
            with suppress(BusUnavailable):
                return await bus.create_topics(topics)


def _running(rival: str, place: Place) -> AbstractAsyncContextManager[list[Process]]:
    if rival in FLOORS:
        weights = place["weights"] if rival == HEAVY_FLOOR else {}
        return running(FLOOR_PROCESSES, [place["settings"], weights])
    return running(ENGINES[rival], [place["settings"], place["contracts"]], place["folder"])


class Driver:
    def __init__(
        self, bus: Bus, consumer: Consumer, writer: EventWriter, trigger_topic: str | None
    ) -> None:
        self._consumer = consumer
        self._bus = bus
        self._writer = writer
        self._trigger_topic = trigger_topic
        self._flying: dict[bytes, float] = {}
        self._publishing: set[asyncio.Task[None]] = set()

    @classmethod
    async def listening(cls, bus: Bus, settings: Settings, *, is_floor: bool) -> Driver:
        """A driver that will see every outcome from now on."""
        names = settings.topic_names
        outcomes = [
            names.topic(contract_of(event).contract_name)
            for event in (OrderConfirmed, OrderRejected)
        ]
        if is_floor:
            outcomes = [floor_topic(settings, "outcomes")]

        async def from_now_on(sources: Sequence[Source]) -> Mapping[Source, int]:
            return {source: end for source, (_, end) in (await bus.bounds(sources)).items()}

        consumer = await bus.subscribe(f"bench-{new_id()}", outcomes, resume_at=from_now_on)
        async with asyncio.timeout(TOPICS_S):
            while not consumer.assignment():
                await consumer.fetch(records_max=1, timeout_s=FETCH_S)
        trigger_topic = floor_topic(settings, "triggers") if is_floor else None
        return cls(bus, consumer, EventWriter.of(settings), trigger_topic)

    async def run(self, numbers: range, in_flight: int) -> list[float]:
        """Latencies in seconds, from before a trigger is published until its outcome is read.

        Raises:
            NotSo: no outcome arrives any more.
        """
        triggers = self._triggers(numbers)
        latencies: list[float] = []
        self._start(list(islice(triggers, in_flight)))
        heard_at = time.perf_counter()
        while self._flying:
            records = await self._consumer.fetch(records_max=10_000, timeout_s=FETCH_S)
            now = time.perf_counter()
            ended = 0
            for record in records:
                began_at = self._flying.pop(record.key or b"", None)
                if began_at is not None:
                    latencies.append(now - began_at)
                    ended += 1
            if ended:
                heard_at = now
                self._start(list(islice(triggers, ended)))
            elif now - heard_at > STALL_S:
                raise NotSo(f"{len(self._flying)} sagas have not ended after {STALL_S:g} s")
        await asyncio.gather(*self._publishing)
        return latencies

    def _triggers(self, numbers: range) -> Iterator[Record]:
        for number in numbers:
            record = self._writer.record(placed(number)).record
            topic = self._trigger_topic or record.topic
            yield Record(topic, record.key, record.value, record.headers)

    def _start(self, records: Sequence[Record]) -> None:
        if not records:
            return
        began_at = time.perf_counter()
        for record in records:
            assert record.key is not None
            self._flying[record.key] = began_at
        # Not waited for: the next outcomes may arrive before the acknowledgement.
        task = asyncio.create_task(self._bus.publish(records))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)


async def _cpu_s(processes: Sequence[Process]) -> dict[str, float]:
    used: dict[str, float] = {"driver": time.process_time()}
    for process in processes:
        name = process.name.removeprefix("floor-")
        used[name] = used.get(name, 0.0) + await process.cpu_s()
    return used
