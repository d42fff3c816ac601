"""The store: histories, the positions they account for, and what must commit with them.

One `EventStore.append` is one transaction over many sagas. It is optimistic: a history that moved
on, or a position already covered, fails the whole batch and records nothing of it.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, TypeVar, runtime_checkable

from saga.core.events import Json
from saga.core.history import Entry, History, RecordedTurn
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.errors import CorruptHistory
from saga.ports.bus import Headers, Inbound, Origin, Position, Record, Source

UNFINISHED: Final = (
    SagaStatus.RUNNING,
    SagaStatus.ROLLING_BACK,
    SagaStatus.PARKED,
    SagaStatus.STALLED,
)
KEY_BYTES_LISTED: Final = 1_024
"""A dead letter may have a key of a megabyte, which is why it is one."""
DAMAGED_OFFSET: Final = 2**62
"""Stands for a position that cannot be read: its source is not read on."""
NOTHING_SHOWN: Final[Mapping[str, Sequence[Json]]] = MappingProxyType({})
EARLY_EVENTS_MAX: Final = 10_000
"""So many events of others wait at once, in one store, for sagas that are not there yet."""
UNHANDLED_COUNTED_MAX: Final = 10_000
"""Unhandled records are counted up to here: they are wide, and it is enough to act on."""


@value
class HistoryAppend:
    """New turns after *expected_turns* (0: a new saga); in order."""

    saga_id: SagaId
    expected_turns: int
    turns: list[RecordedTurn]

    @property
    def entries(self) -> list[Entry]:
        return [entry for turn in self.turns for entry in turn]


T = TypeVar("T")


class Rows(list[T]):
    """The rows that could be read of those asked for; *damaged* names the others, in words."""

    __slots__ = ("damaged",)

    def __init__(self, rows: Iterable[T] = (), damaged: Iterable[str] = ()) -> None:
        super().__init__(rows)
        self.damaged = list(damaged)


@value
class DueTimer:
    timer_id: TimerId
    saga_id: SagaId
    due_at: Instant


@value
class PutOffTimer:
    """A timer that was *found* due and does not fire before *due_at*."""

    found: DueTimer
    due_at: Instant


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
    paused: str | None = None
    """What it is paused by, as `PausedBy` says; None: it is not paused."""
    shown: Json | None = None
    """What the saga lets people see, as one JSON object; None: nothing, or what the store has."""


class PausedBy(StrEnum):
    """What pauses a saga."""

    SAGA = "saga"
    DEFINITION = "definition"
    BOTH = "both"


@value
class DefinitionPause:
    """What was done to pause a definition, as JSON; *changes* counts how often it changed.

    A row is never removed, so that the sum of all changes says whether any has changed.
    """

    definition: str
    changes: int
    told: str


class UnhandledKind(StrEnum):
    """What becomes of a record that no saga has taken."""

    DEAD = "dead"
    """No saga can take it. It is published on the dlq topic, and may be redriven."""
    DEFERRED = "deferred"
    """It waits, in order, until its saga is released, is healed or comes into being."""


class DeadLetterReason(StrEnum):
    """Why nobody can take a record that could be read; others have an `UnreadableCode`."""

    NO_KEY = "no_key"
    BAD_KEY = "bad_key"
    WRONG_KEY = "wrong_key"
    NO_CAUSATION = "no_causation"
    """It starts no saga, and does not say which intent it answers."""
    WRONG_REPLY = "wrong_reply"
    UNKNOWN_SAGA = "unknown_saga"
    UNKNOWN_INTENT = "unknown_intent"
    UNKNOWN_TOPIC = "unknown_topic"
    ID_CONFLICT = "id_conflict"
    """The same id came before, with another content."""
    KEY_TAKEN = "key_taken"
    """The saga of this key began with another trigger, of another content."""
    INFLATES = "inflates"
    """It stands for a compressed batch that inflates without measure."""
    BAD_SIGNATURE = "bad_signature"
    """Commands and replies are signed here, and it is not, or not with a key that is known."""
    TURN_FAILED = "turn_failed"
    """The code of a saga that has ended raised on it."""
    NO_INTENT_ID = "no_intent_id"
    BAD_INTENT_ID = "bad_intent_id"
    LISTENER_FAILED = "listener_failed"
    INBOX_DAMAGED = "inbox_damaged"
    """What the service keeps of it cannot be read."""
    REPLY_TOO_LARGE = "reply_too_large"
    UNSTORABLE = "unstorable"
    """The store refused all that it led to; it is kept with what the store takes of it."""


class SkipReason(StrEnum):
    """Why a record that could be read concerns nobody here."""

    OF_OTHERS = "of_others"
    """It is for a saga of another application."""
    NOT_LISTENED = "not_listened"
    """It starts nothing here, answers nothing, and concerns no saga."""
    OWN = "own"
    """A saga here has published it, and its topic is one of replies, too."""
    GONE = "gone"
    """It answers a saga of ours that this store does not have: it went back in time."""
    NOT_THERE = "not_there"
    """An event of others, whose saga was not there in time."""
    ENDED = "ended"
    """An event of others, whose saga has ended."""
    OTHER_VERSION = "other_version"
    """An event of others, to which other versions of the saga's definition listen."""


