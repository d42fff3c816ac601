"""The adapters for Apache Kafka. Importing this needs the extra `saga[kafka]`."""

from saga.adapters.kafka.bus import KafkaBus
from saga.adapters.kafka.connection import KafkaConnection, KafkaSecurity
from saga.adapters.kafka.consumer import KafkaConsumer
from saga.adapters.kafka.opening import open_bus
from saga.adapters.kafka.settings import ConsumerSettings
from saga.adapters.kafka.topics import TopicDefaults, TopicFlaw, TopicState, flaws_of

__all__ = [
    "ConsumerSettings",
    "KafkaBus",
    "KafkaConnection",
    "KafkaConsumer",
    "KafkaSecurity",
    "TopicDefaults",
    "TopicFlaw",
    "TopicState",
    "flaws_of",
    "open_bus",
]
