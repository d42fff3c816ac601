"""Sagas that wait for events of other services, on Kafka and PostgreSQL, with two orchestrators.

The carrier, which is the driver, answers each booking, and says a little later that the parcel was
picked up, and then that it was delivered. Both travel under the saga's own key, or the first under
its parcel's: every second of those comes through the other orchestrator.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from benchmarks.driving import FETCH_S, STALL_S, TOPICS_S, WARM_UP_SAGAS, Place, create
from benchmarks.processes import Process, running
from benchmarks.serving import Stop
from benchmarks.timing import Measured, percentiles, run_fast, tune_gc
from saga import Context, Event, Intent, SagaApp, on, saga
from saga.adapters.ids import new_id
from saga.adapters.opening import open_bus
from saga.console.cli.output import NotSo
from saga.contracts import ContractModel, business_key, contract_of, encode
from saga.contracts import cloudevents as ce
from saga.ports import Bus, Consumer, Inbound, Record, Source
from saga.settings import Settings
from saga.wiring import build_service

EQUAL: Final = "events under equal keys"
APART: Final = "half of them under others"
RIVALS: Final = (EQUAL, APART)
ORCHESTRATORS: Final = ("hearing-orchestrator", "hearing-orchestrator")
GAP_S: Final = 0.1
"""Between what the carrier says of one parcel."""
SHARE_WANTED: Final = 0.7
"""Of the rate with equal keys, that with half of the events under others is to reach."""


class ParcelSent(Event, topic="bench-parcels.parcel-sent", version=1, key="order_id"):
    order_id: str


class Booked(Event, topic="bench-carrier.booked", version=1):
    parcel: str


class Book(Intent[Booked], topic="bench-carrier.book", version=1):
    order_id: str


class PickedUp(Event, topic="bench-carrier.picked-up", version=1):
    order_id: str
    parcel: str


class Delivered(Event, topic="bench-carrier.delivered", version=1):
    order_id: str
    parcel: str


class ParcelDone(Event, topic="bench-parcels.parcel-done", version=1, key="order_id"):
    order_id: str


@saga(
    "bench-parcel",
    version=1,
    starts_on=ParcelSent,
    listens=(on(PickedUp, key="order_id"), on(Delivered, key="order_id")),
)
async def parcel(ctx: Context, sent: ParcelSent) -> ParcelDone:
    """Book, then wait until it was picked up and delivered."""
    await ctx.do(Book(order_id=sent.order_id))
    await ctx.next(PickedUp)
    await ctx.next(Delivered)
    return ParcelDone(order_id=sent.order_id)


app = SagaApp(sagas=[parcel])


async def orchestrator(settings: dict[str, Any]) -> Stop:
    service = build_service(app, Settings.read({}, **settings), roles=["orchestrator"])
    await service.open()
    return service.stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of an application, and what tells the end of that, under the same key.

    *is_apart*: every second event of a parcel travels under a key of its own.
    """

    app: SagaApp
    asked: Callable[[int], Event]
    ends: Sequence[type[Event]]
    is_apart: bool


def hearing(rival: str, place: Place, first: int, sagas: int, in_flight: int) -> Measured:
    """*sagas* at a *place*, numbered from *first*, whose events come as the *rival* says."""
    load = Load(app=app, asked=sent, ends=[ParcelDone], is_apart=rival == APART)
    return run_fast(driven(load, ORCHESTRATORS, place, range(first, first + sagas), in_flight))


def sent(number: int) -> ParcelSent:
    return ParcelSent(order_id=f"parcel-{number}")


async def driven(
    load: Load, names: Sequence[str], place: Place, numbers: range, in_flight: int
) -> Measured:
    """The sagas of these *numbers*, run by the processes of these *names*."""
    settings, sagas = Settings.read({}, **place["settings"]), len(numbers)
    opened = open_bus(settings)
    try:
        await create(load.app.topic_specs(settings), opened.bus)
        async with running(names, [place["settings"]], place["folder"]) as processes:
            carrier = await Carrier.listening(opened.bus, settings, load)
            warm_up = range(numbers.stop, numbers.stop + min(sagas, WARM_UP_SAGAS))
            await carrier.run(warm_up, in_flight)
            tune_gc()
            used = await _cpu_s(processes)
            began_at = time.perf_counter()
            latencies = await carrier.run(numbers, in_flight)
            seconds = time.perf_counter() - began_at
            used = {name: after - used[name] for name, after in (await _cpu_s(processes)).items()}
    finally:
        await opened.close()
    cpu = {f"cpu_us_{name}": cpu_s / sagas * 1e6 for name, cpu_s in used.items()}
    cpu["cpu_us_per_saga"] = sum(cpu.values())
    return cpu | {"sagas_per_s": sagas / seconds} | percentiles(latencies)


