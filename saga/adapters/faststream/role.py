"""A FastStream broker with its effect services as a role of a process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from faststream.kafka import KafkaBroker

from saga.adapters.faststream.health import Health
from saga.adapters.faststream.subscriber import EffectsSubscriber


class BrokerRole:
    """Starts, runs and stops the services of one broker beside the other roles."""

    def __init__(self, broker: KafkaBroker, subscribers: Sequence[EffectsSubscriber]) -> None:
        self._broker = broker
        self._subscribers = tuple(subscribers)
        self.health = Health(self._subscribers)
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Start the services, which wait while Kafka or their store is away."""
        try:
            await self._broker.start()
        except BaseException:
            await self._end()
            raise

    async def run(self) -> None:
        """Work until stopped or until a service fails, then finish what is in hand."""
        asked: asyncio.Future[Any] = asyncio.ensure_future(self._stopping.wait())
        ended = asyncio.ensure_future(self._wait())
        try:
            await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
        finally:
            asked.cancel()
            try:
                await self._end()
            finally:
                # Stopping the services has ended it, also where stopping the broker has failed.
                ended.cancel()
                await asyncio.gather(ended, return_exceptions=True)

    def stop(self) -> None:
        """Take nothing new."""
        self._stopping.set()

    async def close(self) -> None:
        """`run` has closed everything."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand."""
        return all(one.in_hand == 0 for one in self._subscribers)

    @property
    def counts(self) -> Counter[str]:
        """What the services have done since the start."""
        total: Counter[str] = Counter()
        for subscriber in self._subscribers:
            total.update(subscriber.counts)
        return total

    async def _wait(self) -> None:
        """In a task of its own: a cancelled `gather` that nobody awaits is reported as an error."""
        await asyncio.gather(*(one.wait() for one in self._subscribers))

    async def _end(self) -> None:
        await self._broker.stop()
