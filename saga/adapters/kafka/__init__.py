"""The adapters for Apache Kafka. Importing this needs the extra `saga[kafka]`."""

from saga.adapters.kafka.admin import TopicFlaw, TopicState, flaws_of
from saga.adapters.kafka.bus import KafkaBus, open_bus
from saga.adapters.kafka.connection import KafkaConnection, KafkaSecurity
from saga.adapters.kafka.consumer import ConsumerSettings, KafkaConsumer

__all__ = [
    "ConsumerSettings",
    "KafkaBus",
    "KafkaConnection",
    "KafkaConsumer",
    "KafkaSecurity",
    "TopicFlaw",
    "TopicState",
    "flaws_of",
    "open_bus",
]
