"""Effect services inside a FastStream application of your own.

```python
broker = KafkaBroker("kafka:9092")
services = attach(broker, payments, effects_store="postgresql://payments@db/payments")
app = AsgiFastStream(broker, asgi_routes=services.probes)
```

The services use the broker's servers, credentials and middlewares, but not its acknowledgement
policy, parser, decoder or producer. An `AsyncAPIRoute` needs `try_it_out_path=None`: FastStream's
"try it out" stops the consumers of a running broker.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from saga.adapters.clocks import SystemClock
from saga.adapters.opening import open_effects_store
from saga.application import Application
from saga.core.values import value
from saga.effects import Effects, EffectsService, EffectsSettings, Subscription
from saga.errors import SettingsError
from saga.ports.bus import TopicSpec
from saga.runtime.unhandled import DeadLetters
from saga.settings import Settings

if TYPE_CHECKING:
    from faststream.kafka import KafkaBroker

    from saga.adapters.faststream import EffectsSubscriber, RunningService


@value
class Attached:
    """Services on a broker; *probes* are `/health/live` and `/health/ready`, for `asgi_routes`."""

    subscribers: tuple[EffectsSubscriber, ...]
    probes: list[tuple[str, Any]]


def attach(
    broker: KafkaBroker,
    *effects: Effects,
    limits: EffectsSettings | None = None,
    **settings: Any,
) -> Attached:
    """Have *effects* served by *broker*, which is not started yet, whenever it runs.

    A record that no service can read is put on its dlq topic, with the reason, and nowhere else.

    Args:
        settings: as in the environment, for example `namespace="shop"`; the bus is the broker's.

    Raises:
        SettingsError: a setting is illegal.
        DefinitionError: the services do not go together.
    """
    try:
        from saga.adapters.faststream import EffectsSubscriber, routes
    except ImportError as error:
        raise SettingsError(
            "SAGA_BUS", f"attach needs {error.name}: pip install saga[kafka]"
        ) from error
    read = Settings.read(**settings)
    contracts = Application(effects=effects).contracts
    names, signing = read.topic_names, read.signing
    subscriptions = [Subscription(each, contracts, names, signing=signing) for each in effects]
    make = partial(_running_service, broker=broker, limits=limits, settings=read)
    subscribers = tuple(EffectsSubscriber(broker, each, make) for each in subscriptions)
    return Attached(subscribers, routes(subscribers))


def _running_service(
    subscriber: EffectsSubscriber,
    *,
    broker: KafkaBroker,
    limits: EffectsSettings | None,
    settings: Settings,
) -> RunningService:
    """A bus and a store for each service: the broker starts and stops them one by one."""
    from saga.adapters.faststream import BrokerBus, RunningService, connection_of
    from saga.adapters.kafka import open_bus

    clock = SystemClock()
    kafka = open_bus(settings, connection=connection_of(broker))
    store = open_effects_store(settings)
    spec = TopicSpec("", settings.partitions, settings.retention_s)

    async def close() -> None:
        async with AsyncExitStack() as closers:
            closers.push_async_callback(store.close)
            closers.push_async_callback(kafka.close)

    service = EffectsService(
        subscriber.subscription,
        bus=BrokerBus(kafka, subscriber),
        store=store,
        clock=clock,
        dead_letters=DeadLetters(kafka, names=settings.topic_names, clock=clock, spec=spec),
        settings=limits,
    )
    return RunningService(service, store, close)
