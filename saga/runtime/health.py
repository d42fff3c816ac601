"""Health and metrics of an orchestrator; its store is counted rarely, however often one asks."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from typing_extensions import override

from saga.core.durations import SECOND_US
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.errors import StoreUnavailable
from saga.ports import EventStore
from saga.ports.health import Health, consumer_metrics
from saga.ports.store import StatisticsReader, StoreStatistics
from saga.runtime.orchestrator import Orchestrator
from saga.runtime.store_clock import StoreClock

ANSWER_S: Final = 2.0
"""How long the store may take to answer a probe."""
FETCH_AGE_S: Final = 15.0
"""How long ago the bus may have answered last, where there is room for more records."""
LOOK_AGE_S: Final = 120.0
"""How long ago it may have been asked last, be it without an answer."""
NAME: Final = "orchestrator"
STATISTICS_AGE_S: Final = 10.0
STATISTICS_WAIT_S: Final = 3.0
log = logging.getLogger(__name__)

COUNTED: Final = {
    "turns": ("saga_turns_total", "Turns that were recorded."),
    "duplicate": ("saga_duplicates_total", "Records that had been handled before."),
    "dead": ("saga_dlq_total", "Records that became dead letters."),
    "skipped": ("saga_skipped_total", "Records that concern no saga here."),
    "deferred": ("saga_deferred_total", "Records deferred behind their saga."),
    "failed_turns": ("saga_failed_turns_total", "Turns in which a saga's own code raised."),
    "conflicts": ("saga_conflicts_total", "Batches in which another worker was first."),
}
"""Counts of an orchestrator that are shown as they are."""
STORED: Final = (
    ("saga_outbox_pending", "Stored batches that are not published yet."),
    ("saga_outbox_oldest_seconds", "How long the oldest of them has waited to be published."),
    ("saga_timers_due", "Timers that are due and have not fired."),
    ("saga_timers_due_lag_seconds", "How long the earliest of them has been due."),
)


class OrchestratorHealth(Health):
    """The health of one process's orchestrator, and the metrics of the store behind it."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        store: EventStore,
        clock: StoreClock,
        *,
        statistics: StatisticsReader,
        group: str,
    ) -> None:
        self._orchestrator = orchestrator
        self._receiver = orchestrator.receiver
        self._store = store
        self._clock = clock
        self._reader = statistics
        self._group = group
        self._counting: asyncio.Task[None] | None = None
        self._counted_at_s = -STATISTICS_AGE_S
        self._counted: tuple[StoreStatistics, Instant] | None = None

    @override
    def why_dead(self) -> list[str]:
        age_s = self._clock.monotonic_s() - self._receiver.asked_at_s
        if age_s <= LOOK_AGE_S:
            return []
        return [f"{NAME}: has not asked for records for {age_s:.0f} s"]

    @override
    async def why_not_ready(self) -> list[str]:
        reasons = [*self.why_dead(), *(f"{NAME}: {why}" for why in self._orchestrator.problems())]
        age_s = self._clock.monotonic_s() - self._receiver.answered_at_s
        if age_s > FETCH_AGE_S:
            reasons.append(f"{NAME}: the bus did not answer for {age_s:.0f} s")
        return reasons or await self._why_no_store()

    @override
    def facts(self) -> dict[str, dict[str, object]]:
        stopped = self._receiver.stopped.items()
        places = {f"{at.topic}[{at.partition}]": why for at, why in stopped}
        clock = {"ahead_s": round(self._clock.ahead_s, 3), "error_s": round(self._clock.error_s, 3)}
        return {NAME: {"in_hand": self._receiver.in_hand, "stopped": places, "store_clock": clock}}

    @override
    async def metrics(self) -> list[Metric]:
        await self._count_store()
        receiver = self._receiver
        return [
            *_done(self._orchestrator),
            *consumer_metrics(self._group, receiver.consumer, in_hand=receiver.in_hand),
            *_stored(self._counted),
            *_clock(self._clock),
        ]

    async def _why_no_store(self) -> list[str]:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._store.due_timers(until=Instant(0), limit=1)
        except TimeoutError:
            return [f"{NAME}: its store did not answer within {ANSWER_S:g} s"]
        except StoreUnavailable as error:
            return [f"{NAME}: its store cannot be used: {error}"]
        return []

    async def _count_store(self) -> None:
        """Have the store counted if that was long ago; one count at a time, however slow."""
        is_due = self._clock.monotonic_s() - self._counted_at_s >= STATISTICS_AGE_S
        if self._counting is None and is_due:
            # A bare task: it outlives the request, so that a slow count is there for the next one.
            self._counting = asyncio.create_task(self._read_statistics(), name="statistics")
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=STATISTICS_WAIT_S)

    async def _read_statistics(self) -> None:
        try:
            at = self._clock.now()
            self._counted = await self._reader.take(at=at), at
        except Exception as error:  # no old number is to look like today's
            self._counted = None
            if not isinstance(error, StoreUnavailable):
                log.warning("the store cannot be counted", exc_info=error)
        finally:
            self._counted_at_s = self._clock.monotonic_s()
            self._counting = None


