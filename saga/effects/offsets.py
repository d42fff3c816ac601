"""How far a service has come in each partition: below its offset every record is dealt with.

Records are finished in any order; what is committed is the lowest one still in hand. Committed late
or not at all, it only brings records back that the inbox answers again.
"""

from __future__ import annotations

from saga.ports.bus import Inbound, Source

Place = tuple[str, int]
"""Topic and partition: equal to their `Source`, and far cheaper to make for every record."""


class Offsets:
    """The records in hand, by partition."""

    def __init__(self) -> None:
        self._in_hand: dict[Place, dict[int, int]] = {}
        self._next: dict[Place, int] = {}
        self._committed: dict[Source, int] = {}

    def begin(self, inbound: Inbound) -> None:
        """A record was fetched; possibly once more, after a rebalance."""
        source = (inbound.topic, inbound.partition)
        in_hand = self._in_hand.get(source)
        if in_hand is None:
            in_hand = self._in_hand[source] = {}
        offset = inbound.offset
        in_hand[offset] = in_hand.get(offset, 0) + 1
        if offset >= self._next.get(source, 0):
            self._next[source] = offset + 1

    def finish(self, inbound: Inbound) -> None:
        """A record is dealt with."""
        in_hand = self._in_hand[inbound.topic, inbound.partition]
        left = in_hand[inbound.offset] - 1
        if left:
            in_hand[inbound.offset] = left
        else:
            del in_hand[inbound.offset]

    def due(self, assigned: frozenset[Source]) -> dict[Source, int]:
        """The next offset to read of each assigned partition whose commit is out of date."""
        due: dict[Source, int] = {}
        for place, following in self._next.items():
            source = Source(*place)
            if source in assigned:
                offset = min(self._in_hand[place], default=following)
                if self._committed.get(source) != offset:
                    due[source] = offset
        return due

    def committed(self, offsets: dict[Source, int]) -> None:
        """These were committed."""
        self._committed.update(offsets)
