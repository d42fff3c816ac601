"""Effect services on a FastStream broker, behind `saga.faststream`; needs `saga[kafka]`."""

from saga.adapters.faststream.broker import SubscriberHealth, connection_of, own_broker, routes
from saga.adapters.faststream.subscriber import BrokerBus, EffectsSubscriber, RunningService

__all__ = [
    "BrokerBus",
    "EffectsSubscriber",
    "RunningService",
    "SubscriberHealth",
    "connection_of",
    "own_broker",
    "routes",
]
