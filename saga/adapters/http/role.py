"""Health over HTTP as a role of a process: it starts before the others and ends after them."""

from __future__ import annotations

import asyncio
from collections import Counter

from saga.adapters.http.server import HttpServer


class HttpRole:
    """Answers as long as the process serves."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._stopping = asyncio.Event()
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: somebody else listens where it was told to.
        """
        await self._server.start()

    async def run(self) -> None:
        """Answer until stopped."""
        await self._stopping.wait()

    def stop(self) -> None:
        """The others have stopped."""
        self._stopping.set()

    async def close(self) -> None:
        """Listen no more."""
        await self._server.stop()

    @property
    def is_idle(self) -> bool:
        """Nobody waits for probes."""
        return True
