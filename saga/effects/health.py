"""The health and the metrics of effect services."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from saga.core.events import ReplyOutcome
from saga.effects.service import EffectsService
from saga.ports.bus import Consumer
from saga.ports.metrics import Measured, Sample, counter
from saga.ports.reading import reading

COUNTED: Final = (*(outcome.value for outcome in ReplyOutcome), "repeated", "parked")
EFFECTS: Final = counter(
    "saga_effects_total",
    "Intents and facts that were dealt with, by how; repeated: answered from the inbox.",
    "service",
    "outcome",
)


def effects_metrics(
    name: str, group: str, counts: Counter[str], consumer: Consumer | None, *, in_hand: int
) -> list[Measured]:
    """What the service *name* has done, and how far it is."""
    done = (Sample((name, one), counts[f"effects_{one}"]) for one in COUNTED)
    return [EFFECTS.of(*done), *reading(group, consumer, in_hand=in_hand)]


class EffectsHealth:
    """The health of a service that a process runs on a bus in a file: what ends it ends the
    process.
    """

    def __init__(self, name: str, service: EffectsService) -> None:
        self._name = name
        self._service = service

    def why_dead(self) -> list[str]:
        """None: nothing but the process could restart it."""
        return []

    async def why_not_ready(self) -> list[str]:
        """The reasons why it does not do all of its work now."""
        return [] if self._service.consumer else [f"{self._name}: not started yet, or stopped"]

    def facts(self) -> dict[str, dict[str, Any]]:
        """What an operator wants to know."""
        return {self._name: {"group": self._service.group, "in_hand": self._service.in_hand}}

    async def metrics(self) -> list[Measured]:
        """What a machine wants to know."""
        service = self._service
        return effects_metrics(
            self._name, service.group, service.counts, service.consumer, in_hand=service.in_hand
        )
