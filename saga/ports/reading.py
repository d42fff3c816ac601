"""Metrics of whoever reads topics: the same for orchestrators and effect services."""

from __future__ import annotations

from saga.ports.bus import Consumer
from saga.ports.metrics import Measured, Sample, gauge

LAG = gauge(
    "saga_consumer_lag",
    "Records of a partition that this process is to fetch and has not, as far as it knows.",
    "group",
    "topic",
    "partition",
)
POSITION = gauge(
    "saga_consumer_position",
    "The next offset that this process fetches.",
    "group",
    "topic",
    "partition",
)
ASSIGNED = gauge("saga_partitions_assigned", "Partitions that this process reads.", "group")
STOPPED = gauge(
    "saga_partitions_stopped",
    "Partitions that this process is to read and cannot: somebody has to look.",
    "group",
)
IN_HAND = gauge("saga_records_in_hand", "Records that are fetched and not dealt with yet.", "group")


def reading(group: str, consumer: Consumer | None, *, in_hand: int) -> list[Measured]:
    """How far one member of *group* is."""
    progress = {} if consumer is None else consumer.progress
    stopped = {} if consumer is None else consumer.stopped
    at = {source: (group, source.topic, str(source.partition)) for source in sorted(progress)}
    return [
        LAG.of(*(Sample(labels, progress[source].lag) for source, labels in at.items())),
        POSITION.of(*(Sample(labels, progress[source].following) for source, labels in at.items())),
        ASSIGNED.of(Sample((group,), len(progress))),
        STOPPED.of(Sample((group,), len(stopped))),
        IN_HAND.of(Sample((group,), in_hand)),
    ]
