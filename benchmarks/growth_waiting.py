"""Growth: what a second costs while things wait, and a saga beside all that a store has.

Each curve is a function from sizes to points `(size, cost)`, as in `benchmarks.growth`. A cost is
the number of bytecode instructions, and of steps of SQLite's own machine.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final, Protocol, TypeVar

from benchmarks.counted import Counted
from benchmarks.growth import Points
from saga.adapters.clocks import ManualClock
from saga.adapters.memory import MemoryBus
from saga.adapters.sqlite import (
    SqliteCatalogue,
    SqliteDatabase,
    SqliteEventStore,
)
from saga.app import SagaApp
from saga.assembly import Assembly, Parts
from saga.authoring import Context, saga
from saga.contracts import COMMAND_CONTRACT, Command, CommandAct, Event, encode
from saga.core.identity import SagaId, saga_id
from saga.core.status import SagaStatus
from saga.ports import Catalogue, EventStore, Position, TopicSpec, UnhandledRecord
from saga.ports.store import Batch, DeferralReason, UnhandledKind
from saga.settings import Settings
from saga.testing import samples

SIZES: Final = (100, 300, 1_000, 3_000, 10_000, 30_000)
TOGETHER: Final = 500
SETTLING_S: Final = 3
IDLE_S: Final = 4
STEPS_MAX: Final = 20
"""Of the loop, until all that was begun waits for the clock."""
LOOKED_AT_A_S: Final = 100
"""So many open sagas are looked at in the first seconds of a process."""
DAY_US: Final = 86_400_000_000
T = TypeVar("T")


class Wanted(Event, topic="growth.wanted", version=1, key="name"):
    name: str


class Got(Event, topic="growth.got", version=1):
    name: str


@saga("waiting", version=1, starts_on=Wanted)
async def waiting(ctx: Context, wanted: Wanted) -> Got:
    return Got(name=await ctx.wait(wanted.name, str))


class Stored(Protocol):
    """An empty store, whose work is counted."""

    loop: asyncio.AbstractEventLoop
    store: EventStore
    catalogue: Catalogue

    def run(self, act: Awaitable[T]) -> T: ...
    def cost(self, act: Callable[[], Awaitable[object]]) -> int: ...
    async def settle(self) -> None:
        """Return when all that was begun waits for the clock."""

    def filled(self) -> None:
        """All that there is to be is in it."""

    def forget(self) -> None:
        """What was remembered of sagas in this process."""

    def close(self) -> None: ...


class InMemory(Counted):
    """A store in SQLite that is in no file."""

    def __init__(self) -> None:
        super().__init__(sqlite3.connect(":memory:", isolation_level=None))
        self._database = SqliteDatabase("growth", connection=self.connection)
        self.store: EventStore = SqliteEventStore(self._database)
        self.catalogue: Catalogue = SqliteCatalogue(self._database)

    async def settle(self) -> None:
        for _ in range(STEPS_MAX):
            await asyncio.sleep(0)

    def filled(self) -> None:
        """Nothing is left to do."""

    def forget(self) -> None:
        self.store = SqliteEventStore(self._database)


def fill(stored: Stored, size: int, kind: Kind) -> None:
    """Store so many sagas, as *kind* has them."""
    numbers = iter(range(size))
    while page := list(islice(numbers, TOGETHER)):
        batch = Batch()
        for number in page:
            kind(batch, number)
        stored.run(stored.store.append(batch, at=samples.MOMENT))
    stored.filled()


Kind = Callable[[Batch, int], object]
"""Puts one more saga of that kind into a batch."""
Make = Callable[[], Stored]


class CurveOfStore(Protocol):
    """A curve of stores of one kind, each of its own making."""

    def __call__(self, sizes: Sequence[int], make: Make = ...) -> Points: ...


def stands_at(status: SagaStatus, batch: Batch, number: int) -> SagaId:
    one = _saga(number)
    batch.histories.append(samples.history(one))
    batch.summaries.append(samples.summary(one, status=status))
    return one


def signal_to(one: SagaId, number: int) -> UnhandledRecord:
    """What a person has said to a saga, as it is deferred."""
    command = Command(
        command_id=f"c-{number}",
        act=CommandAct.SIGNAL,
        saga_id=one,
        name="given",
        payload=number,
    )
    record = samples.unhandled(number, kind=UnhandledKind.DEFERRED, saga_id=one)
    place = Position(Settings.read({}).topic_names.topic(COMMAND_CONTRACT), 0, number)
    return replace(
        record, position=place, key=b"order-1", value=encode(command).encode(), headers=()
    )


def deferred(reason: DeferralReason, status: SagaStatus | None, batch: Batch, number: int) -> None:
    """A record behind a saga that stands still, or that is not there."""
    one = _saga(number) if status is None else stands_at(status, batch, number)
    batch.unhandled.append(replace(signal_to(one, number), reason=reason, kept_at=samples.MOMENT))


def behind_one(batch: Batch, number: int) -> None:
    """One more record behind the one saga that is parked."""
    if number == 0:
        stands_at(SagaStatus.PARKED, batch, number)
    record = signal_to(_saga(0), number)
    batch.unhandled.append(replace(record, reason=DeferralReason.TURN_FAILED))


def dead(batch: Batch, number: int) -> None:
    batch.unhandled.append(samples.unhandled(number))


def armed(batch: Batch, number: int) -> None:
    """A timer that is due in a day, each at its own time."""
    one = stands_at(SagaStatus.RUNNING, batch, number)
    batch.timers_armed.append(samples.timer(one, "step-2/do/1/deadline", DAY_US + number))


FINISHED: Final[Kind] = partial(stands_at, SagaStatus.COMPLETED)
OPEN: Final[Kind] = partial(stands_at, SagaStatus.RUNNING)
PARKED: Final[Kind] = partial(stands_at, SagaStatus.PARKED)


def idle_second(kind: Kind) -> CurveOfStore:
    """What an orchestrator does in a second in which nothing happens."""

    def points(sizes: Sequence[int], make: Make = InMemory) -> Points:
        return [(size, _idle_second(make(), size, kind)) for size in sizes]

    return points


def _idle_second(stored: Stored, size: int, kind: Kind) -> float:
    fill(stored, size, kind)
    clock = ManualClock(samples.MOMENT)
    bus = MemoryBus(clock=clock)
    app = SagaApp(sagas=[waiting])
    settings = Settings.read({}, early_hold="1d")
    parts = Parts(bus=bus, store=stored.store, catalogue=stored.catalogue, clock=clock)
    assembly = Assembly(app, settings, parts)
    orchestrator = assembly.orchestrator
    topics = [TopicSpec(topic, 1) for topic in app.topics(assembly.names)]
    stored.run(bus.create_topics(topics))
    stored.run(orchestrator.start())
    running = stored.loop.create_task(orchestrator.run())
    stored.run(_pass(stored, clock, SETTLING_S + size / LOOKED_AT_A_S))
    cost = stored.cost(partial(_pass, stored, clock, IDLE_S)) / IDLE_S
    running.cancel()
    stored.run(asyncio.wait([running]))
    stored.close()
    return cost


async def _pass(stored: Stored, clock: ManualClock, seconds: float) -> None:
    until = clock.now() + round(seconds * 1_000_000)
    while clock.now() < until:
        await stored.settle()
        clock.advance(max(clock.next_wake_s() or 0, 0.001))


def beside(kind: Kind, act: Callable[[Stored], Awaitable[object]]) -> CurveOfStore:
    """What *act* takes in a store that has so many sagas."""

    def points(sizes: Sequence[int], make: Make = InMemory) -> Points:
        found: Points = []
        for size in sizes:
            stored = make()
            fill(stored, size, kind)
            found.append((size, stored.cost(partial(act, stored))))
            stored.close()
        return found

    return points


async def _one_saga(stored: Stored) -> None:
    """The store's share in one: begin, arm, load, go on, clear, end."""
    one = saga_id("growth", "one more")
    due = samples.timer(one, "step-2/do/1/deadline", DAY_US)
    await samples.append(stored.store, samples.history(one), timers_armed=[due])
    stored.forget()
    await stored.store.load([one])
    ended = samples.summary(one, status=SagaStatus.COMPLETED, version=4)
    await samples.append(
        stored.store,
        samples.history(one, after=1),
        summaries=[ended],
        timers_cleared=[due.timer_id],
    )


