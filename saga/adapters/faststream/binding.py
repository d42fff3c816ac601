"""Puts an effect service on a broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from faststream.kafka import KafkaBroker

from saga.adapters.faststream.bus import BrokerBus
from saga.adapters.faststream.subscriber import EffectsSubscriber, Workplace
from saga.adapters.kafka import KafkaBus
from saga.contracts import ContractRegistry, TopicNames
from saga.effects import Effects, EffectsService, EffectsSettings
from saga.effects.parking import Park
from saga.effects.request import RequestReader, group_of
from saga.ports.clock import Clock
from saga.ports.effects_store import EffectsStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a service needs while its broker runs. *close* lets go of what was opened for it
    alone.
    """

    kafka: KafkaBus
    store: EffectsStore
    park: Park
    close: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """How services are put on *broker*. *open* is called each time it starts."""

    broker: KafkaBroker
    contracts: ContractRegistry
    names: TopicNames
    clock: Clock
    open: Callable[[], Resources]
    settings: EffectsSettings | None = None

    def bind(self, effects: Effects) -> EffectsSubscriber:
        """Have *effects* start and stop with the broker.

        Raises:
            DefinitionError: a handler takes a version that messages are never read as.
        """

        def make(subscriber: EffectsSubscriber) -> Workplace:
            opened = self.open()
            service = EffectsService(
                effects,
                bus=BrokerBus(opened.kafka, subscriber),
                store=opened.store,
                contracts=self.contracts,
                names=self.names,
                clock=self.clock,
                park=opened.park,
                settings=self.settings,
            )
            return Workplace(service, opened.store, opened.close)

        return EffectsSubscriber(
            self.broker,
            name=effects.name,
            group=group_of(effects.name, self.names),
            topics=sorted(RequestReader(effects, self.contracts, self.names).routes),
            make=make,
        )
