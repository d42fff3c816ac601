"""What runs in a simulated process: the same objects as in a real one, by `saga.assembly`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from typing_extensions import override

from saga.adapters.memory import MemoryCatalogue
from saga.app import SagaApp
from saga.assembly import Assembly, Parts
from saga.contracts import TopicNames
from saga.core.history import Entry
from saga.core.identity import SagaId
from saga.core.status import SagaStatus
from saga.effects import EffectsSettings
from saga.errors import BusUnavailable, StoreUnavailable
from saga.ports import Record
from saga.runtime.dispatcher import Dispatcher
from saga.runtime.router import Delivery
from saga.runtime.turns import CommittedBatch, Turns
from saga.runtime.unit_of_work import InboundBatch, UnitOfWork
from saga.settings import Settings
from saga.testing.world.application import ledger
from saga.testing.world.broker import SimulatedBus
from saga.testing.world.evidence import Evidence, Log
from saga.testing.world.hearing import heard, topics_read
from saga.testing.world.ports import (
    LATE_REPLY_S_MAX,
    ProcessBus,
    ProcessClock,
    catalogue_of,
    snapshots_of,
    store_of,
)
from saga.testing.world.process import Process
from saga.testing.world.shadow import Shadows
from saga.testing.world.stores import EffectsDatabase, WorldStore

NAMES = TopicNames("sim", "world")
EARLY_HOLD = "3s"
SLOW_AFTER_S = 0.05


@dataclass(slots=True)
class Durable:
    """What outlives the processes of one application in a world; all share the bus.

    *app* is the release that is there first, *deploys* are those that follow.
    """

    app: SagaApp
    bus: SimulatedBus
    store: WorldStore
    catalogue: MemoryCatalogue
    database: EffectsDatabase
    violations: list[str]
    counts: Counter[str] = field(default_factory=Counter)
    shadows: Shadows = field(default_factory=Shadows)
    names: TopicNames = NAMES
    deploys: Sequence[SagaApp] = ()
    stalled: set[SagaId] = field(default_factory=set)
    """The sagas that have waited for a deploy."""
    newest: SagaApp = field(init=False)
    """The release that was deployed last."""
    heard: frozenset[str] = field(init=False)
    """The topics that its orchestrators read now."""

    def __post_init__(self) -> None:
        self.deploy(self.app)

    @property
    def releases(self) -> Sequence[SagaApp]:
        return (self.app, *self.deploys)

    def deploy(self, release: SagaApp) -> None:
        self.newest, self.heard = release, topics_read(release, self.names)

    async def busy(self, running: Iterable[AnyProcess]) -> str | None:
        """What is left to read, to handle or to publish; None where nothing is."""
        heard = [source for source in self.bus.partitions if source.topic in self.heard]
        stored = await self.store.positions(heard)
        for source in heard:
            if stored.get(source, -1) < self.bus.partitions[source].end - 1:
                return f"{source} is read up to {stored.get(source)} only"
        for role in running:
            unread = [source for member in role.bus.members for source in member.unread()]
            if unread:
                return f"{role.process.name} has not fetched all of {unread[0]}"
            if isinstance(role, EffectsProcess) and any(each.in_hand for each in role.services):
                return f"{role.process.name} has something in hand"
        backlog = await self.store.backlog(limit=1)
        return f"the backlog has {backlog[0].backlog_id}" if backlog else None

    def evidence(self, log: Log, entries: Iterable[Entry], **found: Any) -> Evidence:
        """What the checks judge: *entries* of all sagas in order, and what else was *found*."""
        histories: dict[SagaId, list[Entry]] = {}
        own_keys: dict[str, str] = {}
        for release in self.releases:
            own_keys |= release.contracts.own_keys
        for entry in entries:
            histories.setdefault(entry.saga_id, []).append(entry)
        return Evidence(
            log=log,
            histories=histories,
            published=self.bus.published,
            ledger=ledger(self.database),
            heard=self.heard,
            names=self.names,
            own_keys=own_keys,
            stalled=frozenset(self.stalled),
            heard_events=tuple(heard(self.releases, self.bus.published, self.names)),
            **found,
        )


class WatchedDispatcher(Dispatcher):
    """Compares, after every turn, the live state with the one that the history gives."""

    durable: Durable

    @override
    def deliver(self, unit: UnitOfWork, delivery: Delivery, failure: BaseException | None) -> None:
        super().deliver(unit, delivery, failure)
        saga = unit.changed.get(delivery.saga_id)
        if saga is not None:
            durable, decided = self.durable, unit.histories[saga.saga_id].entries
            stored = durable.store.history(saga.saga_id)[: saga.version - len(decided)]
            history = [*stored, *decided]
            durable.violations += durable.shadows.compare(saga.decider, saga.state, history)


class WatchedTurns(Turns):
    durable: Durable
    dispatcher_type = WatchedDispatcher

    def watch(self, durable: Durable) -> None:
        """Tell *durable* what is seen."""
        assert isinstance(self._dispatcher, WatchedDispatcher), self._dispatcher
        self.durable = self._dispatcher.durable = durable

    @override
    async def take_turns(self, batch: InboundBatch) -> CommittedBatch:
        committed = await super().take_turns(batch)
        self.durable.counts.update(committed.unit.counts)
        stalled = (row for row in committed.unit.summaries if row.status is SagaStatus.STALLED)
        self.durable.stalled.update(row.saga_id for row in stalled)
        return committed


@lru_cache(maxsize=16)
def settings_of(names: TopicNames, *, live_sagas: int = 1) -> Settings:
    """Names and limits of a world, read once: reading settings takes a tenth of a world's time."""
    return Settings.read(
        {},
        env=names.env,
        namespace=names.namespace,
        early_hold=EARLY_HOLD,
        live_sagas=live_sagas,
    )


