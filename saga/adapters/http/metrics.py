"""The page `/metrics`, as Prometheus reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from saga.adapters.http.probes import OK, Answer, Page, why_not_ready
from saga.ports.health import Health
from saga.ports.metrics import Durations, Measured, MetricKind, Sample, gauge

READY: Final = gauge("saga_ready", "Whether the process does all of its work now.")
INFO: Final = gauge("saga_info", "Which saga it is.", "version")


def metrics_page(parts: Sequence[Health]) -> Page:
    """The metrics of a process of these *parts*, and of the process itself."""
    about = INFO.of(Sample((_version(),), 1))

    async def page() -> Answer:
        # What is there is told, also where a part is in trouble: that is when it is looked at.
        problems = await why_not_ready(parts)
        found = await asyncio.gather(*(part.metrics() for part in parts))
        ready = READY.of(Sample((), float(not problems)))
        told: list[Measured] = [about, ready, *(one for each in found for one in each)]
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_Collector(told))
        return Answer(OK, generate_latest(registry), CONTENT_TYPE_LATEST)

    return page


def _version() -> str:
    try:
        return version("saga")
    except PackageNotFoundError:
        return "unknown"  # it runs from a folder, as in the image


class _Collector:
    """Hands over what was measured."""

    def __init__(self, told: Sequence[Measured]) -> None:
        self._families: dict[str, Any] = {}
        for measured in told:
            family = self._family(measured)
            for sample in measured.samples:
                _add(family, sample)

    def collect(self) -> Iterator[Metric]:
        """Yields each metric once, whoever has told of it."""
        yield from self._families.values()

    def _family(self, measured: Measured) -> Any:
        metric = measured.metric
        if metric.name not in self._families:
            kinds = {
                MetricKind.COUNTER: CounterMetricFamily,
                MetricKind.GAUGE: GaugeMetricFamily,
                MetricKind.HISTOGRAM: HistogramMetricFamily,
            }
            self._families[metric.name] = kinds[metric.kind](
                metric.name, metric.meaning, labels=metric.labels
            )
        return self._families[metric.name]


def _add(family: Any, sample: Sample) -> None:
    value = sample.value
    if isinstance(value, Durations):
        family.add_metric(sample.labels, buckets=list(_buckets(value)), sum_value=value.sum_s)
    else:
        family.add_metric(sample.labels, value)


def _buckets(durations: Durations) -> Iterable[tuple[str, float]]:
    """Yields each bound with how many took no longer."""
    bounds = [*(f"{bound:g}" for bound in durations.bounds), "+Inf"]
    return zip(bounds, accumulate(durations.counts), strict=True)
