"""An effect service as one of the roles of a process."""

from __future__ import annotations

import asyncio
from collections import Counter

from saga.effects.service import EffectsService


class EffectsRole:
    """Starts, runs and stops an effect service beside the other roles."""

    def __init__(self, service: EffectsService) -> None:
        self._service = service
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Make its tables and join its group."""
        await self._service.start()

    async def run(self) -> None:
        """Work until stopped, then finish what is in hand."""
        asked = asyncio.ensure_future(self._stopping.wait())
        ended = asyncio.ensure_future(self._service.wait())
        try:
            await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
        finally:
            asked.cancel()
            await self._service.stop()
            ended.cancel()

    def stop(self) -> None:
        """Take nothing new."""
        self._stopping.set()

    async def close(self) -> None:
        """`run` has closed everything."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand."""
        return self._service.in_hand == 0

    @property
    def counts(self) -> Counter[str]:
        """What the service has done since the start."""
        return self._service.counts