def _done(orchestrator: Orchestrator) -> list[Metric]:
    statistics, counts = orchestrator.statistics, orchestrator.counts
    labels = ("definition",)
    started = CounterMetricFamily("saga_started_total", "Sagas that began.", labels=labels)
    finished = CounterMetricFamily(
        "saga_finished_total", "Sagas that ended, by how.", labels=("definition", "outcome")
    )
    meaning = "Sagas that began to be rolled back."
    compensations = CounterMetricFamily("saga_compensations_total", meaning, labels=labels)
    meaning = "From the begin of a saga to its end."
    duration = HistogramMetricFamily("saga_duration_seconds", meaning, labels=labels)
    appends = HistogramMetricFamily("saga_tx_duration_seconds", "One transaction of the store.")
    for definition, count in sorted(statistics.started.items()):
        started.add_metric((definition,), count)
    for (definition, status), count in sorted(statistics.reached.items()):
        if status.is_ended:
            finished.add_metric((definition, status.value), count)
        elif status is SagaStatus.ROLLING_BACK:
            compensations.add_metric((definition,), count)
    for definition, took in sorted(statistics.took.items()):
        duration.add_metric((definition,), took.buckets, took.sum_s)
    appends.add_metric((), statistics.appends.buckets, statistics.appends.sum_s)
    meaning = "Records taken, whatever became of them."
    records = CounterMetricFamily("saga_records_total", meaning, statistics.records)
    plain = [CounterMetricFamily(*COUNTED[name], counts[name]) for name in COUNTED]
    return [started, finished, compensations, duration, appends, records, *plain]


def _clock(clock: StoreClock) -> list[Metric]:
    meaning = "How far the store's clock is ahead of this machine's, as it was last measured."
    ahead = GaugeMetricFamily("saga_store_clock_ahead_seconds", meaning, clock.ahead_s)
    meaning = "By how much that may be wrong; beyond a second no timer fires."
    return [ahead, GaugeMetricFamily("saga_store_clock_error_seconds", meaning, clock.error_s)]


def _stored(counted: tuple[StoreStatistics, Instant] | None) -> list[Metric]:
    """What is in the store; without an answer of it, the families have no samples."""
    meaning = "Whether the store answered when it was last asked."
    up = GaugeMetricFamily("saga_store_up", meaning, counted is not None)
    active = GaugeMetricFamily(
        "saga_active", "Unfinished sagas in the store.", labels=("definition", "state")
    )
    meaning = "Deferred records and dead letters in the store, up to 10,000 of them."
    unhandled = GaugeMetricFamily("saga_unhandled", meaning, labels=("kind", "reason"))
    plain = [GaugeMetricFamily(*named, labels=()) for named in STORED]
    if counted is not None:
        statistics, at = counted
        for (definition, status), count in sorted(statistics.sagas.items()):
            active.add_metric((definition, status.value), count)
        for (kind, reason), count in sorted(statistics.unhandled.items()):
            unhandled.add_metric((kind.value, reason), count)
        values = (
            statistics.backlog,
            _age_s(at, statistics.backlog_since),
            statistics.timers_due,
            _age_s(at, statistics.timers_due_since),
        )
        for family, number in zip(plain, values, strict=True):
            family.add_metric((), number)
    return [up, active, unhandled, *plain]


def _age_s(now: Instant, since: Instant | None) -> float:
    return 0.0 if since is None else max(0.0, (now - since) / SECOND_US)
