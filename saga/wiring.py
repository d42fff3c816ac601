"""The one place where objects are put together: settings and an application in, a service out."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from saga.adapters.clocks import SystemClock
from saga.adapters.ids import new_id, worker_id
from saga.adapters.sqlite import LocalBus, SqliteCatalogue, SqliteDatabase, SqliteEventStore
from saga.adapters.sqlite.statistics import SqliteCensus
from saga.app import SagaApp
from saga.effects import EffectsService
from saga.effects.health import EffectsHealth
from saga.effects.parking import Park
from saga.effects.role import EffectsRole
from saga.errors import MessageTooLarge, SettingsError, TopicMissing
from saga.ports import (
    Batch,
    Bus,
    Catalogue,
    Clock,
    EventStore,
    Inbound,
    TopicSpec,
)
from saga.ports.effects_store import EffectsStore
from saga.ports.health import Health
from saga.ports.store import StatisticsReader
from saga.runtime import parking
from saga.runtime.aside import Aside
from saga.runtime.health import OrchestratorHealth
from saga.runtime.orchestrator import Orchestrator
from saga.runtime.outcome_waiters import OutcomeWaiters
from saga.runtime.publisher import Publisher
from saga.runtime.record_encoder import HEADERS_BYTES_MAX, RecordEncoder
from saga.runtime.relay import Relay
from saga.runtime.router import Router
from saga.runtime.saga_cache import SagaCache
from saga.runtime.turns import Turns
from saga.service import Role, Service
from saga.settings import HTTP_OFF, Settings
from saga.stores import file_in, open_effects_store, open_postgres

if TYPE_CHECKING:
    from saga.adapters.faststream import BrokerRole
    from saga.adapters.kafka import KafkaBus

ROLES = ("orchestrator", "effects")
Close = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Parts:
    """What the settings' addresses were opened as, and how to close it, in reverse."""

    clock: Clock
    bus: Bus
    store: EventStore
    catalogue: Catalogue
    statistics: StatisticsReader
    closers: list[Close] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OpenedBus:
    """A bus alone, for publishing and for questions."""

    bus: Bus
    close: Close


@dataclass(frozen=True, slots=True)
class StoreParts:
    """A store alone, for questions."""

    store: EventStore
    catalogue: Catalogue
    statistics: StatisticsReader
    close: Close


def open_bus(settings: Settings) -> OpenedBus:
    """Open the bus that *settings* name, and nothing else; in the event loop that will use it.

    Raises:
        SettingsError, StoreUnavailable, StoreTooNew: as `open_parts`.
    """
    if settings.bus.startswith("kafka:"):
        kafka = open_kafka(settings)
        return OpenedBus(kafka, kafka.close)
    record_bytes_max = settings.record_bytes + HEADERS_BYTES_MAX
    database = SqliteDatabase(file_in(settings.bus, "SAGA_BUS"))
    local = LocalBus(database, clock=SystemClock(), record_bytes_max=record_bytes_max)

    async def close() -> None:
        await local.close()
        await database.close()

    return OpenedBus(local, close)


def open_store(settings: Settings, *, make: bool = False, is_to_write: bool = True) -> StoreParts:
    """Open the store that *settings* name, and nothing else.

    Args:
        make: whether to make the tables of a server's database that has none; files are made.
        is_to_write: otherwise a file will do that can only be read.

    Raises:
        SettingsError, StoreUnavailable, StoreTooNew: as `open_parts`.
    """
    if settings.store.startswith("postgresql:"):
        server = open_postgres(settings.store, "SAGA_STORE", settings.store_password)
        from saga.adapters.postgres import PostgresCatalogue, PostgresEventStore
        from saga.adapters.postgres.statistics import PostgresCensus

        store = PostgresEventStore(server, make=make)
        return StoreParts(store, PostgresCatalogue(server), PostgresCensus(server), server.close)
    database = SqliteDatabase(file_in(settings.store, "SAGA_STORE"), is_to_write=is_to_write)
    return StoreParts(
        SqliteEventStore(database),
        SqliteCatalogue(database),
        SqliteCensus(database),
        database.close,
    )


