"""Health and metrics: what the parts of a process say about themselves, made when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from saga.ports.bus import Consumer


class Health(Protocol):
    def why_dead(self) -> list[str]:
        """The reasons to restart the process; none while it is alive, or only just starting."""

    async def why_not_ready(self) -> list[str]:
        """The reasons why it does not do all of its work now. Answers within seconds."""

    def facts(self) -> Mapping[str, Any]:
        """What an operator wants to know, by the name of a service."""

    async def metrics(self) -> Sequence[Metric]:
        """What Prometheus wants to know. Samples that cannot be had now are left out."""


def consumer_metrics(group: str, consumer: Consumer | None, *, in_hand: int) -> list[Metric]:
    """How far one member of *group* is: the same for orchestrators and effect services."""
    by_partition = ("group", "topic", "partition")
    lag = GaugeMetricFamily(
        "saga_consumer_lag",
        "Records of a partition that this process is to fetch and has not, as far as it knows.",
        labels=by_partition,
    )
    position = GaugeMetricFamily(
        "saga_consumer_position", "The next offset that this process fetches.", labels=by_partition
    )
    progress = {} if consumer is None else consumer.progress
    for source in sorted(progress):
        labels = (group, source.topic, str(source.partition))
        lag.add_metric(labels, progress[source].lag)
        position.add_metric(labels, progress[source].following)
    stopped = 0 if consumer is None else len(consumer.stopped)
    counts = {
        "saga_partitions_assigned": ("Partitions that this process reads.", len(progress)),
        "saga_partitions_stopped": (
            "Partitions that this process is to read and cannot: an operator has to look.",
            stopped,
        ),
        "saga_records_in_hand": ("Records that are fetched and not done with yet.", in_hand),
    }
    families: list[Metric] = [lag, position]
    for name, (meaning, count) in counts.items():
        family = GaugeMetricFamily(name, meaning, labels=("group",))
        family.add_metric((group,), count)
        families.append(family)
    return families
