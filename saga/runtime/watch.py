"""
Outcomes as they happen in this process, for whoever waits for one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from saga.core.identity import SagaId
from saga.core.state import SagaState
from saga.runtime.live import Live


class Watchers:
    """
    Futures of saga ends, by saga.
    """

    def __init__(self) -> None:
        self._waiting: dict[SagaId, list[asyncio.Future[SagaState]]] = defaultdict(list)

    def ended(self, live: Live) -> None:
        """
        Tell everybody who waits for this saga.
        """
        for future in self._waiting.pop(live.saga_id, ()):
            if not future.done():
                future.set_result(live.state)

    @asynccontextmanager
    async def watching(self, saga_id: SagaId) -> AsyncIterator[asyncio.Future[SagaState]]:
        """
        A future of the saga's state at its next end, in this process.
        """
        future: asyncio.Future[SagaState] = asyncio.get_running_loop().create_future()
        self._waiting[saga_id].append(future)
        try:
            yield future
        finally:
            waiting = self._waiting.get(saga_id)
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._waiting[saga_id]