class Skip(NamedTuple):
    """What records are skipped: those of one topic and source (`ce_source`), for one reason.

    Of events that a saga listens to, and did not get, *source* is the saga's definition.
    """

    topic: str
    source: str
    reason: SkipReason

    @property
    def definition(self) -> str | None:
        """Whose sagas listen to it; None of what no saga listens to."""
        return self.source if self.reason in _REACHED_NOBODY else None


_REACHED_NOBODY: Final = frozenset(
    {SkipReason.NOT_THERE, SkipReason.ENDED, SkipReason.OTHER_VERSION}
)


class DeferralReason(StrEnum):
    EARLY = "early"
    """Its saga is not there yet."""
    EARLY_EVENT = "early_event"
    """It is an event of others, whose saga is not there yet."""
    BEHIND_DEFERRED = "behind_deferred"
    """Records that came before it wait."""
    TURN_FAILED = "turn_failed"
    """The saga's own code raised on it."""
    BEHIND_FAILED_TURN = "behind_failed_turn"
    STALLED = "stalled"
    """No worker has the saga's version."""
    CORRUPT_HISTORY = "corrupt_history"
    REPLAY_MISMATCH = "replay_mismatch"
    REPLAY_FAILED = "replay_failed"


@value
class UnhandledRecord:
    """A record that no saga has taken, byte for byte; *record_id* is 0 until the store gave one."""

    kind: UnhandledKind
    reason: str
    """A `DeadLetterReason`, `DeferralReason` or `UnreadableCode`, or that of another version."""
    message: str
    position: Position
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: Instant
    kept_at: Instant
    saga_id: SagaId | None = None
    record_id: int = 0

    @property
    def inbound(self) -> Inbound:
        return Inbound(*self.position, self.key, self.value, self.headers, self.timestamp)


@value
class Awaited:
    """A saga behind which records are deferred, and one of them: why, and since when."""

    saga_id: SagaId
    reason: str
    kept_at: Instant


@dataclass(slots=True)
class Batch:
    """Everything that commits together.

    Args:
        histories: a saga at most once, and a new saga together with its summary.
        positions: of each source the highest offset that this batch accounts for.
        timers_put_off: before the others; only where the due-index still has what was found, as
            no history is checked for them, and another worker may have moved the timer.
        timers_armed: only of sagas that have a summary.
        summaries: one of a saga without a history here only where the index has none that is newer,
            as no history is checked for it.
        timers_cleared: one that is not there is no error.
        handled: ids of unhandled records to remove.
        outgoing: what the entries say is to be published, in log order.
        relayed: backlog ids that are published by now.
        skipped: how many records more were skipped.
        pauses: rows of definitions that are paused, or go on.
        pauses_seen: the sum of changes of all such rows that the batch was decided with; None: it
            was decided without them.
        runs: of sagas that begin a new run in it, the number of the turn in which the last begins.
        snapshots_over: sagas whose snapshots are of no use behind it; one without is no error.
    """

    histories: list[HistoryAppend] = field(default_factory=list)
    positions: dict[Source, int] = field(default_factory=dict)
    timers_put_off: list[PutOffTimer] = field(default_factory=list)
    timers_armed: list[DueTimer] = field(default_factory=list)
    timers_cleared: list[TimerId] = field(default_factory=list)
    summaries: list[SagaSummary] = field(default_factory=list)
    unhandled: list[UnhandledRecord] = field(default_factory=list)
    handled: list[int] = field(default_factory=list)
    outgoing: list[Record] = field(default_factory=list)
    relayed: list[int] = field(default_factory=list)
    skipped: Mapping[Skip, int] = field(default_factory=dict)
    pauses: Sequence[DefinitionPause] = ()
    pauses_seen: int | None = None
    runs: Mapping[SagaId, int] = field(default_factory=dict)
    snapshots_over: Sequence[SagaId] = ()


