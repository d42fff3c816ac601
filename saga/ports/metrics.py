"""Metrics: numbers that parts of a process tell to whoever watches it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from saga.core.values import value

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for what a machine does."""
LONG_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 600.0, 3_600.0, 86_400.0)
"""Bounds for what may wait for time or people."""


class MetricKind(StrEnum):
    """How numbers of a metric are to be read."""

    COUNTER = "counter"
    """It only grows, until the process ends."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Durations:
    """How often something took how long, in seconds."""

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Of each bound how many took no longer and longer than the one before; then the rest."""
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Something took so long."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_s += seconds


class Sample(NamedTuple):
    """A number, or a histogram's durations, and the values of its metric's labels."""

    labels: tuple[str, ...]
    value: float | Durations


@value
class Metric:
    """A metric: *name* as Prometheus has it, *meaning* in words, and the names of its labels."""

    name: str
    kind: MetricKind
    meaning: str
    labels: tuple[str, ...] = ()

    def of(self, *samples: Sample) -> Measured:
        """The metric with its samples."""
        return Measured(self, samples)


@value
class Measured:
    """A metric and all its samples; without any, it is only named."""

    metric: Metric
    samples: Sequence[Sample]


def counter(name: str, meaning: str, *labels: str) -> Metric:
    """A metric that only grows."""
    return Metric(name, MetricKind.COUNTER, meaning, labels)


def gauge(name: str, meaning: str, *labels: str) -> Metric:
    """A metric that goes up and down."""
    return Metric(name, MetricKind.GAUGE, meaning, labels)


def histogram(name: str, meaning: str, *labels: str) -> Metric:
    """A metric of durations."""
    return Metric(name, MetricKind.HISTOGRAM, meaning, labels)
