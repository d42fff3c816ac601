"""Which steps of a machine are behind which: one depends on every step that had settled by then."""

from __future__ import annotations

from typing import Any

from saga.core.identity import StepId


class Flow:
    __slots__ = ("_before", "_nearest", "_settled")

    def __init__(self) -> None:
        self._settled = 0
        self._before: dict[StepId, int] = {}
        """By step, how many had settled when it was issued."""
        self._nearest: dict[StepId, int] = {}
        """The settled ones behind which none has settled yet, and the how many-eth each was."""

    def begin(self, step: StepId) -> tuple[StepId, ...]:
        """The nearest steps on which one depends that is issued now."""
        self._before[step] = self._settled
        return tuple(self._nearest)

    def settle(self, step: StepId) -> None:
        before = self._before[step]
        self._settled += 1
        nearest = {each: at for each, at in self._nearest.items() if at > before}
        self._nearest = nearest | {step: self._settled}

    def to_plain(self) -> list[Any]:
        return [self._settled, self._before, self._nearest]

    def take(self, told: list[Any]) -> None:
        """Go on from what `to_plain` has given."""
        self._settled, self._before, self._nearest = told