def open_parts(settings: Settings) -> Parts:
    """Open the bus and the store that *settings* name.

    Raises:
        SettingsError: an address needs something that is not there.
        StoreUnavailable: a file cannot be opened.
        StoreTooNew: a newer version wrote the store.
    """
    clock = SystemClock()
    record_bytes_max = settings.record_bytes + HEADERS_BYTES_MAX
    if settings.bus.startswith("kafka:"):
        kafka = open_kafka(settings)
        opened = open_store(settings, make=True)
        closers: list[Close] = [kafka.close, opened.close]
        return Parts(clock, kafka, opened.store, opened.catalogue, opened.statistics, closers)
    bus_file = file_in(settings.bus, "SAGA_BUS")
    if settings.store.startswith("postgresql:"):
        opened = open_store(settings, make=True)
        bus_database = SqliteDatabase(bus_file)
        bus = LocalBus(bus_database, clock=clock, record_bytes_max=record_bytes_max)
        closers = [bus.close, opened.close, bus_database.close]
        return Parts(clock, bus, opened.store, opened.catalogue, opened.statistics, closers)
    store_file = file_in(settings.store, "SAGA_STORE")
    store_database = SqliteDatabase(store_file)
    shared = Path(bus_file).resolve() == Path(store_file).resolve()
    bus_database = store_database if shared else SqliteDatabase(bus_file)
    bus = LocalBus(bus_database, clock=clock, record_bytes_max=record_bytes_max)
    store = SqliteEventStore(store_database, publish_through=bus if shared else None)
    closers = [bus.close, store_database.close]
    if not shared:
        closers.append(bus_database.close)
    catalogue, statistics = SqliteCatalogue(store_database), SqliteCensus(store_database)
    return Parts(clock, bus, store, catalogue, statistics, closers)


def topic_specs(app: SagaApp, settings: Settings) -> list[TopicSpec]:
    """Every topic of *app*, as the settings have it made."""
    return [
        TopicSpec(topic, settings.partitions, settings.retention_s)
        for topic in app.topics(settings.topic_names)
    ]


def build_service(
    app: SagaApp,
    settings: Settings,
    *,
    roles: Collection[str] = ROLES,
    has_probes: bool = False,
) -> Service:
    """A service of *app* with the given roles; nothing runs yet. With *has_probes* it says over
    HTTP how it is, where the settings have it so.

    Raises:
        SettingsError, StoreUnavailable, StoreTooNew: as `open_parts`.
    """
    parts = open_parts(settings)
    names = settings.topic_names
    watchers = OutcomeWaiters()
    running: list[Role] = []
    health: list[Health] = []
    if "orchestrator" in roles:
        orchestrator = _orchestrator(app, settings, parts, watchers)
        running.append(orchestrator)
        health.append(
            OrchestratorHealth(
                orchestrator,
                parts.store,
                parts.clock,
                statistics=parts.statistics,
                group=names.topic(settings.group),
            )
        )
    if "effects" in roles:
        running.extend(_effects(app, settings, parts, health))
    if has_probes and (settings.is_http_asked_for or settings.bus.startswith("kafka:")):
        running[:0] = _probes(settings, health)
    publisher = Publisher(
        parts.bus,
        contracts=app.contracts,
        sagas=app.registry,
        names=names,
        clock=parts.clock,
        new_id=new_id,
        source=f"/{settings.env}/{settings.namespace}/publisher",
    )
    return Service(
        roles=running,
        bus=parts.bus,
        store=parts.store,
        catalogue=parts.catalogue,
        publisher=publisher,
        contracts=app.contracts,
        watchers=watchers,
        health=health,
        topics=topic_specs(app, settings),
        closers=parts.closers,
    )


