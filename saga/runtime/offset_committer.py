"""Tells the group how far we are, only so that lag can be seen: the store's positions are what
counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from saga.errors import BusUnavailable
from saga.ports import Clock, Consumer, Source

COMMIT_S = 1.0
log = logging.getLogger(__name__)


class OffsetCommitter:
    """What was handled and not told yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._handled: dict[Source, int] = {}

    def handled(self, positions: Mapping[Source, int]) -> None:
        """Take note of the highest offsets that a batch accounts for."""
        self._handled.update(positions)

    async def tell(self, consumer: Consumer) -> None:
        """Commit them; what cannot be committed now, or is somebody else's by now, is done
        without.
        """
        handled, self._handled = self._handled, {}
        ours = handled.keys() & consumer.assignment()
        if not ours:
            return
        try:
            await consumer.commit({one: handled[one] + 1 for one in ours})
        except BusUnavailable as error:
            log.info("offsets are not committed: %s", error, extra={"reason": str(error)})

    async def tell_now_and_then(self, consumer: Consumer) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(COMMIT_S)
            await self.tell(consumer)
