"""Store, catalogue and statistics in memory, with the promises of the durable ones.

The same calls in the same order leave the same state.
"""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter

import orjson
from typing_extensions import override

from saga.adapters.memory.bus import MemoryBus
from saga.adapters.rows import BY_DEFINITION, check_new_sagas, covered
from saga.core.events import Json
from saga.core.history import Entry, History, RecordedTurn
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.status import SagaStatus
from saga.errors import AlreadyRecorded, CorruptHistory, HistoryConflict, PausesChanged
from saga.ports.bus import UNKNOWN_ORIGIN, Origin, Source
from saga.ports.store import (
    KEY_BYTES_LISTED,
    NOTHING_SHOWN,
    UNFINISHED,
    UNHANDLED_COUNTED_MAX,
    Appended,
    Awaited,
    Backlog,
    Batch,
    Catalogue,
    DeferralReason,
    DefinitionPause,
    DueTimer,
    EventStore,
    Place,
    Rebase,
    Rows,
    SagaSummary,
    Skip,
    Snapshot,
    SnapshotAndTail,
    SnapshotsOf,
    SnapshotStore,
    StatisticsReader,
    StoreStatistics,
    UnhandledKind,
    UnhandledRecord,
)


class MemoryEventStore(EventStore, SnapshotStore):
    """With *publish_through* a batch is published as it is appended, else it becomes backlog."""

    def __init__(self, *, publish_through: MemoryBus | None = None) -> None:
        self._bus = publish_through
        self._histories: dict[SagaId, History] = {}
        self._runs: dict[SagaId, int] = {}
        """Of sagas with several runs, in which of their turns the last begins."""
        self._positions: dict[Source, int] = {}
        self._origins: dict[Source, Origin] = {}
        self._timers: dict[TimerId, DueTimer] = {}
        self._due: list[tuple[Instant, TimerId]] = []
        self._backlog: dict[int, Backlog] = {}
        self._pauses: dict[str, DefinitionPause] = {}
        self._snapshots: dict[SagaId, tuple[Snapshot, RecordedTurn]] = {}
        """Each with the last turn that it covers."""
        self._unhandled_given = 0
        self._backlog_given = 0
        self._last_place = 0
        # For the catalogue.
        self.rebases: list[Rebase] = []
        self.log: list[tuple[int, Entry]] = []
        self.summaries: dict[SagaId, SagaSummary] = {}
        self.unhandled: dict[int, UnhandledRecord] = {}
        self.skipped: Counter[Skip] = Counter()

    @override
    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        await asyncio.sleep(0)
        self._check(batch)
        if self._bus is not None:
            self._bus.append(batch.outgoing)
        self._apply(batch)
        await self.drop_snapshots(batch.snapshots_over)
        if self._bus is not None or not batch.outgoing:
            return Appended(None)
        self._backlog_given += 1
        entries = [entry for history in batch.histories for entry in history.entries]
        self._backlog[self._backlog_given] = Backlog(self._backlog_given, at, entries)
        return Appended(self._backlog_given)

    @override
    async def load(
        self, saga_ids: Sequence[SagaId], *, is_whole: bool = False
    ) -> Mapping[SagaId, History | CorruptHistory]:
        await asyncio.sleep(0)
        found = {each: self._histories[each] for each in saga_ids if each in self._histories}
        return {
            saga_id: History(
                history.recorded[0 if is_whole else self._runs.get(saga_id, 1) - 1 :],
                turns=history.turns,
            )
            for saga_id, history in found.items()
        }

    @override
    async def tails(self, known: Mapping[SagaId, int]) -> Mapping[SagaId, History | CorruptHistory]:
        await asyncio.sleep(0)
        return {
            saga_id: History(self._histories[saga_id].recorded[turns:], turns=self._turns(saga_id))
            for saga_id, turns in known.items()
            if self._turns(saga_id) > turns
        }

    @override
    async def beginnings(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, Sequence[Entry]]:
        known, runs = self._histories, self._runs
        return {
            each: known[each].recorded[runs.get(each, 1) - 1].entries
            for each in saga_ids
            if each in known
        }

    @override
    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        return {source: self._positions[source] for source in sources if source in self._positions}

    @override
    async def origins(self, sources: Sequence[Source]) -> Mapping[Source, Origin]:
        return {source: self._origins[source] for source in sources if source in self._origins}

    @override
    async def adopt(self, places: Mapping[Source, Place]) -> None:
        for source, place in places.items():
            is_unread = self._positions.setdefault(source, place.offset) < 0
            known = UNKNOWN_ORIGIN if is_unread else self._origins.get(source, UNKNOWN_ORIGIN)
            self._origins[source] = known.filled(place.origin)

    @override
    async def rebase(self, places: Mapping[Source, Place], *, reason: str, at: Instant) -> None:
        before = await self.positions(list(places))
        after = {source: place.offset for source, place in places.items()}
        self.rebases.append(Rebase(at=at, reason=reason, before=before, after=after))
        self._positions.update(after)
        self._origins.update((source, place.origin) for source, place in places.items())

    @override
    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        return [timer for timer in self.timers(limit) if timer.due_at <= until]

    @override
    async def pauses(self) -> Sequence[DefinitionPause]:
        await asyncio.sleep(0)
        return list(self._pauses.values())

    @override
    async def backlog(
        self, *, limit: int, after: int = 0, saga_ids: Collection[SagaId] | None = None
    ) -> Sequence[Backlog]:
        later = (batch for batch in self._backlog.values() if batch.backlog_id > after)
        if saga_ids is None:
            return list(islice(later, limit))
        return [
            replace(batch, entries=[each for each in batch.entries if each.saga_id in saga_ids])
            for batch in islice(later, limit)
        ]

    @override
    async def load_from_snapshots(
        self, saga_ids: Sequence[SagaId]
    ) -> Mapping[SagaId, SnapshotAndTail | History | CorruptHistory]:
        loaded = await self.load(saga_ids)
        return {saga_id: self._resumed(saga_id) or history for saga_id, history in loaded.items()}

    @override
    async def keep_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        await asyncio.sleep(0)
        for each in snapshots:
            summary = self.summaries.get(each.saga_id)
            has_ended = summary is not None and summary.status.is_ended
            if self._turns(each.saga_id) >= each.turns and not has_ended:
                covered = self._histories[each.saga_id].recorded[each.turns - 1]
                self._snapshots[each.saga_id] = (each, covered)

    @override
    async def snapshots(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, Snapshot]:
        known = self._snapshots
        return {saga_id: known[saga_id][0] for saga_id in saga_ids if saga_id in known}

    @override
    async def drop_snapshots(self, saga_ids: Sequence[SagaId]) -> None:
        for saga_id in saga_ids:
            self._snapshots.pop(saga_id, None)

    @override
    async def count_snapshots(self) -> Mapping[SnapshotsOf, int]:
        kept = (snapshot for snapshot, _ in self._snapshots.values())
        return Counter(SnapshotsOf(e.definition, e.definition_version, e.code) for e in kept)

    def history(self, saga_id: SagaId) -> list[Entry]:
        """Empty where there is none."""
        return list(self._histories.get(saga_id, ()))

    def timers(self, limit: int, after: TimerId | None = None) -> list[DueTimer]:
        """The earliest first, beginning after the timer *after*."""
        first = 0
        if after is not None:
            timer = self._timers.get(after)
            first = self._due.index((timer.due_at, after)) + 1 if timer else len(self._due)
        return [self._timers[timer_id] for _, timer_id in self._due[first : first + limit]]

    def _check(self, batch: Batch) -> None:
        check_new_sagas(batch)
        changes = sum(row.changes for row in self._pauses.values())
        if batch.pauses_seen not in {None, changes}:
            raise PausesChanged
        reached = covered(batch.positions, self._positions)
        if reached:
            raise AlreadyRecorded(reached)
        moved = [
            history.saga_id
            for history in batch.histories
            if self._turns(history.saga_id) != history.expected_turns
        ]
        if moved:
            raise HistoryConflict(tuple(moved))

    def _index(self, summary: SagaSummary) -> None:
        before = self.summaries.get(summary.saga_id)
        if before is not None and summary.version < before.version:
            return  # another worker has taken the saga on meanwhile
        if before is not None and summary.shown is None and before.shown is not None:
            summary = replace(summary, shown=before.shown)
        self.summaries[summary.saga_id] = summary

    def _apply(self, batch: Batch) -> None:
        for history in batch.histories:
            stored = self._histories.setdefault(history.saga_id, History())
            for turn in history.turns:
                stored.add(turn)
                self._last_place += 1
                self.log.extend((self._last_place, entry) for entry in turn)
        self._runs.update(batch.runs)
        self._positions.update(batch.positions)
        for summary in batch.summaries:
            self._index(summary)
        for off in batch.timers_put_off:
            if self._timers.get(off.found.timer_id) == off.found:
                self._arm(replace(off.found, due_at=off.due_at))
        for timer in batch.timers_armed:
            self._arm(timer)
        for timer_id in batch.timers_cleared:
            self._clear(timer_id)
        for record in batch.unhandled:
            self._unhandled_given += 1
            self.unhandled[self._unhandled_given] = replace(record, record_id=self._unhandled_given)
        for record_id in batch.handled:
            self.unhandled.pop(record_id, None)
        for backlog_id in batch.relayed:
            self._backlog.pop(backlog_id, None)
        self.skipped.update(batch.skipped)
        self._pauses |= {row.definition: row for row in batch.pauses}

    def _resumed(self, saga_id: SagaId) -> SnapshotAndTail | None:
        snapshot, covered = self._snapshots.get(saga_id, (None, None))
        recorded = self._histories[saga_id].recorded
        if snapshot is None or snapshot.turns < self._runs.get(saga_id, 1):
            return None
        if snapshot.turns > len(recorded) or recorded[snapshot.turns - 1] != covered:
            return None
        if covered.version + len(covered) - 1 != snapshot.version:
            return None
        return SnapshotAndTail(snapshot, History(recorded[snapshot.turns :], turns=len(recorded)))

    def _turns(self, saga_id: SagaId) -> int:
        history = self._histories.get(saga_id)
        return 0 if history is None else history.turns

    def _arm(self, timer: DueTimer) -> None:
        self._clear(timer.timer_id)
        self._timers[timer.timer_id] = timer
        insort(self._due, (timer.due_at, timer.timer_id))

    def _clear(self, timer_id: TimerId) -> None:
        timer = self._timers.pop(timer_id, None)
        if timer is not None:
            self._due.remove((timer.due_at, timer_id))


