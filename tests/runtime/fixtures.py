"""An orchestrator on a bus and a store in memory, with a clock moved by hand.

`Scenario.take` takes turns with one batch of chosen records; `Scenario.serving` runs the
whole orchestrator. Replies are written by hand, so that a test says exactly what arrives, and when.
"""

# ruff: noqa: SLF001 - what is in memory is nobody's business but the tests'

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from saga.adapters.clocks import ManualClock
from saga.adapters.memory import MemoryCatalogue, MemoryEventStore, MemoryStatistics
from saga.app import SagaApp
from saga.assembly import Assembly, Parts
from saga.contracts import (
    COMMAND_CONTRACT,
    HEADERS_BYTES_MAX,
    Command,
    CommandAct,
    ContractModel,
    IntentDone,
    IntentFailed,
    TopicNames,
    contract_of,
    encode,
)
from saga.contracts import cloudevents as ce
from saga.core.history import Entry
from saga.core.identity import SagaId, parse_intent_id, saga_id
from saga.ports import Inbound, Record, Source, TopicSpec, UnhandledRecord
from saga.ports.store import UnhandledKind
from saga.runtime.turns import Turns
from saga.runtime.unit_of_work import InboundBatch, UnitOfWork
from saga.settings import Settings
from tests.fakes import FlakyBus, FlakyStore
from tests.records import header
from tests.runtime import invariants

NAMES = TopicNames("test", "toys")
WAIT_S_MAX = 120.0
STEP_S = 0.001
"""At least so much time passes whenever nothing happens."""


async def take(turns: Turns, batch: InboundBatch) -> UnitOfWork:
    """Take the turns of one batch, stored and published."""
    committed = await turns.take_turns(batch)
    await turns.publish(committed)
    return committed.unit


