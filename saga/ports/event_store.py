"""The event store: histories, the positions they account for, and what must commit with them.

One `append` is one transaction over many sagas. It is optimistic: a history that moved on, or a
position already covered, fails the whole batch and records nothing of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.values import value
from saga.errors import CorruptHistory
from saga.ports.bus import Record, Source
from saga.ports.catalogue import SagaSummary, UnhandledRecord


@value
class HistoryAppend:
    """New entries of one saga, which must follow *expected_version* (0 for a new saga)."""

    saga_id: SagaId
    expected_version: int
    entries: Sequence[Entry]


@value
class DueTimer:
    """A row of the due-index."""

    timer_id: TimerId
    saga_id: SagaId
    due_at: Instant


@dataclass(slots=True)
class Batch:
    """Everything that commits together.

    Args:
        histories: entries to append; a saga at most once.
        positions: of each source the highest offset that this batch accounts for.
        timers_armed: rows to add to the due-index.
        timers_cleared: rows to remove from it; one that is not there is no error.
        summaries: rows of the saga index to write whole.
        unhandled: records to set aside.
        handled: ids of unhandled records to remove, because they were handled or redriven.
        outgoing: what the entries say is to be published, in log order.
        relayed: backlog ids that are published by now.
    """

    histories: list[HistoryAppend] = field(default_factory=list)
    positions: dict[Source, int] = field(default_factory=dict)
    timers_armed: list[DueTimer] = field(default_factory=list)
    timers_cleared: list[TimerId] = field(default_factory=list)
    summaries: list[SagaSummary] = field(default_factory=list)
    unhandled: list[UnhandledRecord] = field(default_factory=list)
    handled: list[int] = field(default_factory=list)
    outgoing: list[Record] = field(default_factory=list)
    relayed: list[int] = field(default_factory=list)


@value
class Appended:
    """What became of a batch.

    *backlog_id* names the batch's entries in the relay's backlog; None when there is nothing to
    publish, or when the store has published *outgoing* itself in the same transaction.
    """

    backlog_id: int | None


@value
class Backlog:
    """Entries of one batch that nobody has said to be published, in log order."""

    backlog_id: int
    appended_at: Instant
    entries: Sequence[Entry]


class EventStore(Protocol):
    """Where histories are kept."""

    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        """Record the whole batch in one durable transaction, or nothing of it.

        Raises:
            HistoryConflict: another writer was first on some history.
            AlreadyRecorded: a position is not beyond the stored one of its source.
            RecordsRetracted: a record was shown before it was durable, and then was not; only
                where store and bus are one file.
            TopicMissing: a topic of *outgoing* is not there; nothing was recorded. Only of a store
                that publishes itself.
            StoreUnavailable: the store cannot write; nothing was recorded.
        """
        ...

    async def load(
        self, saga_ids: Sequence[SagaId]
    ) -> Mapping[SagaId, Sequence[Entry] | CorruptHistory]:
        """The whole histories, in order of version; a saga without one is left out.

        A history that cannot be read, or has a gap, is answered with the error instead of its
        entries, so that the others are not held up by it.

        Raises:
            StoreUnavailable: try again later.
        """
        ...

    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        """The highest offset accounted for of each source; a source never seen is left out."""
        ...

    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        """Timers due at or before *until*, the earliest first."""
        ...

    async def backlog(
        self, *, appended_before: Instant, limit: int, after: int = 0
    ) -> Sequence[Backlog]:
        """Batches with something to publish that nobody has said to be published, the oldest first;
        with *after*, those beyond this backlog id. One with a smaller id may still appear.
        """
        ...


@runtime_checkable
class TellsOfAppends(Protocol):
    """What a store has besides that several machines write: polling it often is not needed."""

    def appends(self, *, poll_s: float) -> AsyncGenerator[None, None]:
        """Yields at once, then whenever another process may have appended something, and at least
        every *poll_s*. Goes on while the store is away.
        """
        ...
