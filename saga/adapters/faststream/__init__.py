"""Effect services on a FastStream broker. Importing this needs the extra `saga[kafka]`.

What a user needs of it is in `saga.faststream`.
"""

from saga.adapters.faststream.binding import Binding, Resources
from saga.adapters.faststream.bus import BrokerBus
from saga.adapters.faststream.connection import connection_of, own_broker
from saga.adapters.faststream.health import Health
from saga.adapters.faststream.probes import routes
from saga.adapters.faststream.role import BrokerRole
from saga.adapters.faststream.subscriber import EffectsSubscriber, Workplace

__all__ = [
    "Binding",
    "BrokerBus",
    "BrokerRole",
    "EffectsSubscriber",
    "Health",
    "Resources",
    "Workplace",
    "connection_of",
    "own_broker",
    "routes",
]