class MemoryCatalogue(Catalogue):
    def __init__(self, store: MemoryEventStore) -> None:
        self._store = store

    @override
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
        ids = list(self._store.summaries)
        start = ids.index(after) + 1 if after in self._store.summaries else 0
        found = (self._store.summaries[saga_id] for saga_id in ids[start:])
        matching = (
            summary
            for summary in found
            if status in {None, summary.status}
            and definition in {None, summary.definition}
            and key in {None, summary.key}
            and (since is None or summary.started_at >= since)
            and (reason is None or reason in (summary.reason or ""))
            and (not shown or _shows(summary, shown))
        )
        return Rows(islice(matching, limit))

    @override
    async def count(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        since: Instant | None = None,
    ) -> int:
        every = sys.maxsize
        found = await self.sagas(status=status, definition=definition, since=since, limit=every)
        return len(found)

    @override
    async def summaries(self, saga_ids: Sequence[SagaId]) -> Rows[SagaSummary]:
        known = self._store.summaries
        return Rows(known[each] for each in dict.fromkeys(saga_ids) if each in known)

    @override
    async def paused(
        self, definition: str, *, after: SagaId | None = None, limit: int = 100
    ) -> Rows[SagaSummary]:
        found = await self.sagas(definition=definition, after=after, limit=sys.maxsize)
        held = (each for each in found if each.paused in BY_DEFINITION)
        return Rows(islice(held, limit))

    @override
    async def unhandled(
        self,
        *,
        kind: UnhandledKind | None = None,
        saga_id: SagaId | None = None,
        after: int = 0,
        limit: int = 100,
        values: bool = True,
    ) -> Rows[UnhandledRecord]:
        matching = (
            record
            for record in self._store.unhandled.values()
            if record.record_id > after
            and kind in {None, record.kind}
            and saga_id in {None, record.saga_id}
        )
        found = Rows(islice(matching, limit))
        return found if values else Rows(_listed(record) for record in found)

    @override
    async def awaited(self, *, after: SagaId | None = None, limit: int = 100) -> Rows[Awaited]:
        behind: dict[SagaId, Awaited] = {}
        for record in self._store.unhandled.values():
            if record.saga_id is not None and record.saga_id > (after or ""):
                found = Awaited(record.saga_id, record.reason, record.kept_at)
                behind.setdefault(record.saga_id, found)
        return Rows(behind[saga_id] for saga_id in sorted(behind)[:limit])

    @override
    async def early_events(self, *, limit: int) -> int:
        reasons = [record.reason for record in self._store.unhandled.values() if record.saga_id]
        return min(limit, reasons.count(DeferralReason.EARLY_EVENT))

    @override
    async def last_unhandled(self) -> int:
        return max(self._store.unhandled, default=0)

    @override
    async def timers(self, *, after: TimerId | None = None, limit: int = 100) -> Sequence[DueTimer]:
        return self._store.timers(limit, after)

    @override
    async def damaged(self, *, limit: int = 100) -> Sequence[str]:
        return []

    @override
    async def skipped(self) -> Mapping[Skip, int]:
        return dict(self._store.skipped)

    @override
    async def rebases(self) -> Sequence[Rebase]:
        return list(self._store.rebases)

    @override
    async def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        log = self._store.log
        for place, entry in log[bisect_right(log, after, key=itemgetter(0)) :]:
            yield place, entry
        await asyncio.sleep(0)


