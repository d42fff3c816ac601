"""The records that a service has fetched and not dealt with: its offsets, and their order.

An offset that is committed late only brings records back, which the inbox answers again.
"""

from __future__ import annotations

import asyncio
from collections import deque

from saga.effects.request import Request
from saga.ports.bus import Inbound, Source

Place = tuple[str, int]
"""Topic and partition: equal to their `Source`, and far cheaper to make for every record."""


class RecordsInHand:
    """The records in hand, by partition; *is_empty* is set while there are none."""

    def __init__(self) -> None:
        self.count = 0
        self.is_empty = asyncio.Event()
        self.is_empty.set()
        self._in_hand: dict[Place, dict[int, int]] = {}
        self._following: dict[Place, int] = {}
        self._committed: dict[Source, int] = {}

    def begin(self, inbound: Inbound) -> None:
        """A record was fetched; possibly once more, after a rebalance."""
        place = (inbound.topic, inbound.partition)
        in_hand = self._in_hand.get(place)
        if in_hand is None:
            in_hand = self._in_hand[place] = {}
        offset = inbound.offset
        in_hand[offset] = in_hand.get(offset, 0) + 1
        self._following[place] = offset + 1  # back, too: a topic made anew begins at 0
        self.count += 1
        self.is_empty.clear()

    def finish(self, inbound: Inbound) -> None:
        in_hand = self._in_hand[inbound.topic, inbound.partition]
        left = in_hand[inbound.offset] - 1
        if left:
            in_hand[inbound.offset] = left
        else:
            del in_hand[inbound.offset]
        self.count -= 1
        if not self.count:
            self.is_empty.set()

    def offsets_due(self, assigned: frozenset[Source]) -> dict[Source, int]:
        """The next offset to read of each assigned partition whose commit is out of date."""
        due: dict[Source, int] = {}
        for place, following in self._following.items():
            source = Source(*place)
            if source in assigned:
                offset = min(self._in_hand[place], default=following)
                if self._committed.get(source) != offset:
                    due[source] = offset
        return due

    def committed(self, offsets: dict[Source, int]) -> None:
        self._committed.update(offsets)


class KeyOrder:
    """Lets one request of an order key go on at a time; the others wait, in their order."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Request] | None] = {}

    def enter(self, request: Request) -> bool:
        """Whether *request* may go on; otherwise it waits, and `leave` returns it in its time."""
        key = request.order_key
        if key not in self._waiting:
            self._waiting[key] = None
            return True
        line = self._waiting[key]
        if line is None:
            line = self._waiting[key] = deque()
        line.append(request)
        return False

    def leave(self, request: Request) -> Request | None:
        """*request* is dealt with; returns the next one of its key, which may go on now."""
        line = self._waiting[request.order_key]
        if line:
            return line.popleft()
        del self._waiting[request.order_key]
        return None
