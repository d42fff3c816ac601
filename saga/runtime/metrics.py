"""The metrics of an orchestrator: what it has done, and what is in its store.

What is in the store is counted at most every few seconds, whoever asks how often; all orchestrators
of one store tell the same about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from saga.core.durations import SECOND_US
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.errors import StoreUnavailable
from saga.ports import Clock
from saga.ports.metrics import Measured, Metric, Sample, counter, gauge, histogram
from saga.ports.reading import reading
from saga.ports.store import StatisticsReader, StoreStatistics
from saga.runtime.orchestrator import Orchestrator

CENSUS_S: Final = 10.0
"""How old what is told of the store may be."""
CENSUS_WAIT_S: Final = 3.0

STARTED: Final = counter("saga_started_total", "Sagas that began.", "definition")
FINISHED: Final = counter(
    "saga_finished_total", "Sagas that ended, by how.", "definition", "outcome"
)
COMPENSATIONS: Final = counter(
    "saga_compensations_total", "Sagas that began to be rolled back.", "definition"
)
DURATION: Final = histogram(
    "saga_duration_seconds", "From the begin of a saga to its end.", "definition"
)
TX_DURATION: Final = histogram("saga_tx_duration_seconds", "One transaction of the store.")
RECORDS: Final = counter("saga_records_total", "Records taken, whatever became of them.")
COUNTED: Final = {
    "turns": counter("saga_turns_total", "Turns that were recorded."),
    "duplicate": counter("saga_duplicates_total", "Records that had been handled before."),
    "dead": counter("saga_dlq_total", "Records set aside for somebody to look at."),
    "held": counter("saga_held_total", "Records held behind their saga."),
    "failed_turns": counter("saga_failed_turns_total", "Turns in which a saga's own code raised."),
    "conflicts": counter("saga_conflicts_total", "Batches in which another worker was first."),
}
STORE_UP: Final = gauge("saga_store_up", "Whether the store answered when it was last asked.")
ACTIVE: Final = gauge("saga_active", "Unfinished sagas in the store.", "definition", "state")
PARKED: Final = gauge(
    "saga_parked", "Records set aside in the store, up to 10,000 of them.", "kind", "reason"
)
PENDING: Final = gauge("saga_outbox_pending", "Stored batches that are not published yet.")
OLDEST: Final = gauge(
    "saga_outbox_oldest_seconds", "How long the oldest of them has waited to be published."
)
TIMERS_DUE: Final = gauge("saga_timers_due", "Timers that are due and have not fired.")
TIMERS_LAG: Final = gauge(
    "saga_timers_due_lag_seconds", "How long the earliest of them has been due."
)


class OrchestratorMetrics:
    """What one process tells of its orchestrator and of the store behind it."""

    def __init__(
        self, orchestrator: Orchestrator, statistics: StatisticsReader, clock: Clock, group: str
    ) -> None:
        self._orchestrator = orchestrator
        self._census = statistics
        self._clock = clock
        self._group = group
        self._counting: asyncio.Task[None] | None = None
        self._counted_at_s = -CENSUS_S
        self._found: tuple[StoreStatistics, Instant] | None = None

    async def take(self) -> list[Measured]:
        """All of them. Of the store, those that it has told within seconds."""
        orchestrator = self._orchestrator
        await self._count()
        return [
            *self._done(),
            *reading(self._group, orchestrator.consumer, in_hand=orchestrator.in_hand),
            *self._stored(),
        ]

    def _done(self) -> list[Measured]:
        tally, counts = self._orchestrator.tally, self._orchestrator.counts
        ended = sorted(one for one in tally.reached if one[1].is_ended)
        undone = sorted(one for one in tally.reached if one[1] is SagaStatus.ROLLING_BACK)
        return [
            STARTED.of(*(Sample((name,), count) for name, count in sorted(tally.started.items()))),
            FINISHED.of(*(Sample((one[0], one[1].value), tally.reached[one]) for one in ended)),
            COMPENSATIONS.of(*(Sample((one[0],), tally.reached[one]) for one in undone)),
            DURATION.of(*(Sample((name,), took) for name, took in sorted(tally.took.items()))),
            TX_DURATION.of(Sample((), tally.appends)),
            RECORDS.of(Sample((), tally.records)),
            *(metric.of(Sample((), counts[name])) for name, metric in COUNTED.items()),
        ]

    def _stored(self) -> list[Measured]:
        if self._found is None:
            told: Sequence[Metric] = (ACTIVE, PARKED, PENDING, OLDEST, TIMERS_DUE, TIMERS_LAG)
            return [STORE_UP.of(Sample((), 0)), *(metric.of() for metric in told)]
        statistics, at = self._found
        return [
            STORE_UP.of(Sample((), 1)),
            ACTIVE.of(
                *(
                    Sample((name, status.value), count)
                    for (name, status), count in sorted(statistics.sagas.items())
                )
            ),
            PARKED.of(
                *(
                    Sample((kind.value, reason), count)
                    for (kind, reason), count in sorted(statistics.unhandled.items())
                )
            ),
            PENDING.of(Sample((), statistics.backlog)),
            OLDEST.of(Sample((), _age_s(at, statistics.backlog_since))),
            TIMERS_DUE.of(Sample((), statistics.timers_due)),
            TIMERS_LAG.of(Sample((), _age_s(at, statistics.timers_due_since))),
        ]

    async def _count(self) -> None:
        """Have the store counted if that was long ago; one count at a time, however long it
        takes.
        """
        is_due = self._clock.monotonic_s() - self._counted_at_s >= CENSUS_S
        if self._counting is None and is_due:
            self._counting = asyncio.create_task(self._take_census(), name="statistics")
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=CENSUS_WAIT_S)

    async def _take_census(self) -> None:
        try:
            at = self._clock.now()
            self._found = await self._census.take(at=at), at
        except StoreUnavailable:
            self._found = None
        finally:
            self._counted_at_s = self._clock.monotonic_s()
            self._counting = None


def _age_s(now: Instant, since: Instant | None) -> float:
    return 0.0 if since is None else max(0.0, (now - since) / SECOND_US)
