"""What a process waits for before its roles begin: a store and a bus, whichever comes first.

It lives meanwhile and is not ready, as in an outage later on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import Metric
from typing_extensions import override

from saga.ports import Clock
from saga.ports.health import Health
from saga.retrying import Backoff, once_there


class Start(Health):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: tuple[str, Backoff] | None = None

    async def wait_for(self, what: str, act: Callable[[], Awaitable[None]]) -> None:
        """Return once *act* has; raises what does not pass by itself."""
        backoff = Backoff("start", self._clock)
        self._waiting = what, backoff
        await once_there(f"waits for {what}", backoff, act)
        self._waiting = None

    @override
    def why_dead(self) -> list[str]:
        return []

    @override
    async def why_not_ready(self) -> list[str]:
        if self._waiting is None:
            return []
        what, backoff = self._waiting
        return [f"start: waits for {what}: {backoff.last_error or 'asked just now'}"]

    @override
    def facts(self) -> dict[str, Any]:
        return {}

    @override
    async def metrics(self) -> list[Metric]:
        return []