@value
class Appended:
    """*backlog_id* is None where nothing is to publish, or the store itself has published it."""

    backlog_id: int | None


@value
class Backlog:
    """Entries of one batch that is not recorded as published, in log order."""

    backlog_id: int
    appended_at: Instant
    entries: Sequence[Entry]


@value
class Place:
    """A position: *offset* and all before it are accounted for, in the topic of *origin*."""

    offset: int
    origin: Origin


@value(kw_only=True)
class Rebase:
    """What an operator has accepted: where each source goes on from, and where it stood."""

    at: Instant
    reason: str
    before: Mapping[Source, int]
    after: Mapping[Source, int]


class EventStore(Protocol):
    async def now(self) -> Instant | None:
        """What its clock says, by which timers are due; None where that is the machine's own.

        Raises:
            StoreUnavailable: try again later.
        """
        return None

    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        """Record the whole batch in one durable transaction, or nothing of it.

        Raises:
            HistoryConflict: another writer was first on some history.
            PausesChanged: which definitions are paused has changed since.
            AlreadyRecorded: a position is not beyond the stored one of its source.
            RecordsRetracted: a record that was shown is not durable; only if store and bus are one.
            TopicMissing: a topic of *outgoing* is not there; only of a store that publishes itself.
            StoreUnavailable: the store cannot write; nothing was recorded.
        """

    async def load(
        self, saga_ids: Sequence[SagaId], *, is_whole: bool = False
    ) -> Mapping[SagaId, History | CorruptHistory]:
        """Histories; one not there is left out, one unreadable is answered with an error.

        Of a saga with several runs it begins with the turn that begins the last one, and what is
        before it is not read, unless it *is_whole*.

        Raises:
            StoreUnavailable: try again later.
        """

    async def tails(self, known: Mapping[SagaId, int]) -> Mapping[SagaId, History | CorruptHistory]:
        """What each saga has behind so many turns that are *known*; without what has nothing there.

        Raises:
            StoreUnavailable: try again later.
        """

    async def beginnings(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, Sequence[Entry]]:
        """The first turn that `load` gives of each; one not there or unreadable is left out.

        Raises:
            StoreUnavailable: try again later.
        """

    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        """The highest offset accounted for of each source; a source never seen is left out.

        `DAMAGED_OFFSET` stands for one that cannot be read.
        """

    async def origins(self, sources: Sequence[Source]) -> Mapping[Source, Origin]:
        """Which topics the positions belong to; a source of which nothing is known is left out."""

    async def adopt(self, places: Mapping[Source, Place]) -> None:
        """Give positions to sources that have none, and origins to those that lack one.

        A position that is there stays; one below 0 takes the new origin.
        """

    async def rebase(self, places: Mapping[Source, Place], *, reason: str, at: Instant) -> None:
        """Set positions and their origins, forward or back, and keep a `Rebase` in one transaction.

        Raises:
            StoreUnavailable: the store cannot write; nothing was changed.
        """

    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        """Timers due at or before *until*, the earliest first."""

    async def pauses(self) -> Sequence[DefinitionPause]:
        """All rows of definitions that were ever paused.

        Raises:
            StoreUnavailable: try again later.
        """

    async def backlog(
        self, *, limit: int, after: int = 0, saga_ids: Collection[SagaId] | None = None
    ) -> Sequence[Backlog]:
        """Batches not recorded as published, by id, beyond *after*; a smaller one may yet come.

        With *saga_ids* each has the entries of these sagas only, if there are any.
        """


@value(kw_only=True)
class Snapshot:
    """What a saga had come to after so many *turns*, as who had it in memory has told it.

    *version* is that of its last entry by then; *code* says who can read *state*.
    """

    saga_id: SagaId
    definition: str
    definition_version: int
    code: str
    turns: int
    version: int
    state: bytes


class SnapshotsOf(NamedTuple):
    """Whose snapshots: those of one *definition* and *version*, that one *code* has written."""

    definition: str
    version: int
    code: str


@value
class SnapshotAndTail:
    """A snapshot of a saga, and the turns behind those that it covers: it may have none."""

    snapshot: Snapshot
    tail: History


