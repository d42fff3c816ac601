"""Effect services inside a FastStream application of your own.

```python
from faststream.asgi import AsgiFastStream
from faststream.kafka import KafkaBroker
from saga.faststream import attach

broker = KafkaBroker("kafka:9092")
services = attach(broker, payments, effects_store="postgresql://payments@db/payments")
app = AsgiFastStream(broker, asgi_routes=services.probes)
```

The services start and stop with the broker, beside its other subscribers, and take over its
servers, encryption and credentials. Their batches pass its middlewares. They read, commit and
answer in their own way: the broker's acknowledgement policy, parser, decoder and producer play no
part in it.

With an AsyncAPI page give `AsyncAPIRoute("/asyncapi", try_it_out_path=None)`: FastStream's "try it
out" stops the consumers of a running broker. `/health/live` notices, but only then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from saga.adapters.clocks import SystemClock
from saga.app import SagaApp
from saga.contracts import TopicNames
from saga.effects import Effects, EffectsSettings
from saga.errors import MessageTooLarge, SettingsError, TopicMissing
from saga.ports.bus import Bus, Inbound, Record, TopicSpec
from saga.ports.clock import Clock
from saga.runtime import parking
from saga.runtime.record_encoder import HEADERS_BYTES_MAX
from saga.settings import Settings
from saga.stores import open_effects_store

if TYPE_CHECKING:
    from faststream.kafka import KafkaBroker

    from saga.adapters.faststream import EffectsSubscriber

OMITTED: Final = ("x-dlq-omitted", b"value")


@dataclass(frozen=True, slots=True)
class Attached:
    """Services on a broker.

    Attributes:
        subscribers: one for each service, in the order given.
        probes: the paths `/health/live` and `/health/ready`, for `asgi_routes`.
    """

    subscribers: tuple[EffectsSubscriber, ...]
    probes: list[tuple[str, Any]]


def attach(
    broker: KafkaBroker,
    *effects: Effects,
    limits: EffectsSettings | None = None,
    **settings: Any,
) -> Attached:
    """Have *effects* served by *broker* whenever it runs.

    Args:
        broker: where they belong from now on. It must not be started yet.
        effects: the services.
        limits: how much they do at once, and how patient they are.
        settings: as in the environment, for example `effects_store="sqlite:///payments.db"`,
            `env="prod"`, `namespace="shop"`. The bus is the broker's.

    A record that no service can read is put on its dlq topic, with the reason, and nowhere else.

    Raises:
        SettingsError: a setting is illegal.
        DefinitionError: the services do not go together.
    """
    try:
        from saga.adapters.faststream import Binding, Resources, connection_of, routes
        from saga.adapters.kafka import open_bus
    except ImportError as error:
        raise SettingsError(
            "SAGA_BUS", f"attach needs {error.name}: pip install saga[kafka]"
        ) from error
    read = Settings.read(**settings)
    names, clock = read.topic_names, SystemClock()

    def opened() -> Resources:
        """A bus and a store for each service: the broker starts and stops them one by one."""
        kafka = open_bus(
            read,
            record_bytes_max=read.record_bytes + HEADERS_BYTES_MAX,
            connection=connection_of(broker),
        )
        store = open_effects_store(read)

        async def close() -> None:
            await kafka.close()
            await store.close()

        return Resources(
            kafka=kafka, store=store, park=_Park(kafka, names, clock, read), close=close
        )

    binding = Binding(
        broker=broker,
        contracts=SagaApp(effects=effects).contracts,
        names=names,
        clock=clock,
        open=opened,
        settings=limits,
    )
    subscribers = tuple(binding.bind(one) for one in effects)
    return Attached(subscribers, routes(subscribers))


class _Park:
    """Puts records on their dlq topics, which are made if they are not there."""

    def __init__(self, bus: Bus, names: TopicNames, clock: Clock, settings: Settings) -> None:
        self._bus = bus
        self._names = names
        self._clock = clock
        self._settings = settings

    async def __call__(self, inbound: Inbound, reason: str, message: str, /) -> None:
        parked = parking.dead(inbound, reason, message, self._clock.now())
        copy = parking.dlq_record(parked, self._names)
        assert copy is not None, "what a service reads has a contract's name"
        try:
            await self._put(copy)
        except MessageTooLarge:
            # The headers say where the record is, as long as its topic keeps it.
            why = tuple(one for one in copy.headers if one[0].startswith("x-dlq-"))
            await self._put(Record(copy.topic, None, None, (*why, OMITTED)))

    async def _put(self, record: Record) -> None:
        try:
            await self._bus.publish([record])
        except TopicMissing:
            settings = self._settings
            spec = TopicSpec(record.topic, settings.partitions, settings.retention_s)
            await self._bus.create_topics([spec])
            await self._bus.publish([record])
