"""Where a service puts what it cannot read: somebody else keeps it, in sight of an operator."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from saga.ports.bus import Inbound


class Park(Protocol):
    """Sets a record aside for people to look at; it counts as dealt with once this returns."""

    def __call__(self, inbound: Inbound, reason: str, message: str, /) -> Awaitable[None]:
        """Keep *inbound* with its *reason* code and a *message* that says more.

        May be called again for the same record, after a crash or a retriable error.
        """
        ...
