"""Growth: what an application costs that has many contracts and definitions, or much on its bus.

Each curve is a function from sizes to points `(size, cost)`, as in `benchmarks.growth_waiting`.
What is done once is a cost for each of the things that there are many of.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.counted import Counted
from benchmarks.growth import Curve, Points, instructions
from saga.adapters.clocks import ManualClock
from saga.adapters.sqlite import LocalBus, SqliteDatabase
from saga.app import SagaApp
from saga.authoring import Context, SagaDefinition, saga
from saga.contracts import (
    Event,
    Intent,
    TopicNames,
    contract_of,
    encode,
)
from saga.core.identity import Instant
from saga.ports import Inbound, Record, TopicSpec
from saga.runtime.router import Router

SIZES: Final = (64, 192, 576, 1_728, 5_184, 15_552)
"""Partitions."""
PARTITIONS: Final = 64
NAMES: Final = TopicNames("dev", "growth")
AT: Final = Instant(1_700_000_000_000_000)


class SharedBus(Counted):
    """A local bus of so many partitions, whose file another process writes, too."""

    def __init__(self, folder: str, partitions: int) -> None:
        path = str(Path(folder) / "bus.db")
        super().__init__(sqlite3.connect(path, isolation_level=None))
        self.connection.execute("PRAGMA journal_mode=WAL")
        self._beside = sqlite3.connect(path, isolation_level=None)
        self.bus, self._other = (
            LocalBus(SqliteDatabase("bus", connection=each), clock=ManualClock(AT))
            for each in (self.connection, self._beside)
        )
        self.topics = [f"growth-{number}" for number in range(partitions // PARTITIONS)]
        specs = [TopicSpec(topic, PARTITIONS, 86_400) for topic in self.topics]
        self.run(self.bus.create_topics(specs))

    async def subscribe(self) -> None:
        consumer = await self.bus.subscribe("group", self.topics)
        await consumer.fetch(records_max=1, timeout_s=0)

    def others_publish(self) -> None:
        self.run(self._other.publish([Record(self.topics[0], b"key", b"{}", ())]))

    async def look(self) -> None:
        """What is done every few milliseconds."""
        assert await self.bus._poll()  # noqa: SLF001

    def end(self) -> None:
        self.run(self.bus.close())
        self._beside.close()
        self.close()


def _subscribing(sizes: Sequence[int]) -> Points:
    found: Points = []
    for size in sizes:
        with TemporaryDirectory() as folder:
            shared = SharedBus(folder, size)
            found.append((size, shared.cost(shared.subscribe) / size))
            shared.end()
    return found


def _noticing(sizes: Sequence[int]) -> Points:
    found: Points = []
    for size in sizes:
        with TemporaryDirectory() as folder:
            shared = SharedBus(folder, size)
            shared.run(shared.subscribe())
            shared.others_publish()
            shared.run(shared.look())  # the first one is at all
            shared.others_publish()
            found.append((size, shared.cost(shared.look)))
            shared.end()
    return found


def _contracts(size: int) -> list[type[Event | Intent[Any]]]:
    made: list[type[Event | Intent[Any]]] = []
    for number in range(size):
        topic = f"domain{number % 10}.thing-{number}"

        class Thing(Event, topic=topic, version=1, key="name"):
            name: str

        made.append(Thing)
    return made


def _definitions(contracts: Sequence[Any]) -> list[SagaDefinition]:
    made: list[SagaDefinition] = []
    for number, contract in enumerate(contracts):

        @saga(f"saga-{number}", version=1, starts_on=contract)
        async def begun(ctx: Context, _: Any) -> None:
            await ctx.wait("go")

        made.append(begun)
    return made


def _registering(sizes: Sequence[int]) -> Points:
    definitions = _definitions(_contracts(max(sizes)))
    return [(size, instructions(partial(_assembled, definitions[:size])) / size) for size in sizes]


def _assembled(definitions: Sequence[SagaDefinition]) -> Router:
    app = SagaApp(sagas=definitions)
    return Router(app.registry, app.contracts, NAMES)


def _routing(sizes: Sequence[int]) -> Points:
    contracts = _contracts(max(sizes))
    definitions = _definitions(contracts)
    first: Any = contracts[0]
    topic = NAMES.topic(contract_of(first).contract_name)
    inbound = Inbound(topic, 0, 0, b"one", encode(first(name="one")).encode(), (), AT)
    found: Points = []
    for size in sizes:
        router = _assembled(definitions[:size])
        router.understand(inbound, AT)
        found.append((size, instructions(partial(router.understand, inbound, AT))))
    return found


CURVES: Final[dict[str, Curve]] = {
    "a partition subscribed": _subscribing,
    "another process's record beside partitions": _noticing,
    "a contract and its saga registered": _registering,
    "a record routed beside definitions": _routing,
}
