"""Health: what the parts of a process say about themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from saga.ports.metrics import Measured


class Health(Protocol):
    """How one part of a process is."""

    def why_dead(self) -> list[str]:
        """The reasons to restart the process; none while it is alive, or only just starting."""
        ...

    async def why_not_ready(self) -> list[str]:
        """The reasons why it does not do all of its work now. Answers within seconds."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What an operator wants to know, by the name of a service."""
        ...

    async def metrics(self) -> Sequence[Measured]:
        """What a machine wants to know. Those that cannot be had now are left out."""
        ...