class MemoryStatistics(StatisticsReader):
    def __init__(self, store: MemoryEventStore) -> None:
        self._store = store

    @override
    async def take(self, *, at: Instant) -> StoreStatistics:
        store = self._store
        sagas = (row for row in store.summaries.values() if row.status in UNFINISHED)
        unhandled = islice(store.unhandled.values(), UNHANDLED_COUNTED_MAX)
        backlog = await store.backlog(limit=sys.maxsize)
        due = await store.due_timers(until=at, limit=sys.maxsize)
        return StoreStatistics(
            sagas=Counter((row.definition, row.status) for row in sagas),
            unhandled=Counter((record.kind, record.reason) for record in unhandled),
            backlog=len(backlog),
            backlog_since=min((batch.appended_at for batch in backlog), default=None),
            timers_due=len(due),
            timers_due_since=due[0].due_at if due else None,
        )


def _shows(summary: SagaSummary, shown: Mapping[str, Sequence[Json]]) -> bool:
    fields = orjson.loads(summary.shown or "{}")
    return all(
        any(
            isinstance(value := orjson.loads(each), bool) is isinstance(fields[field], bool)
            and value == fields[field]
            for each in values
        )
        if field in fields
        else False
        for field, values in shown.items()
    )


def _listed(record: UnhandledRecord) -> UnhandledRecord:
    key = None if record.key is None else record.key[:KEY_BYTES_LISTED]
    return replace(record, key=key, value=None)