class SnapshotStore(Protocol):
    """Snapshots beside the histories: never needed, and nothing is known by them alone.

    A saga has one at most. All methods raise StoreUnavailable when the store cannot be reached.
    """

    async def load_from_snapshots(
        self, saga_ids: Sequence[SagaId]
    ) -> Mapping[SagaId, SnapshotAndTail | History | CorruptHistory]:
        """As `EventStore.load`, but of a saga with a snapshot no more than is behind that.

        A snapshot counts while it is whole, belongs to the last run, and the last turn that it
        covers is, byte for byte, the one that was stored when it was kept.
        """

    async def keep_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep each in the place of the one before; none of a turn that is not stored, or an end.

        Here it is noted what the last turn that each covers says.
        """

    async def snapshots(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, Snapshot]:
        """As they are, believed or not; one that cannot be read is left out."""

    async def drop_snapshots(self, saga_ids: Sequence[SagaId]) -> None: ...

    async def count_snapshots(self) -> Mapping[SnapshotsOf, int]:
        """How many there are, without reading what they say; those that cannot be read are not."""


class Store(EventStore, SnapshotStore, Protocol):
    """Both, over the same histories."""


@runtime_checkable
class TellsOfAppends(Protocol):
    """What a store has besides that several machines write: polling it often is not needed."""

    def appends(self, *, poll_s: float) -> AsyncGenerator[None, None]:
        """Yields at once, when others may have appended, and every *poll_s*; outlives an outage."""


class Catalogue(Protocol):
    """The read side of a store. All methods raise StoreUnavailable when it cannot be reached."""

    async def sagas(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        key: str | None = None,
        since: Instant | None = None,
        reason: str | None = None,
        shown: Mapping[str, Sequence[Json]] = NOTHING_SHOWN,
        after: SagaId | None = None,
        limit: int = 100,
    ) -> Rows[SagaSummary]:
        """Summaries in order of start, beginning after the saga *after*.

        Args:
            since: started at that moment or later.
            reason: a part of the reason.
            shown: fields that are shown, and the texts, numbers or booleans that each may have; a
                number is equal whether it is written `3` or `3.0`, a text is never a number.
        """

    async def count(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        since: Instant | None = None,
    ) -> int:
        """How many sagas there are of these; those that cannot be read are counted, too."""

    async def summaries(self, saga_ids: Sequence[SagaId]) -> Rows[SagaSummary]:
        """The summaries of these sagas; one that does not exist is left out."""

    async def paused(
        self, definition: str, *, after: SagaId | None = None, limit: int = 100
    ) -> Rows[SagaSummary]:
        """Sagas that a pause of their definition holds, in order of start, beyond *after*."""

    async def unhandled(
        self,
        *,
        kind: UnhandledKind | None = None,
        saga_id: SagaId | None = None,
        after: int = 0,
        limit: int = 100,
        values: bool = True,
    ) -> Rows[UnhandledRecord]:
        """Unhandled records in the order they were kept, beginning after the id *after*.

        Without *values*, to list them: values are None, and of a key its first KEY_BYTES_LISTED.
        """

    async def awaited(self, *, after: SagaId | None = None, limit: int = 100) -> Rows[Awaited]:
        """Sagas behind which records are deferred, in order of their ids, beyond *after*.

        A page costs the same however many records there are behind each.
        """

    async def early_events(self, *, limit: int) -> int:
        """How many events of others wait for sagas that are not there, up to *limit*."""

    async def last_unhandled(self) -> int:
        """The id of the unhandled record that was kept last; 0 where there is none."""

    async def timers(self, *, after: TimerId | None = None, limit: int = 100) -> Sequence[DueTimer]:
        """Armed timers, the earliest first, beginning after *after*; none if that is not armed."""

    async def damaged(self, *, limit: int = 100) -> Sequence[str]:
        """The rows of the store that cannot be read, in words; all others are served."""

    async def skipped(self) -> Mapping[Skip, int]:
        """How many records were skipped as long as the store is there; none is in it."""

    async def rebases(self) -> Sequence[Rebase]:
        """What operators have accepted, the first act first."""

    def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        """Every entry with its place in the log, in commit order; one turn's entries share one."""


@value(kw_only=True)
class StoreStatistics:
    sagas: Mapping[tuple[str, SagaStatus], int]
    """Unfinished sagas by definition and status; what there are none of is left out."""
    unhandled: Mapping[tuple[UnhandledKind, str], int]
    """By kind and reason, at most `UNHANDLED_COUNTED_MAX` in all."""
    backlog: int
    """Batches that are not recorded as published."""
    backlog_since: Instant | None
    timers_due: int
    timers_due_since: Instant | None


class StatisticsReader(Protocol):
    async def take(self, *, at: Instant) -> StoreStatistics:
        """Count, with *at* as the present.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