class Scenario:
    """One bus, one store, one process at a time; `restart` is another one on the same data.

    *shares_file* has the store publish in the append's own transaction, as SQLite does by default.
    """

    def __init__(
        self,
        *sagas,
        contracts=(),
        shares_file: bool = True,
        record_bytes: int = 1_000_000,
        signing_keys: str | None = None,
    ) -> None:
        self.clock = ManualClock()
        record_bytes_max = record_bytes + HEADERS_BYTES_MAX
        self.bus = FlakyBus(clock=self.clock, record_bytes_max=record_bytes_max)
        through = self.bus if shares_file else None
        self.store = FlakyStore(MemoryEventStore(publish_through=through))
        self.catalogue = MemoryCatalogue(self.store.inner)
        self.statistics = MemoryStatistics(self.store.inner)
        self._settings = Settings.read(
            {},
            env=NAMES.env,
            namespace=NAMES.namespace,
            record_bytes=record_bytes,
            signing_keys=signing_keys,
        )
        self._read: Counter[Source] = Counter()
        self._contracts = contracts
        self._sequence = 0
        self.restart(*sagas)

    def restart(self, *sagas) -> None:
        """A new process; with *sagas*, of a new application."""
        if sagas:
            self.app = SagaApp(sagas=sagas, contracts=self._contracts)
        parts = Parts(bus=self.bus, store=self.store, catalogue=self.catalogue, clock=self.clock)
        assembly = Assembly(self.app, self._settings, parts)
        self.waiters = assembly.waiters
        self.orchestrator = assembly.orchestrator
        self.router = assembly.router
        self.relay = assembly.relay
        self.turns = assembly.turns
        self.cache = assembly.cache

    async def make_topics(self, partitions: int = 1) -> None:
        await self.bus.create_topics(
            [TopicSpec(topic, partitions) for topic in self.app.topics(NAMES)]
        )

    # One batch at a time.

    async def take(self, *records: Record, due=(), revisits=()) -> UnitOfWork:
        """Publish *records* and take the turns that all unread ones call for, as one batch."""
        await self.make_topics()
        self.bus.append(records)
        return await take(self.turns, InboundBatch(self.unread(), list(due), list(revisits)))

    async def take_due(self) -> UnitOfWork:
        """Take the turns of all timers that are due."""
        due = await self.store.due_timers(until=self.clock.now(), limit=100)
        return await self.take(due=due)

    def unread(self) -> list[Inbound]:
        """The records that sagas listen to and `take` has not seen yet, in order of publication."""
        found = []
        for topic in self.router.topics:
            for source, partition in self.bus.partitions.items():
                if source.topic == topic:
                    found += partition.records[self._read[source] :]
                    self._read[source] = len(partition.records)
        return sorted(found, key=lambda record: (record.timestamp, self._order_of(record)))

    def _order_of(self, record: Inbound) -> int:
        return int(dict(record.headers).get("sequence", b"0"))

    # A whole orchestrator.

    @asynccontextmanager
    async def serving(self, partitions: int = 1) -> AsyncIterator[None]:
        """The orchestrator at work; stopped at the end, and its own error is raised."""
        await self.make_topics(partitions)
        await self.orchestrator.start()
        running = asyncio.ensure_future(self.orchestrator.run())
        try:
            yield
        finally:
            self.orchestrator.stop()
            await self.until(running.done)
            running.result()
            await self.orchestrator.close()

    @asynccontextmanager
    async def dying(self) -> AsyncIterator[None]:
        """The orchestrator at work, then killed: nothing is finished, nothing said."""
        await self.make_topics()
        await self.orchestrator.start()
        running = asyncio.ensure_future(self.orchestrator.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.orchestrator.receiver.consumer.close()

    async def until(self, is_so: Callable[[], object], *, within_s: float | None = None) -> None:
        """Let things happen, and time pass, until *is_so*."""
        latest = self.clock.now() + round((within_s or WAIT_S_MAX) * 1_000_000)
        while True:
            for _ in range(20):
                await asyncio.sleep(0)
            if is_so():
                return
            assert self.clock.now() < latest, "it did not come to pass"
            self.clock.advance(max(self.clock.next_wake_s() or 0, STEP_S))

    async def while_passing(self, seconds: float) -> None:
        until = self.clock.now() + round(seconds * 1_000_000)
        await self.until(lambda: self.clock.now() >= until, within_s=seconds + 1)

    # What one writes by hand.

    def record(self, topic: str, key, value, headers=()) -> Record:
        """Any record; an order of publication is kept in a header that nobody reads."""
        self._sequence += 1
        return Record(topic, key, value, (*headers, ("sequence", b"%d" % self._sequence)))

    def event(self, model: ContractModel, key: str, *, id: str | None = None) -> Record:
        """An event as another program publishes it; without an id it has no CloudEvent header."""
        name = contract_of(type(model)).contract_name
        headers = () if id is None else ((ce.ID, id.encode()),)
        return self.record(NAMES.topic(name), key.encode(), encode(model).encode(), headers)

    def reply(
        self, intent: Inbound | str, model: ContractModel | None = None, key: str | None = None
    ) -> Record:
        """The answer to an intent, by its record or its id; done where there is no model."""
        if isinstance(intent, str):
            intent_id, domain, key = intent, "toys", key or "o-1"
        else:
            intent_id = header(intent, ce.ID)
            domain = header(intent, ce.TYPE).split(".")[0]
            key = key or intent.key.decode()
        if model is None:
            name = f"{domain}.evt.intent-done.v1"
        elif isinstance(model, IntentFailed):
            name = f"{domain}.evt.intent-failed.v1"
        else:
            name = contract_of(type(model)).contract_name
        id_, saga = f"{intent_id}/reply", parse_intent_id(intent_id).saga_id
        headers = ce.Said(id_, name, "/test/service", self.clock.now(), saga, intent_id, id_)
        value = encode(model or IntentDone()).encode()
        return self.record(NAMES.topic(name), key.encode(), value, headers)

    def command(self, saga: SagaId, act: CommandAct, *, id: str, key: str | None = None, **said):
        """A command as an operator's tool sends it: under the key of its saga."""
        if key is None:
            summary = self.store.inner.summaries.get(saga)
            key = "o-1" if summary is None else summary.key
        if "new_key" in said:
            said["key"] = said.pop("new_key")
        value = encode(Command(command_id=id, act=act, saga_id=saga, **said)).encode()
        return self.record(NAMES.topic(COMMAND_CONTRACT), key.encode(), value)

    def signal(self, saga: SagaId, name: str, payload, *, id: str) -> Record:
        return self.command(saga, CommandAct.SIGNAL, id=id, name=name, payload=payload)

    def release(self, saga: SagaId, *, id: str = "release-1") -> Record:
        return self.command(saga, CommandAct.RELEASE, id=id, reason="mended")

    def answerer(self, *contracts) -> Callable[[], int]:
        """A function that answers, for all services, the intents that came since its last call."""
        answered: set[str] = set()

        def answer() -> int:
            for contract, reply in contracts:
                for intent in self.on(contract):
                    name = header(intent, ce.ID)
                    if name not in answered:
                        answered.add(name)
                        self.bus.append([self.reply(intent, reply)])
            return len(answered)

        return answer

    # What came of it.

    def history(self, saga: SagaId) -> list[Entry]:
        return self.store.inner.history(saga)

    def bodies(self, saga: SagaId) -> list[str]:
        """What the entries of one saga are, in words."""
        return [type(entry.body).__name__ for entry in self.history(saga)]

    def status(self, saga: SagaId) -> str:
        return self.store.inner.summaries[saga].status.value

    def reason(self, saga: SagaId) -> str | None:
        return self.store.inner.summaries[saga].reason

    def on(self, contract: str | type[ContractModel]) -> list[Inbound]:
        name = contract if isinstance(contract, str) else contract_of(contract).contract_name
        return [
            record
            for source, partition in sorted(self.bus.partitions.items())
            if source.topic == NAMES.topic(name)
            for record in partition.records
        ]

    def dead_letters(self) -> list[UnhandledRecord]:
        return [
            record
            for record in self.store.inner.unhandled.values()
            if record.kind is UnhandledKind.DEAD
        ]

    def deferred(self) -> list[UnhandledRecord]:
        return [
            record
            for record in self.store.inner.unhandled.values()
            if record.kind is UnhandledKind.DEFERRED
        ]

    def check(self, *, is_all_published: bool = True) -> None:
        histories = dict(self.store.inner._histories)
        invariants.check_histories(self.app, histories)
        invariants.check_live(self.app, self.cache, histories)
        if is_all_published:
            published = [record for part in self.bus.partitions.values() for record in part.records]
            own_keys = self.app.contracts.own_keys
            invariants.check_published(NAMES, histories, published, own_keys)


def order_id(key: str = "o-1") -> SagaId:
    return saga_id("order", key)
