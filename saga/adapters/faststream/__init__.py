"""Effect services on a FastStream broker. Importing this needs the extra `saga[kafka]`.

The part for users is in `saga.faststream`.
"""

from saga.adapters.faststream.broker import BrokerHealth, connection_of, own_broker, routes
from saga.adapters.faststream.subscriber import (
    BrokerBus,
    EffectsSubscriber,
    RunningService,
)

__all__ = [
    "BrokerBus",
    "BrokerHealth",
    "EffectsSubscriber",
    "RunningService",
    "connection_of",
    "own_broker",
    "routes",
]