async def _watched(stored: Stored) -> None:
    """What each worker asks again and again."""
    await stored.store.due_timers(until=samples.MOMENT, limit=500)
    await stored.store.backlog(limit=100)
    await stored.catalogue.last_unhandled()
    await stored.catalogue.awaited(limit=50)


async def _listed(stored: Stored) -> None:
    """Pages as people look at them."""
    catalogue = stored.catalogue
    await catalogue.sagas(limit=20)
    await catalogue.sagas(after=_saga(50), limit=20)
    await catalogue.sagas(status=SagaStatus.ROLLED_BACK, limit=20)
    await catalogue.unhandled(limit=20, values=False)
    await catalogue.timers(limit=20)
    await catalogue.summaries([_saga(50)])


def _saga(number: int) -> SagaId:
    return samples.saga(number)


_NO_SAGA: Final = None
CURVES: Final[dict[str, CurveOfStore]] = {
    "an idle second: records behind parked sagas": idle_second(
        partial(deferred, DeferralReason.TURN_FAILED, SagaStatus.PARKED)
    ),
    "an idle second: records behind stalled sagas": idle_second(
        partial(deferred, DeferralReason.STALLED, SagaStatus.STALLED)
    ),
    "an idle second: records of sagas that do not come": idle_second(
        partial(deferred, DeferralReason.EARLY, _NO_SAGA)
    ),
    "an idle second: records behind one saga": idle_second(behind_one),
    "an idle second: dead letters": idle_second(dead),
    "an idle second: timers": idle_second(armed),
    "an idle second: parked sagas": idle_second(PARKED),
    "an idle second: open sagas": idle_second(OPEN),
    "an idle second: finished sagas": idle_second(FINISHED),
    "a saga beside finished ones": beside(FINISHED, _one_saga),
    "a saga beside open ones": beside(armed, _one_saga),
    "what workers ask beside finished sagas": beside(FINISHED, _watched),
    "what workers ask beside open sagas": beside(armed, _watched),
    "what workers ask beside dead letters": beside(dead, _watched),
    "what people list beside finished sagas": beside(FINISHED, _listed),
    "what people list beside open sagas": beside(armed, _listed),
}
