"""From FastStream's consume loop to whoever fetches: one batch at a time, and only when asked for.

FastStream pushes, the port's `Consumer` is pulled. So the loop waits for a request before it reads,
and what it reads counts as handed over once the handler of the subscriber has it. Whatever raises
in between, a middleware for example, FastStream only logs: then nothing was handed over, and the
loop reads the same records again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from saga.ports.bus import Inbound, Source

Batch = tuple[Inbound, ...]


class Request(NamedTuple):
    """What somebody waits for."""

    records_max: int
    timeout_s: float
    answer: asyncio.Future[None]


class Handover:
    """Between one loop that reads and one task that fetches."""

    def __init__(self) -> None:
        self._request: Request | None = None
        self._asked = asyncio.Event()
        self._ready: deque[Inbound] = deque()
        self._offered: Batch | None = None
        self._is_closed = False

    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        """What the loop reads next, or has read for somebody who did not wait for it; nothing once
        it is closed.

        Raises:
            Exception: what reading has failed with.
        """
        if self._is_closed:
            return []
        if not self._ready:
            answer = asyncio.get_running_loop().create_future()
            self._request = Request(records_max, timeout_s, answer)
            self._asked.set()
            try:
                await answer
            finally:
                self._request = None
        ready = self._ready
        return [ready.popleft() for _ in range(min(records_max, len(ready)))]

    async def asked(self) -> Request:
        """Wait until somebody wants records."""
        while (request := self._request) is None or request.answer.done():
            self._asked.clear()
            await self._asked.wait()
        return request

    def fail(self, error: Exception) -> None:
        """Reading has failed: whoever waits is told."""
        request = self._request
        if request is not None and not request.answer.done():
            request.answer.set_exception(error)

    def nothing(self) -> None:
        """There was nothing to read."""
        self._answer()

    def offer(self, batch: Batch) -> None:
        """*batch* is on its way through FastStream."""
        self._offered = batch

    def take(self, batch: object) -> bool:
        """*batch* has arrived; False if it is none that was offered."""
        if batch is not self._offered or self._offered is None:
            return False
        self._ready.extend(self._offered)
        self._offered = None
        self._answer()
        return True

    def withdraw(self) -> bool:
        """Whether what was offered did not arrive; it no longer counts as offered."""
        is_lost = self._offered is not None
        self._offered = None
        return is_lost

    def drop(self, sources: Mapping[Source, int]) -> None:
        """Forget what is ready of these sources."""
        self._ready = deque(
            one for one in self._ready if Source(one.topic, one.partition) not in sources
        )

    def close(self) -> None:
        """Nobody reads any more: whoever waits gets nothing."""
        self._is_closed = True
        self._ready.clear()
        self._answer()

    def _answer(self) -> None:
        request = self._request
        if request is not None and not request.answer.done():
            request.answer.set_result(None)


def begins(batch: Sequence[Inbound]) -> dict[Source, int]:
    """The first offset of each source in *batch*."""
    found: dict[Source, int] = {}
    for one in batch:
        source = Source(one.topic, one.partition)
        found[source] = min(one.offset, found.get(source, one.offset))
    return found
