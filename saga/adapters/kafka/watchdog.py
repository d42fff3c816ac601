"""Looks whether a member makes progress: aiokafka can stop fetching, or rejoining, without an
error.

It asks the cluster, not the client: what is stuck may also be what the client believes.
"""

from __future__ import annotations

import asyncio
from typing import Final

from saga.adapters.kafka.cluster import READ_COMMITTED, Cluster
from saga.adapters.kafka.membership import Membership
from saga.errors import BusUnavailable, TopicMissing
from saga.ports.bus import Source

POLLS_MIN: Final = 3
"""Who does not fetch makes no progress either, and is not to blame the client."""


class Watchdog:
    """Beside one membership. *verdict* says what is wrong, once something is."""

    def __init__(self, membership: Membership, cluster: Cluster, stalled_s: float) -> None:
        self._membership = membership
        self._cluster = cluster
        self._stalled_s = stalled_s
        self._task: asyncio.Task[None] | None = None
        self.polls = 0
        self.verdict: str | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch."""
        self._task = loop.create_task(self._watch(), name="kafka watchdog")

    async def stop(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        behind: dict[Source, int] = {}
        was_rejoining = False
        while self.verdict is None:
            self.polls = 0
            await asyncio.sleep(self._stalled_s)
            if self._membership.is_rejoining:
                if was_rejoining:
                    self.verdict = f"no assignment for {self._stalled_s:g} s"
                was_rejoining, behind = True, {}
                continue
            was_rejoining = False
            now_behind = await self._behind()
            stuck = [source for source, at in now_behind.items() if behind.get(source) == at]
            if stuck and self.polls >= POLLS_MIN:
                self.verdict = f"records of {stuck[0]} are not fetched for {self._stalled_s:g} s"
            behind = now_behind

    async def _behind(self) -> dict[Source, int]:
        """Where we stand in those sources that have more."""
        places = dict(self._membership.next)
        try:
            bounds = await self._cluster.bounds(places, isolation=READ_COMMITTED)
        except (BusUnavailable, TopicMissing):
            return {}  # then it is not the client
        return {source: at for source, at in places.items() if at < bounds[source][1]}
