"""Ends of sagas as they become known to this process, for whoever waits for one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from saga.core.events import Message
from saga.core.identity import SagaId, StepId
from saga.core.status import SagaStatus


@dataclass(frozen=True, slots=True)
class SagaOutcome:
    """How a saga ended, or why it does not go on by itself."""

    status: SagaStatus
    outcome: Message | None
    reason: str | None
    residue: tuple[StepId, ...]


class OutcomeWaiters:
    """Futures of endings, by saga."""

    def __init__(self) -> None:
        self._waiting: dict[SagaId, list[asyncio.Future[SagaOutcome]]] = defaultdict(list)

    def tell(self, saga_id: SagaId, ending: SagaOutcome) -> None:
        """Tell everybody who waits for this saga."""
        for future in self._waiting.pop(saga_id, ()):
            if not future.done():
                future.set_result(ending)

    def fail(self, saga_ids: Iterable[SagaId], error: Exception) -> None:
        """Have everybody who waits for these sagas get *error*."""
        for saga_id in saga_ids:
            for future in self._waiting.pop(saga_id, ()):
                if not future.done():
                    future.set_exception(error)

    def is_watched(self, saga_id: SagaId) -> bool:
        """Whether anybody waits for this saga."""
        return saga_id in self._waiting

    def watched(self) -> list[SagaId]:
        """The sagas that somebody waits for."""
        return list(self._waiting)

    @contextmanager
    def watching(self, saga_id: SagaId) -> Iterator[asyncio.Future[SagaOutcome]]:
        """A future of the saga's ending."""
        future: asyncio.Future[SagaOutcome] = asyncio.get_running_loop().create_future()
        self._waiting[saga_id].append(future)
        try:
            yield future
        finally:
            waiting = self._waiting.get(saga_id)
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._waiting[saga_id]