def _orchestrator(
    app: SagaApp, settings: Settings, parts: Parts, watchers: OutcomeWaiters
) -> Orchestrator:
    names = settings.topic_names
    worker = worker_id()
    outgoing = RecordEncoder(names, record_bytes_max=settings.record_bytes)
    relay = Relay(
        bus=parts.bus, store=parts.store, outgoing=outgoing, clock=parts.clock, worker_id=worker
    )
    router = Router(app.registry, app.contracts, names)
    aside = Aside(parts.catalogue, early_hold_s=settings.early_hold_s)
    turns = Turns(
        router=router,
        live=SagaCache(parts.store, app.registry, sagas_max=settings.live_sagas),
        store=parts.store,
        aside=aside,
        outgoing=outgoing,
        relay=relay,
        names=names,
        clock=parts.clock,
        watchers=watchers,
    )
    return Orchestrator(
        bus=parts.bus,
        store=parts.store,
        catalogue=parts.catalogue,
        router=router,
        turns=turns,
        aside=aside,
        relay=relay,
        clock=parts.clock,
        group=names.topic(settings.group),
        worker_id=worker,
    )


def _probes(settings: Settings, health: Sequence[Health]) -> list[Role]:
    """What answers probes. By default several processes of one machine would all want the same
    port: only the first one gets it, unless it was asked for.
    """
    if settings.http == HTTP_OFF:
        return []
    try:
        from saga.adapters.http import HttpRole, HttpServer, all_pages, application
    except ImportError as error:
        raise SettingsError(
            "SAGA_HTTP", f"needs more than is installed ({error.name}): pip install saga[metrics]"
        ) from error
    server = HttpServer(
        application(all_pages(health)), settings.http, must_listen=settings.is_http_asked_for
    )
    return [HttpRole(server)]


def _effects(
    app: SagaApp, settings: Settings, parts: Parts, health: list[Health]
) -> Sequence[Role]:
    if not app.effects:
        return []
    store = open_effects_store(settings)
    parts.closers.insert(0, store.close)
    names = settings.topic_names

    async def park(inbound: Inbound, reason: str, message: str) -> None:
        parked = parking.dead(inbound, reason, message, parts.clock.now())
        copy = parking.dlq_record(parked, names)
        if copy is not None:
            with contextlib.suppress(MessageTooLarge, TopicMissing):  # the store has it whole
                await parts.bus.publish([copy])
        await parts.store.append(Batch(unhandled=[parked]), at=parts.clock.now())

    if settings.bus.startswith("kafka:"):
        role = _broker_role(app, settings, parts, store, park)
        health.append(role.health)
        return [role]
    services = [
        EffectsService(
            effects,
            bus=parts.bus,
            store=store,
            contracts=app.contracts,
            names=names,
            clock=parts.clock,
            park=park,
        )
        for effects in app.effects
    ]
    named = zip(app.effects, services, strict=True)
    health += [EffectsHealth(effects.name, service) for effects, service in named]
    return [EffectsRole(service) for service in services]


def _broker_role(
    app: SagaApp,
    settings: Settings,
    parts: Parts,
    store: EffectsStore,
    park: Park,
) -> BrokerRole:
    """All effect services on one broker of FastStream's."""
    from saga.adapters.faststream import (
        Binding,
        BrokerRole,
        Resources,
        own_broker,
    )
    from saga.adapters.kafka import KafkaBus

    kafka = parts.bus
    assert isinstance(kafka, KafkaBus), kafka

    async def close() -> None:
        """Bus and store are the process's."""

    broker = own_broker(settings.servers)
    binding = Binding(
        broker=broker,
        contracts=app.contracts,
        names=settings.topic_names,
        clock=parts.clock,
        open=lambda: Resources(kafka=kafka, store=store, park=park, close=close),
    )
    subscribers = [binding.bind(effects) for effects in app.effects]
    return BrokerRole(broker, subscribers)


def open_kafka(settings: Settings) -> KafkaBus:
    """The cluster that *settings* name, to be asked and to make topics in.

    Raises:
        SettingsError: they name none, or something that cannot be loaded.
    """
    if not settings.bus.startswith("kafka:"):
        raise SettingsError("SAGA_BUS", "names no Kafka; expected kafka://HOST:PORT,…")
    try:
        from saga.adapters.kafka import open_bus
    except ImportError as error:
        raise SettingsError(
            "SAGA_BUS",
            f"kafka:// needs more than is installed ({error.name}): pip install saga[kafka]",
        ) from error
    return open_bus(settings, record_bytes_max=settings.record_bytes + HEADERS_BYTES_MAX)
