"""Is an orchestrator alive, and is it ready? From what it did last, and from the store itself."""

from __future__ import annotations

import asyncio
from typing import Final

from saga.core.identity import Instant
from saga.errors import StoreUnavailable
from saga.ports import Clock, EventStore
from saga.ports.metrics import Measured
from saga.ports.store import StatisticsReader
from saga.runtime.metrics import OrchestratorMetrics
from saga.runtime.orchestrator import Orchestrator

ANSWER_S: Final = 2.0
"""How long the store may take to answer a probe."""
FETCH_AGE_S: Final = 15.0
"""How long ago the bus may have answered last, where there is room for more records."""
LOOK_AGE_S: Final = 120.0
"""How long ago it may have been asked last, be it without an answer."""
NAME: Final = "orchestrator"


class OrchestratorHealth:
    """The health of one process's orchestrator."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        store: EventStore,
        clock: Clock,
        *,
        statistics: StatisticsReader,
        group: str,
    ) -> None:
        self._orchestrator = orchestrator
        self._store = store
        self._clock = clock
        self._metrics = OrchestratorMetrics(orchestrator, statistics, clock, group)

    def why_dead(self) -> list[str]:
        """The reasons to restart this process; none while it is alive, or only just starting."""
        age_s = self._clock.monotonic_s() - self._orchestrator.looked_at_s
        if age_s <= LOOK_AGE_S:
            return []
        return [f"{NAME}: has not asked for records for {age_s:.0f} s"]

    async def why_not_ready(self) -> list[str]:
        """The reasons why it does not do all of its work now."""
        found = [*self.why_dead(), *(f"{NAME}: {why}" for why in self._orchestrator.problems())]
        age_s = self._clock.monotonic_s() - self._orchestrator.fetched_at_s
        if age_s > FETCH_AGE_S:
            found.append(f"{NAME}: the bus did not answer for {age_s:.0f} s")
        return found or await self._why_no_store()

    def facts(self) -> dict[str, dict[str, object]]:
        """What an operator wants to know."""
        stopped = self._orchestrator.stopped.items()
        return {
            NAME: {
                "in_hand": self._orchestrator.in_hand,
                "stopped": {f"{at.topic}[{at.partition}]": why for at, why in stopped},
            }
        }

    async def metrics(self) -> list[Measured]:
        """What a machine wants to know."""
        return await self._metrics.take()

    async def _why_no_store(self) -> list[str]:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._store.due_timers(until=Instant(0), limit=1)
        except TimeoutError:
            return [f"{NAME}: its store did not answer within {ANSWER_S:g} s"]
        except StoreUnavailable as error:
            return [f"{NAME}: its store cannot be used: {error}"]
        return []
