"""The records that a service has fetched and not dealt with: its offsets, and their order.

An offset that is committed late only brings records back, which the inbox answers again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Final

from saga.effects.request import Request
from saga.ports.bus import Inbound, Source

# Plain tuples, equal to a `Position` and a `Source`, and made without a call for each record.
_position: Final = attrgetter("topic", "partition", "offset")
_source: Final = attrgetter("topic", "partition")
_offset: Final = attrgetter("offset")


class RecordsInHand:
    """The records in hand; *is_empty* is set while there are none."""

    def __init__(self) -> None:
        self.count = 0
        self.is_empty = asyncio.Event()
        self.is_empty.set()
        self._in_hand: Counter[tuple[str, int, int]] = Counter()
        self._last: dict[tuple[str, int], int] = {}
        self._committed: dict[tuple[str, int], int] = {}

    def begin(self, records: Sequence[Inbound]) -> None:
        """These were fetched; possibly once more, after a rebalance."""
        self._in_hand.update(map(_position, records))
        # Back, too: a topic made anew begins at 0.
        self._last.update(zip(map(_source, records), map(_offset, records), strict=True))
        self.count += len(records)
        self.is_empty.clear()

    def finish(self, records: Sequence[Inbound]) -> None:
        in_hand = self._in_hand
        for position in map(_position, records):
            left = in_hand.pop(position) - 1
            if left:
                in_hand[position] = left
        self.count -= len(records)
        if not self.count:
            self.is_empty.set()

    def offsets_due(self, assigned: frozenset[Source]) -> dict[Source, int]:
        """The next offset to read of each assigned partition whose commit is out of date."""
        following = {place: last + 1 for place, last in self._last.items()}
        # Backwards: of each partition the lowest comes last, and stays.
        in_hand = sorted(self._in_hand, reverse=True)
        following |= zip(map(itemgetter(0, 1), in_hand), map(itemgetter(2), in_hand), strict=True)
        committed = self._committed
        return {
            Source(*place): offset
            for place, offset in following.items()
            if committed.get(place) != offset and place in assigned
        }

    def committed(self, offsets: dict[Source, int]) -> None:
        for source, offset in offsets.items():
            self._committed[source] = offset


class KeyOrder:
    """Lets one request of an order key go on at a time; the others wait, in their order."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Request] | None] = {}

    def enter(self, requests: Iterable[Request]) -> list[Request]:
        """Those that may go on; the others wait, and `leave` returns them in their time."""
        waiting = self._waiting
        first: list[Request] = []
        for request in requests:
            key = request.order_key
            if key not in waiting:
                waiting[key] = None
                first.append(request)
                continue
            line = waiting[key]
            if line is None:
                line = waiting[key] = deque()
            line.append(request)
        return first

    def leave(self, requests: Iterable[Request]) -> list[Request]:
        """*requests* are dealt with; returns the next ones of their keys, which may go on now."""
        waiting = self._waiting
        following: list[Request] = []
        for request in requests:
            line = waiting.pop(request.order_key)
            if line:
                waiting[request.order_key] = line
                following.append(line.popleft())
        return following
