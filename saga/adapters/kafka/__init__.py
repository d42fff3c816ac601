"""The adapters for Apache Kafka. Importing this needs the extra `saga[kafka]`."""

from saga.adapters.kafka.admin import TopicFlaw, TopicState, flaws_of
from saga.adapters.kafka.bus import KafkaBus, open_bus
from saga.adapters.kafka.connection import KafkaConnection
from saga.adapters.kafka.consumer import ConsumerSettings, KafkaConsumer

__all__ = [
    "ConsumerSettings",
    "KafkaBus",
    "KafkaConnection",
    "KafkaConsumer",
    "TopicFlaw",
    "TopicState",
    "flaws_of",
    "open_bus",
]
