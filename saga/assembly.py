"""The objects of one process, each put together in one place, from parts that come from outside.

A service, a command, a simulated process and a test differ only in the `Parts` they pass in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Self

from saga.adapters.clocks import SystemClock
from saga.adapters.ids import new_id, worker_id
from saga.application import Application
from saga.core.values import value
from saga.effects import EffectsService, EffectsSettings, Subscription
from saga.ports import Bus, Catalogue, Clock, EventStore, SnapshotStore
from saga.ports.effects_store import EffectsStore
from saga.publishing.writer import EventWriter
from saga.runtime.changed_code import ChangedCode
from saga.runtime.deferred import DeferredRecords
from saga.runtime.orchestrator import Orchestrator, Receiver
from saga.runtime.outcomes import OutcomeWaiters
from saga.runtime.pauses import Pauses
from saga.runtime.publisher import Commands, Publisher
from saga.runtime.relay import RecordEncoder, Relay
from saga.runtime.router import Router
from saga.runtime.saga_cache import SNAPSHOT_ENTRIES, SagaCache
from saga.runtime.store_clock import StoreClock
from saga.runtime.turns import Turns
from saga.runtime.unhandled import DeadLetters
from saga.settings import Settings

if TYPE_CHECKING:
    from saga.adapters.opening import Opened


@value(kw_only=True)
class Parts:
    """What differs between a real process, a simulated one and a test; *new_id* is for messages."""

    bus: Bus
    store: EventStore
    catalogue: Catalogue
    clock: Clock
    snapshots: SnapshotStore | None = None
    """None: sagas are always loaded whole."""
    worker_id: str = ""
    new_id: Callable[[], str] = new_id

    @classmethod
    def of(cls, opened: Opened) -> Self:
        """Those of a real process."""
        store, catalogue = opened.store, opened.catalogue
        return cls(
            bus=opened.bus, store=store, catalogue=catalogue, clock=SystemClock(), snapshots=store
        )


class Assembly:
    """The objects of one process, made when first asked for; *settings* gives names and limits."""

    def __init__(
        self,
        app: Application,
        settings: Settings,
        parts: Parts,
        *,
        turns_type: type[Turns] = Turns,
        snapshot_entries: int = SNAPSHOT_ENTRIES,
    ) -> None:
        self.app = app
        self.settings = settings
        self.parts = parts
        self.names = settings.topic_names
        self.worker_id = parts.worker_id or worker_id()
        self._turns_type = turns_type
        self._snapshot_entries = snapshot_entries

    @cached_property
    def store_clock(self) -> StoreClock:
        return StoreClock(self.parts.store, self.parts.clock)

    @cached_property
    def waiters(self) -> OutcomeWaiters:
        return OutcomeWaiters(self.app.contracts)

    @cached_property
    def encoder(self) -> RecordEncoder:
        return RecordEncoder(
            self.names,
            record_bytes_max=self.settings.record_bytes,
            own_keys=self.app.contracts.own_keys,
            signing=self.settings.signing,
        )

    @cached_property
    def relay(self) -> Relay:
        return Relay(
            bus=self.parts.bus,
            store=self.parts.store,
            encoder=self.encoder,
            clock=self.store_clock,
            worker_id=self.worker_id,
            topics=self.app.topics(self.names),
        )

    @cached_property
    def router(self) -> Router:
        signing = self.settings.signing
        return Router(self.app.registry, self.app.contracts, self.names, signing=signing)

    @cached_property
    def deferred(self) -> DeferredRecords:
        return DeferredRecords(
            self.parts.catalogue,
            early_hold_s=self.settings.early_hold_s,
            early_events_us=self.app.registry.early_us(),
        )

    @cached_property
    def cache(self) -> SagaCache:
        parts, limit = self.parts, self.settings.live_sagas
        return SagaCache(
            parts.store,
            parts.catalogue,
            self.app.registry,
            sagas_max=limit,
            snapshots=parts.snapshots,
            snapshot_entries=self._snapshot_entries,
        )

    @cached_property
    def turns(self) -> Turns:
        return self._turns_type(
            router=self.router,
            cache=self.cache,
            store=self.parts.store,
            deferred=self.deferred,
            relay=self.relay,
            clock=self.store_clock,
            waiters=self.waiters,
            pauses=self.pauses,
            around=self.app.around_turns,
        )

    @cached_property
    def pauses(self) -> Pauses:
        return Pauses(self.parts.store, self.parts.catalogue)

    @cached_property
    def receiver(self) -> Receiver:
        return Receiver(
            bus=self.parts.bus,
            store=self.parts.store,
            clock=self.store_clock,
            group=self.app.group(self.settings),
            topics=self.router.topics,
            worker_id=self.worker_id,
        )

    @cached_property
    def orchestrator(self) -> Orchestrator:
        return Orchestrator(
            receiver=self.receiver,
            store=self.parts.store,
            turns=self.turns,
            deferred=self.deferred,
            relay=self.relay,
            changed_code=ChangedCode(self.parts.store, self.parts.catalogue, self.app.registry),
            clock=self.store_clock,
            pauses=self.pauses,
        )

    @cached_property
    def writer(self) -> EventWriter:
        return EventWriter(
            self.names,
            clock=self.parts.clock,
            source=self.settings.source,
            contracts=self.app.contracts,
            sagas=self.app.registry,
            new_id=self.parts.new_id,
            signing=self.settings.signing,
        )

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(self.parts.bus, self.writer)

    @cached_property
    def commands(self) -> Commands:
        return Commands(self.publisher, self.parts.catalogue, new_id=self.parts.new_id)

    @cached_property
    def dead_letters(self) -> DeadLetters:
        parts = self.parts
        return DeadLetters(parts.bus, names=self.names, clock=parts.clock, store=parts.store)

    @cached_property
    def subscriptions(self) -> list[Subscription]:
        contracts, names = self.app.contracts, self.names
        signing = self.settings.signing
        return [
            Subscription(effects, contracts, names, signing=signing) for effects in self.app.effects
        ]

    def effects_service(
        self,
        subscription: Subscription,
        store: EffectsStore,
        *,
        bus: Bus | None = None,
        limits: EffectsSettings | None = None,
    ) -> EffectsService:
        return EffectsService(
            subscription,
            bus=bus or self.parts.bus,
            store=store,
            clock=self.parts.clock,
            dead_letters=self.dead_letters,
            settings=limits,
        )
