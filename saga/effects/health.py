"""The health and the metrics of effect services."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from typing_extensions import override

from saga.effects.handling import COUNTED, DEAD_LETTERS, REPEATED
from saga.effects.service import EffectsService
from saga.ports.bus import Consumer
from saga.ports.health import Health, consumer_metrics

OUTCOMES: Final = {
    **{outcome.value: count for outcome, count in COUNTED.items()},
    "repeated": REPEATED,
    "dead_letter": DEAD_LETTERS,
}
"""The outcomes of the metric, each with the count that it shows."""


def effects_metrics(
    name: str, group: str, counts: Counter[str], consumer: Consumer | None, *, in_hand: int
) -> list[Metric]:
    """The counts of the service *name*, and how far its consumer is."""
    done = CounterMetricFamily(
        "saga_effects_total",
        "Intents and facts that were handled, by how; repeated: answered from the inbox.",
        labels=("service", "outcome"),
    )
    for outcome, count in OUTCOMES.items():
        done.add_metric((name, outcome), counts[count])
    return [done, *consumer_metrics(group, consumer, in_hand=in_hand)]


class EffectsHealth(Health):
    """The health of a service on a bus in a file; its end is the end of the process."""

    def __init__(self, service: EffectsService) -> None:
        self._service = service
        self._name = service.subscription.name

    @override
    def why_dead(self) -> list[str]:
        return []  # a service that has ended ends the process

    @override
    async def why_not_ready(self) -> list[str]:
        return [] if self._service.consumer else [f"{self._name}: not started yet, or stopped"]

    @override
    def facts(self) -> dict[str, dict[str, Any]]:
        service = self._service
        return {self._name: {"group": service.subscription.group, "in_hand": service.in_hand}}

    @override
    async def metrics(self) -> list[Metric]:
        service, group = self._service, self._service.subscription.group
        return effects_metrics(
            self._name, group, service.counts, service.consumer, in_hand=service.in_hand
        )
