"""What runs in a simulated process: the same objects as in a real one, put together as
`saga.wiring` does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from saga.adapters.memory import MemoryCatalogue
from saga.app import SagaApp
from saga.contracts import TopicNames
from saga.effects import EffectsService
from saga.effects.settings import EffectsSettings
from saga.errors import BusUnavailable, StoreUnavailable
from saga.ports import Batch, Inbound, Record
from saga.runtime import parking
from saga.runtime.aside import Aside
from saga.runtime.orchestrator import Orchestrator
from saga.runtime.outcome_waiters import OutcomeWaiters
from saga.runtime.record_encoder import RecordEncoder
from saga.runtime.relay import Relay
from saga.runtime.router import Router
from saga.runtime.saga_cache import SagaCache
from saga.runtime.turns import CommittedBatch, Turns
from saga.runtime.work import Work
from saga.testing.world.broker import SimulatedBus
from saga.testing.world.database import EffectsDatabase
from saga.testing.world.ports import (
    LATE_REPLY_S_MAX,
    ProcessBus,
    ProcessCatalogue,
    ProcessClock,
    ProcessStore,
)
from saga.testing.world.process import Process
from saga.testing.world.shadow import Shadows
from saga.testing.world.store import WorldStore

RECORD_BYTES_MAX = 1_048_576
EARLY_HOLD_S = 3.0
SLOW_AFTER_S = 0.05
GROUP = "saga-orchestrator"


@dataclass(slots=True)
class Durable:
    """What outlives the processes of a world."""

    app: SagaApp
    names: TopicNames
    bus: SimulatedBus
    store: WorldStore
    catalogue: MemoryCatalogue
    database: EffectsDatabase
    violations: list[str]
    counts: Counter[str]
    shadows: Shadows = field(default_factory=Shadows)


class WatchedTurns(Turns):
    """Compares, after every turn, the live state with the one that the history gives."""

    durable: Durable

    async def take_turns(self, work: Work) -> CommittedBatch:
        """Take all turns that *work* calls for."""
        taken = await super().take_turns(work)
        durable = self.durable
        for saga_id, touched in taken.draft.touched.items():
            if touched.entries:
                live = touched.live
                history = durable.store.history(saga_id)[: live.version]
                durable.violations += durable.shadows.compare(live.decider, live.state, history)
        durable.counts.update(taken.draft.counts)
        return taken


class OrchestratorProcess:
    """An orchestrator in a process."""

    def __init__(
        self,
        process: Process,
        durable: Durable,
        *,
        live_sagas: int,
        turns_type: type[WatchedTurns] = WatchedTurns,
    ) -> None:
        app, names = durable.app, durable.names
        clock = ProcessClock(process)
        self.process = process
        self.bus = ProcessBus(process, durable.bus)
        self._durable = durable
        store = ProcessStore(process, durable.store)
        catalogue = ProcessCatalogue(process, durable.catalogue)
        outgoing = RecordEncoder(names, record_bytes_max=RECORD_BYTES_MAX)
        relay = Relay(
            bus=self.bus, store=store, outgoing=outgoing, clock=clock, worker_id=process.name
        )
        router = Router(app.registry, app.contracts, names)
        aside = Aside(catalogue, early_hold_s=EARLY_HOLD_S)
        turns = turns_type(
            router=router,
            live=SagaCache(store, app.registry, sagas_max=live_sagas),
            store=store,
            aside=aside,
            outgoing=outgoing,
            relay=relay,
            names=names,
            clock=clock,
            watchers=OutcomeWaiters(),
        )
        turns.durable = durable
        self.orchestrator = Orchestrator(
            bus=self.bus,
            store=store,
            catalogue=catalogue,
            router=router,
            turns=turns,
            aside=aside,
            relay=relay,
            clock=clock,
            group=GROUP,
            worker_id=process.name,
        )

    async def live(self) -> None:
        """Start, work until stopped, leave."""
        await self.orchestrator.start()
        self.process.has_started = True
        await self.orchestrator.run()
        self._durable.counts["conflicts"] += self.orchestrator.counts["conflicts"]
        try:
            await self.orchestrator.close()
        except (StoreUnavailable, BusUnavailable):
            return  # as a service does: what could not be said now is found out by the next one

    def stop(self) -> None:
        """Ask it to end."""
        self.orchestrator.stop()


class EffectsProcess:
    """All effect services of the application in a process."""

    def __init__(self, process: Process, durable: Durable) -> None:
        app, names = durable.app, durable.names
        clock = ProcessClock(process)
        self.process = process
        self.bus = ProcessBus(process, durable.bus, losing=self._losing)
        self._durable = durable
        self._stopping = asyncio.Event()
        self._parks = ProcessStore(process, durable.store)
        self._clock = clock
        self.services = [
            EffectsService(
                effects,
                bus=self.bus,
                store=durable.database.open_for(process),
                clock=clock,
                contracts=app.contracts,
                names=names,
                park=self._park,
                settings=EffectsSettings(threads=0, slow_after_s=SLOW_AFTER_S),
            )
            for effects in app.effects
        ]

    async def live(self) -> None:
        """Start, work until stopped, leave."""
        for service in self.services:
            await service.start()
        self.process.has_started = True
        waits = [self.process.spawn(service.wait()) for service in self.services]
        stopped = self.process.spawn(self._wait_for_stop())
        await asyncio.wait([stopped, *waits], return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            if wait.done():
                wait.result()
        stopped.cancel()
        for service in reversed(self.services):
            await service.stop()

    def stop(self) -> None:
        """Ask it to end."""
        self._stopping.set()

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    async def _park(self, inbound: Inbound, reason: str, message: str) -> None:
        parked = parking.dead(inbound, reason, message, self._clock.now())
        copy = parking.dlq_record(parked, self._durable.names)
        if copy is not None:
            await self.bus.publish([copy])
        await self._parks.append(Batch(unhandled=[parked]), at=self._clock.now())

    def _losing(self, records: Sequence[Record]) -> Sequence[Record]:
        """Replies get lost, or come much later than they should."""
        faults = self.process.surroundings.faults
        left: list[Record] = []
        for record in records:
            if not any(name == "ce_causationid" for name, _ in record.headers):
                left.append(record)
            elif faults.hits("lost reply", faults.rates.lost_reply):
                continue
            elif faults.hits("late reply", faults.rates.late_reply):
                delay_s = faults.rng.uniform(0, LATE_REPLY_S_MAX)
                self._durable.bus.append_later(record, delay_s)
            else:
                left.append(record)
        return left


AnyProcess = OrchestratorProcess | EffectsProcess
