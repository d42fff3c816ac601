"""Settings and an application in, a service out: which roles run in this process, and on what."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial

from saga.adapters.opening import Opened, open_bus_and_store, open_effects_store
from saga.application import ROLES, Application
from saga.assembly import Assembly, Parts
from saga.audit.checking import ReplayCheck
from saga.core.identity import SagaId
from saga.effects.health import EffectsHealth
from saga.effects.service import EffectsRole
from saga.lifecycle import Resource, Role
from saga.ports.effects_store import EffectsStore
from saga.ports.health import Health
from saga.runtime.health import OrchestratorHealth
from saga.runtime.idle import Waits
from saga.service import Service
from saga.settings import HTTP_OFF, Settings
from saga.starting import Start


def build_service(
    app: Application,
    settings: Settings,
    *,
    roles: Collection[str] = ROLES,
    has_probes: bool = False,
    check_replay: bool = False,
) -> Service:
    """A service of *app* that does not run yet; with *has_probes* it may serve health over HTTP.

    With *check_replay* it replays each saga that ends in it.

    Raises:
        SettingsError, StoreUnavailable, StoreTooNew: as `open_bus_and_store`. A server that is away
            is waited for when the service starts.
    """
    with ExitStack() as opening:
        opened = open_bus_and_store(settings, may_be_away=True)
        opening.callback(opened.abandon)
        service = _service(
            Assembly(app, settings, Parts.of(opened)),
            opened,
            roles=roles,
            has_probes=has_probes,
            check_replay=check_replay,
        )
        opening.pop_all()
    return service


def _service(
    assembly: Assembly,
    opened: Opened,
    *,
    roles: Collection[str],
    has_probes: bool,
    check_replay: bool,
) -> Service:
    """The order of its parts is that of their start, and of closing in reverse."""
    app, settings = assembly.app, assembly.settings
    topics = partial(opened.bus.create_topics, app.topic_specs(settings))
    start = Start(assembly.parts.clock)
    store = partial(start.wait_for, "the store", opened.prepare)
    parts: list[Resource | Role] = [
        Resource("store", start=store, close=opened.close_store),
        Resource("bus", start=partial(start.wait_for, "the bus", topics), close=opened.close_bus),
    ]
    health: list[Health] = [start]
    waits: Waits | None = None
    if check_replay and "orchestrator" in roles:
        check = ReplayCheck(opened.store, opened.catalogue, app.registry)
        assembly.turns.on_end = check.add
        parts.append(check)  # before the orchestrator, so it drains after it
    if "orchestrator" in roles:
        parts.append(assembly.orchestrator)
        health.append(_orchestrator_health(assembly, opened))
        waits = Waits(opened.catalogue, assembly.parts.clock, assembly.receiver.why_stopped)
    if "effects" in roles and app.effects:
        effects_store = open_effects_store(settings, beside=opened)
        waiting = partial(start.wait_for, "the effects store", effects_store.open)
        parts.append(Resource("effects store", start=waiting, close=effects_store.close))
        parts += _effects(assembly, effects_store, health)
    if has_probes and (settings.is_http_asked_for or settings.bus.startswith("kafka:")):
        parts[:0] = _probes(settings, health)  # they answer while the others start
    return Service(
        parts=parts,
        store=opened.store,
        catalogue=opened.catalogue,
        commands=assembly.commands,
        waiters=assembly.waiters,
        sagas=assembly.app.registry,
        is_running=assembly.turns.is_running if "orchestrator" in roles else _nothing_runs,
        health=health,
        waits=waits,
    )


def _nothing_runs(_: SagaId) -> bool:
    return False


def _orchestrator_health(assembly: Assembly, opened: Opened) -> OrchestratorHealth:
    group = assembly.app.group(assembly.settings)
    return OrchestratorHealth(
        assembly.orchestrator,
        opened.store,
        assembly.store_clock,
        statistics=opened.statistics,
        group=group,
    )


def _probes(settings: Settings, health: Sequence[Health]) -> list[Role]:
    """HTTP, where it is not off; by default only the first process on a machine gets the port."""
    if settings.http == HTTP_OFF:
        return []
    # Imported where it is asked for: starlette and uvicorn take a tenth of a second.
    from saga.adapters.http import HttpServer, application, pages

    app = application(pages(health))
    return [HttpServer(app, settings.http, must_listen=settings.is_http_asked_for)]


def _effects(assembly: Assembly, store: EffectsStore, health: list[Health]) -> Sequence[Role]:
    if assembly.settings.bus.startswith("kafka:"):
        return [_broker_role(assembly, store, health)]
    services = [assembly.effects_service(each, store) for each in assembly.subscriptions]
    health += map(EffectsHealth, services)
    return [EffectsRole([each], start=each.start, stop=each.stop) for each in services]


def _broker_role(assembly: Assembly, store: EffectsStore, health: list[Health]) -> Role:
    """All effect services on one broker of FastStream's."""
    from saga.adapters.faststream import (
        BrokerBus,
        EffectsSubscriber,
        RunningService,
        SubscriberHealth,
        own_broker,
    )
    from saga.adapters.kafka import KafkaBus

    kafka = assembly.parts.bus
    assert isinstance(kafka, KafkaBus), kafka

    async def close() -> None:
        """Bus and store are the process's."""

    def make(subscriber: EffectsSubscriber) -> RunningService:
        bus = BrokerBus(kafka, subscriber)
        service = assembly.effects_service(subscriber.subscription, store, bus=bus)
        return RunningService(service, store, close)

    broker = own_broker(assembly.settings.servers)
    subscribers = [EffectsSubscriber(broker, each, make) for each in assembly.subscriptions]
    health += map(SubscriberHealth, subscribers)
    return EffectsRole(subscribers, start=broker.start, stop=broker.stop)
