"""The pure half of a context: what a turn is told of its saga, the same in every replay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID, uuid5

from saga.authoring.visible import SagaLog
from saga.core.identity import SAGA_NAMESPACE, Instant, SagaId
from saga.core.program import Line
from saga.core.retry import fraction
from saga.core.runs import prefix

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Says(Protocol):
    def say(self, command: Line, /) -> None: ...


class TurnContext:
    """Time, chance and identity. One belongs to one saga."""

    __slots__ = ("_at", "_counters", "_prefix", "_program", "key", "saga_id", "version")

    _program: Says

    def __init__(self, saga_id: SagaId, key: str, version: int, *, program: Says, run: int) -> None:
        self.saga_id = saga_id
        self.key = key
        self.version = version
        self._prefix = prefix(run)
        """Of ids in this run: no service may take a step for one of an earlier run."""
        self._at = Instant(0)
        self._counters: dict[str, int] = {}
        self._program = program

    @property
    def log(self) -> SagaLog:
        """A logger: what it is told is written once the turn is stored, and in no replay."""
        return SagaLog(self._program.say)

    def now(self) -> datetime:
        """The time of the turn, in UTC: the same whenever the history is replayed."""
        return EPOCH + timedelta(microseconds=self._at)

    def uuid(self) -> UUID:
        """An id that no other call gives, and every replay gives again."""
        return uuid5(SAGA_NAMESPACE, f"{self.saga_id}/{self._prefix}uuid/{self._next('uuid')}")

    def random(self) -> float:
        """A number from 0 up to 1, by chance but the same in every replay."""
        return fraction(f"{self.saga_id}/{self._prefix}random/{self._next('random')}")

    def _next(self, counter: str) -> int:
        number = self._counters.get(counter, 0) + 1
        self._counters[counter] = number
        return number
