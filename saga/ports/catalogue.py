"""The catalogue: what people and tools ask of a store, beside histories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from saga.core.history import Entry
from saga.core.identity import Instant, SagaId
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.ports.bus import Headers, Position

if TYPE_CHECKING:
    from saga.ports.event_store import DueTimer


@value
class SagaSummary:
    """A row of the saga index: a projection of the history, committed with it."""

    saga_id: SagaId
    definition: str
    definition_version: int
    key: str
    status: SagaStatus
    started_at: Instant
    updated_at: Instant
    waiting_for: str | None
    reason: str | None
    version: int


class UnhandledKind(StrEnum):
    """Why a record is set aside."""

    DEAD = "dead"
    """It cannot be read or belongs to nothing: published on the dlq topic, may be redriven."""
    DEFERRED = "held"
    """It waits, in order, for its saga to be released, healed or to come into being."""


@value
class UnhandledRecord:
    """A record set aside, byte for byte, with the reason. *record_id* is 0 until the store gave
    one.
    """

    kind: UnhandledKind
    reason: str
    message: str
    position: Position
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: Instant
    kept_at: Instant
    saga_id: SagaId | None = None
    record_id: int = 0


class Catalogue(Protocol):
    """The read side of a store. All methods raise StoreUnavailable when it cannot be reached."""

    async def sagas(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        after: SagaId | None = None,
        limit: int = 100,
    ) -> Sequence[SagaSummary]:
        """Summaries in order of start, beginning after the saga *after*."""
        ...

    async def summaries(self, saga_ids: Sequence[SagaId]) -> Sequence[SagaSummary]:
        """The summaries of these sagas; one that does not exist is left out."""
        ...

    async def unhandled(
        self,
        *,
        kind: UnhandledKind | None = None,
        saga_id: SagaId | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[UnhandledRecord]:
        """Parked records in the order they were parked, beginning after the id *after*."""
        ...

    async def timers(self, *, limit: int = 100) -> Sequence[DueTimer]:
        """Armed timers, the earliest first."""
        ...

    def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        """Every entry of every saga with its place in the log, in commit order."""
        ...
