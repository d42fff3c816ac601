"""Lanes: what must not happen at the same time, and must happen in its order.

Doing and undoing one step, in all their attempts, are one lane.
"""

from __future__ import annotations

from collections import deque

from saga.effects.request import Request


class Lanes:
    """The lanes with a request in hand, and the requests that wait behind it."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Request] | None] = {}

    def enter(self, request: Request) -> bool:
        """Whether *request* may go on; otherwise it waits, and `leave` returns it in its time."""
        lane = request.lane
        if lane not in self._waiting:
            self._waiting[lane] = None
            return True
        line = self._waiting[lane]
        if line is None:
            line = self._waiting[lane] = deque()
        line.append(request)
        return False

    def leave(self, request: Request) -> Request | None:
        """*request* is dealt with; the next one of its lane, which is in hand now."""
        line = self._waiting[request.lane]
        if line:
            return line.popleft()
        del self._waiting[request.lane]
        return None
