"""What all parts of a world share: its loop, its dice, and the record of what happened in which
order.
"""

from __future__ import annotations

from hashlib import blake2b

from saga.testing.world.faults import Faults
from saga.testing.world.loop import SimulatedLoop


class Surroundings:
    """Of one world."""

    def __init__(self, loop: SimulatedLoop, faults: Faults) -> None:
        self.loop = loop
        self.faults = faults
        self.lines: list[str] = []
        self.is_bug_fixed = False
        self._sequence = 0

    def note(self, who: str, what: str) -> None:
        """Remember that something happened."""
        self.lines.append(f"{self.loop.time():.6f} {who} {what}")

    def next_number(self) -> int:
        """A number greater than all before: what happened later has the greater one."""
        self._sequence += 1
        return self._sequence

    def fingerprint(self) -> str:
        """A hash of everything that happened."""
        return blake2b("\n".join(self.lines).encode(), digest_size=12).hexdigest()
