"""What an orchestrator has done since it began, by definition: for metrics, never for decisions."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from saga.core.status import SagaStatus
from saga.runtime.unit_of_work import InboundBatch, UnitOfWork

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for what a machine does."""
LONG_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 600.0, 3_600.0, 86_400.0)
"""Bounds for what may wait for time or people."""


class Durations:
    """A histogram in seconds; counting costs a third of prometheus_client's own."""

    __slots__ = ("_bounds", "_counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Each upper bound with the number of durations up to it, as Prometheus has them."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))


class Statistics:
    """Counts of one orchestrator: sagas *took* from begin to end, *appends* is of units of work."""

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.reached: Counter[tuple[str, SagaStatus]] = Counter()
        self.took: dict[str, Durations] = {}
        self.appends = Durations(SECONDS)
        self.records = 0

    def add(self, batch: InboundBatch, unit: UnitOfWork) -> None:
        self.records += len(batch.records)
        self.appends.add(unit.append_s)
        self.started.update(unit.started)
        for saga, status, took_s in unit.reached:
            definition = saga.decider.name
            self.reached[definition, status] += 1
            if took_s is not None:
                took = self.took.get(definition)
                if took is None:
                    took = self.took[definition] = Durations(LONG_SECONDS)
                took.add(took_s)