class Carrier:
    """Asks for sagas, answers bookings, and says what became of each parcel."""

    def __init__(self, bus: Bus, consumer: Consumer, settings: Settings, load: Load) -> None:
        self._bus = bus
        self._consumer = consumer
        self._names = settings.topic_names
        self._load = load
        self._flying: dict[bytes, float] = {}
        self._later: deque[tuple[float, Record]] = deque()
        """What is said of parcels, and when, in order of time."""
        self._publishing: set[asyncio.Task[None]] = set()

    @classmethod
    async def listening(cls, bus: Bus, settings: Settings, load: Load) -> Carrier:
        """One that sees every booking and every end from now on."""
        watched: list[type[ContractModel]] = [Book, *load.ends]
        names = settings.topic_names
        topics = [names.topic(contract_of(model).contract_name) for model in watched]

        async def from_now_on(sources: Sequence[Source]) -> Mapping[Source, int]:
            return {source: end for source, (_, end) in (await bus.bounds(sources)).items()}

        consumer = await bus.subscribe(f"bench-{new_id()}", topics, resume_at=from_now_on)
        async with asyncio.timeout(TOPICS_S):
            while not consumer.assignment():
                await consumer.fetch(records_max=1, timeout_s=FETCH_S)
        return cls(bus, consumer, settings, load)

    async def run(self, numbers: range, in_flight: int) -> list[float]:
        """Latencies in seconds, from before a saga is asked for until its end is read.

        Raises:
            NotSo: no saga ends any more.
        """
        waiting, booking = iter(numbers), self._topic(Book)
        latencies: list[float] = []
        self._ask(islice(waiting, in_flight))
        heard_at = time.perf_counter()
        while self._flying:
            records = await self._consumer.fetch(records_max=10_000, timeout_s=FETCH_S / 5)
            now = time.perf_counter()
            said = list(self._due(now))
            ended = 0
            for record in records:
                if record.topic == booking:
                    said.append(self._booked(record, now))
                elif (began_at := self._flying.pop(record.key or b"", None)) is not None:
                    latencies.append(now - began_at)
                    ended += 1
            self._publish(said)
            if records:
                heard_at = now
                self._ask(islice(waiting, ended))
            elif now - heard_at > STALL_S:
                raise NotSo(f"{len(self._flying)} sagas have not ended after {STALL_S:g} s")
        await asyncio.gather(*self._publishing)
        return latencies

    def _ask(self, numbers: Iterator[int]) -> None:
        records = []
        began_at = time.perf_counter()
        for number in numbers:
            asked = self._load.asked(number)
            key = business_key(asked)
            assert key is not None, asked
            self._flying[key.encode()] = began_at
            records.append(self._event(asked, key))
        self._publish(records)

    def _booked(self, booking: Inbound, now: float) -> Record:
        """The answer to a booking; what becomes of the parcel is said later."""
        assert booking.key is not None
        key, headers = booking.key.decode(), dict(booking.headers)
        number = f"p-{key}"
        elsewhere = number if self._load.is_apart else key
        picked_up = self._event(PickedUp(order_id=key, parcel=number), elsewhere)
        self._later.append((now + GAP_S, picked_up))
        booked = encode(Booked(parcel=number)).encode()
        cause = ((ce.CAUSATION_ID, headers[ce.ID]),)
        return Record(self._topic(Booked), booking.key, booked, cause)

    def _due(self, now: float) -> Iterator[Record]:
        """What is to be said by now; a parcel that is picked up is delivered next."""
        while self._later and self._later[0][0] <= now:
            _, record = self._later.popleft()
            yield record
            if record.topic == self._topic(PickedUp):
                picked_up = PickedUp.model_validate_json(record.value or b"")
                delivered = Delivered(order_id=picked_up.order_id, parcel=picked_up.parcel)
                event = self._event(delivered, picked_up.order_id)
                self._later.append((now + GAP_S, event))

    def _event(self, event: Event, key: str) -> Record:
        headers = ((ce.ID, new_id().encode()),)
        return Record(self._topic(type(event)), key.encode(), encode(event).encode(), headers)

    def _topic(self, model: type[ContractModel]) -> str:
        return self._names.topic(contract_of(model).contract_name)

    def _publish(self, records: Sequence[Record]) -> None:
        if records:
            task = asyncio.create_task(self._bus.publish(records))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)


async def _cpu_s(processes: Sequence[Process]) -> dict[str, float]:
    """By what the processes are for, whatever load they are of."""
    used: dict[str, float] = {}
    for process in processes:
        role = process.name.partition("-")[2]
        used[role] = used.get(role, 0.0) + await process.cpu_s()
    return used
