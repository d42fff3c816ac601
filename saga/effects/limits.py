"""How fast the handler of an intent may be called: so many at once, so many a second.

The rate is a leaky bucket kept as one time, the generic cell rate algorithm of ITU-T I.371: calls
are an equal time apart, and what a late wake-up has missed may follow at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Final

from saga.effects.inbox import Run
from saga.effects.registration import Limits

LATE_S: Final = 0.1
"""So much time that passed without a call may be made up for."""


class Gate:
    """Lets the requests of one handler begin in their order, as its limits allow.

    *begin* takes those that may begin; *call_later* calls a function after so many seconds.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        begin: Callable[[Collection[Run]], None],
        monotonic_s: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._at_once = limits.at_once
        self._apart_s = 0.0 if limits.per_second is None else 1 / limits.per_second
        self._begin = begin
        self._monotonic_s = monotonic_s
        self._call_later = call_later
        self._waiting: deque[Run] = deque()
        self._running = 0
        self._next_at_s = monotonic_s()
        self._is_waking = False

    def enter(self, run: Run) -> None:
        self._waiting.append(run)
        self._let_in()

    def leave(self) -> None:
        """One that had begun has ended."""
        self._running -= 1
        self._let_in()

    def _let_in(self) -> None:
        may_begin: list[Run] = []
        while self._waiting and (self._at_once is None or self._running < self._at_once):
            if self._apart_s:
                now_s = self._monotonic_s()
                if self._next_at_s > now_s:
                    self._wake_later(self._next_at_s - now_s)
                    break
                self._next_at_s = max(self._next_at_s, now_s - LATE_S) + self._apart_s
            self._running += 1
            may_begin.append(self._waiting.popleft())
        if may_begin:
            self._begin(may_begin)

    def _wake_later(self, delay_s: float) -> None:
        if not self._is_waking:
            self._is_waking = True
            self._call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._is_waking = False
        self._let_in()
