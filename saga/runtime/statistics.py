"""What an orchestrator has done since it began, by definition: for metrics, never for decisions."""

from __future__ import annotations

from collections import Counter

from saga.core.status import SagaStatus
from saga.ports.metrics import LONG_SECONDS, SECONDS, Durations
from saga.runtime.unit_of_work import UnitOfWork
from saga.runtime.work import Work


class Statistics:
    """Attributes: started, reached: how many sagas of a definition began, and came to a status.
    took: how long those of a definition took from begin to end. appends: how long the store took
    for a batch. records: how many records were taken.
    """

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.reached: Counter[tuple[str, SagaStatus]] = Counter()
        self.took: dict[str, Durations] = {}
        self.appends = Durations(SECONDS)
        self.records = 0

    def add(self, work: Work, draft: UnitOfWork) -> None:
        """A batch that is stored."""
        self.records += len(work.inbound)
        self.started.update(draft.started)
        self.reached.update(draft.reached)
        self.appends.add(draft.append_s)
        for definition, seconds in draft.took:
            took = self.took.get(definition)
            if took is None:
                took = self.took[definition] = Durations(LONG_SECONDS)
            took.add(seconds)
