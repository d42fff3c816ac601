"""What a lane has to do, and what may keep a batch of it from being decided in one go."""

from __future__ import annotations

from dataclasses import dataclass, field

from saga.core.identity import SagaId
from saga.ports import DueTimer, Inbound, Source


@dataclass(slots=True)
class Work:
    """What a lane has to do: records in order per partition, due timers, sagas with held
    records.
    """

    inbound: list[Inbound] = field(default_factory=list)
    due: list[DueTimer] = field(default_factory=list)
    revisits: list[SagaId] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.inbound or self.due or self.revisits)

    def positions(self) -> dict[Source, int]:
        """Of each source the highest offset in this work."""
        highest: dict[Source, int] = {}
        for record in self.inbound:
            source = Source(record.topic, record.partition)
            if record.offset > highest.get(source, -1):
                highest[source] = record.offset
        return highest


class TurnRaised(Exception):
    """Raised by a saga's own code, with *error*."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


class Outdated(Exception):
    """Raised where memory would decide without the store having a say: another worker may know
    more.
    """