def assembled(
    process: Process,
    durable: Durable,
    bus: ProcessBus,
    *,
    release: SagaApp | None = None,
    live_sagas: int = 1,
    **options: Any,
) -> Assembly:
    """The objects of one process, by the *release* that it runs: by default the first one."""
    parts = Parts(
        bus=bus.as_bus,
        store=store_of(process, durable.store),
        catalogue=catalogue_of(process, durable.catalogue),
        snapshots=snapshots_of(process, durable.store),
        clock=ProcessClock(process),
        worker_id=process.name,
        new_id=process.new_id,
    )
    settings = settings_of(durable.names, live_sagas=live_sagas)
    # With a snapshot at every turn, all that leaves memory comes back from one.
    return Assembly(release or durable.app, settings, parts, snapshot_entries=1, **options)


class OrchestratorProcess:
    def __init__(
        self,
        process: Process,
        durable: Durable,
        *,
        live_sagas: int,
        release: SagaApp | None = None,
        turns_type: type[WatchedTurns] = WatchedTurns,
    ) -> None:
        self.process = process
        self.bus = ProcessBus(process, durable.bus)
        self._durable = durable
        assembly = assembled(
            process,
            durable,
            self.bus,
            release=release,
            live_sagas=live_sagas,
            turns_type=turns_type,
        )
        assert isinstance(assembly.turns, WatchedTurns), turns_type
        assembly.turns.watch(durable)
        self.orchestrator = assembly.orchestrator
        self._cache = assembly.cache

    async def live(self) -> None:
        try:
            await self.orchestrator.start()
            self.process.has_started = True
            await self.orchestrator.run()
        finally:
            self._cache.clear()  # what a killed process had in memory does nothing any more
        self._durable.counts["conflicts"] += self.orchestrator.counts["conflicts"]
        # As a service does: the next one finds out what could not be told now.
        with suppress(StoreUnavailable, BusUnavailable):
            await self.orchestrator.close()

    def stop(self) -> None:
        self.orchestrator.stop()


class EffectsProcess:
    def __init__(
        self, process: Process, durable: Durable, *, release: SagaApp | None = None
    ) -> None:
        self.process = process
        self.bus = ProcessBus(process, durable.bus, losing=self._losing)
        self._durable = durable
        self._stopping = asyncio.Event()
        assembly = assembled(process, durable, self.bus, release=release)
        store = durable.database.store_for(process, self._losing)
        limits = EffectsSettings(threads=0, slow_after_s=SLOW_AFTER_S)
        self.services = [
            assembly.effects_service(subscription, store, limits=limits)
            for subscription in assembly.subscriptions
        ]

    async def live(self) -> None:
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
        self._stopping.set()

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    def _losing(self, records: Sequence[Record]) -> Sequence[Record]:
        """Replies come late or get lost; only those get lost that a saga awaits with a limit."""
        faults, rates = self.process.surroundings.faults, self.process.surroundings.faults.rates
        if not rates.lost_reply and not rates.late_reply:
            return records
        left: list[Record] = []
        for record in records:
            causes = [value for name, value in record.headers if name == "ce_causationid"]
            if not causes:
                left.append(record)
                continue
            deadline = self._durable.store.deadline_of((causes[0] or b"").decode())
            if deadline is not None and faults.hits("lost reply", rates.lost_reply):
                continue
            if faults.hits("late reply", rates.late_reply):
                now = self.process.surroundings.loop.now()
                left_s = 0 if deadline is None else (deadline - now) / 1_000_000
                delay_s = faults.rng.uniform(0, max(LATE_REPLY_S_MAX, 2 * left_s))
                self._durable.bus.append_later(record, delay_s)
            else:
                left.append(record)
        return left


AnyProcess = OrchestratorProcess | EffectsProcess
