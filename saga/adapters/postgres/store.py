"""The event store in PostgreSQL; what a batch publishes goes to the backlog in its transaction."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from functools import partial
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final

import psycopg
from psycopg.pq.abc import PGresult
from typing_extensions import override

from saga.adapters.mapper import reading_history, reading_tail, to_entries
from saga.adapters.postgres import statements as sql
from saga.adapters.postgres._eventsourcing import CHANNEL
from saga.adapters.postgres.database import (
    PostgresDatabase,
    is_of_the_server,
    translated,
    unavailable,
)
from saga.adapters.postgres.notifier import Notifier
from saga.adapters.postgres.pipeline import Call, ints, text, texts, unescaped, uuid, uuids
from saga.adapters.postgres.schema import EVENT_STORE, prepare
from saga.adapters.postgres.whose import STORE_FACTS, settle_whose
from saga.adapters.rows import (
    COUNT_BACKLOG,
    PAUSED_BY_DEFINITION,
    REBASES,
    SKIPPED,
    SUMMARY_SHOWN,
    TURNS_READ_AT_ONCE,
    UNHANDLED_COLUMNS,
    UNHANDLED_LISTED,
    KnownSagas,
    beginnings_in,
    check_new_sagas,
    covered,
    from_place,
    from_rebase,
    in_order,
    moved,
    page_read,
    readable,
    rows_read,
    timer_name,
    to_awaited,
    to_pause,
    to_rebase,
    to_skipped,
    to_statistics,
    to_summary,
    to_timer,
    to_unhandled,
    tracking_name,
    where,
)
from saga.adapters.snapshot_rows import from_snapshot, reading_from_snapshot, to_snapshot
from saga.adapters.whose import Serves
from saga.core.events import Json
from saga.core.history import TIME_END, Entry, History
from saga.core.identity import Instant, SagaId, TimerId, is_saga_id
from saga.core.piecewise import Piecewise
from saga.core.status import SagaStatus
from saga.errors import AlreadyRecorded, CorruptHistory, HistoryConflict, PausesChanged
from saga.ports.bus import UNKNOWN_ORIGIN, Origin, Source
from saga.ports.store import (
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
    TellsOfAppends,
    UnhandledKind,
    UnhandledRecord,
)
from saga.tasks import Interleaved

LOG_PAGE_TURNS: Final = 2_000

_UNIQUE_VIOLATION: Final = "23505"
_LOCK_TIMEOUT: Final = "55P03"
_FIRST_TURN: Final = (
    "coalesce((SELECT n.turn FROM saga_runs AS n WHERE n.originator_id = s.originator_id), 1)"
)
# The upper bound is for the plan: of a range without one a third of all turns is expected to be in
# it, so that the whole table would be read.
_HISTORIES: Final = (
    "SELECT s.saga_id::text, s.originator_id::text, (SELECT i.version FROM saga_index AS i "
    "WHERE i.originator_id = s.originator_id), {first}, e.originator_version, e.topic, e.state "
    "FROM saga_ids AS s LEFT JOIN LATERAL (SELECT * FROM stored_events "
    "WHERE originator_id = s.originator_id "
    f"AND originator_version BETWEEN {{first}} AND {2**63 - 1} "
    "ORDER BY originator_version) AS e ON true "
    "WHERE s.saga_id = ANY(%s::uuid[]) ORDER BY s.saga_id, e.originator_version"
)
_LAST_RUNS: Final = _HISTORIES.format(first=_FIRST_TURN)
_WHOLE_HISTORIES: Final = _HISTORIES.format(first="1")
# As the last runs, but from the last turn on that a snapshot of it covers.
_SNAPSHOT_TURNS: Final = (
    "(SELECT p.turns FROM saga_snapshots AS p WHERE p.originator_id = s.originator_id "
    f"AND p.turns >= {_FIRST_TURN})"
)
_SNAPSHOT_OR_RUN: Final = f"coalesce({_SNAPSHOT_TURNS}, {_FIRST_TURN})"
_FROM_SNAPSHOTS: Final = _HISTORIES.format(first=_SNAPSHOT_OR_RUN).replace(
    "SELECT s.saga_id::text", f"SELECT {_SNAPSHOT_TURNS}, s.saga_id::text", 1
)
_BEGINNINGS: Final = (
    "SELECT s.saga_id::text, e.originator_version, e.topic, e.state FROM saga_ids AS s "
    "CROSS JOIN LATERAL (SELECT originator_version, topic, state FROM stored_events "
    "WHERE originator_id = s.originator_id "
    f"AND originator_version = {_FIRST_TURN} LIMIT 1) AS e WHERE s.saga_id = ANY(%s::uuid[])"
)
_TAILS: Final = (
    "SELECT r.saga_id::text, r.turns, e.originator_version, e.topic, e.state "
    "FROM unnest(%s::uuid[], %s::bigint[]) AS r (saga_id, turns) "
    "CROSS JOIN LATERAL (SELECT * FROM stored_events "
    "WHERE originator_id = (SELECT originator_id FROM saga_ids WHERE saga_id = r.saga_id) "
    f"AND originator_version BETWEEN r.turns + 1 AND {2**63 - 1}) AS e "
    "ORDER BY r.saga_id, e.originator_version"
)
_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_POSITIONS: Final = (
    "SELECT application_name, notification_id FROM notification_tracking "
    "WHERE application_name = ANY(%s::text[])"
)
_ORIGINS: Final = (
    "SELECT application_name, topic_id, cluster_id FROM notification_tracking "
    "WHERE application_name = ANY(%s::text[])"
)
_SAGA: Final = (
    "(SELECT i.saga_id::text FROM saga_index AS i WHERE i.originator_id = {}.originator_id)"
)
_TIMERS: Final = (
    f"SELECT {_SAGA.format('t')}, name, due_at FROM timers AS t WHERE due_at <= {{}} "
    "ORDER BY due_at LIMIT %s"
)
# Whatever a worker takes for the time: by the server's own no timer is early.
_DUE: Final = _TIMERS.format(f"least(%s::bigint, ({_NOW}))")
_TIMERS_LISTED: Final = _TIMERS.format("%s").replace(
    "due_at LIMIT", "due_at, originator_id, name LIMIT"
)
_TIMERS_AFTER: Final = _TIMERS_LISTED.replace(
    "due_at <= %s",
    "(due_at, originator_id, name) > (SELECT a.due_at, a.originator_id, a.name FROM timers AS a "
    "JOIN saga_ids AS s USING (originator_id) WHERE s.saga_id = %s AND a.name = %s)",
)
_BACKLOG: Final = (
    f"SELECT b.backlog_id, b.appended_at, {_SAGA.format('e')}, e.topic, e.state "
    "FROM (SELECT * FROM backlog WHERE backlog_id > %s ORDER BY backlog_id LIMIT %s) AS b "
    "LEFT JOIN LATERAL (SELECT * FROM stored_events WHERE notification_id = ANY(b.positions) "
    "ORDER BY notification_id) AS e ON true ORDER BY b.backlog_id, e.notification_id"
)
_BACKLOG_ALONE: Final = (
    "SELECT backlog_id, appended_at, NULL, NULL, NULL FROM backlog WHERE backlog_id > %s "
    "ORDER BY backlog_id LIMIT %s"
)
_BACKLOG_OF_SAGAS: Final = _BACKLOG.replace(
    "ANY(b.positions)",
    "ANY(b.positions) AND originator_id = ANY(ARRAY(SELECT originator_id FROM saga_ids "
    "WHERE saga_id = ANY(%s::uuid[])))",
)


class PostgresEventStore(EventStore, SnapshotStore, TellsOfAppends):
    """Histories in *database*, which stays its maker's to close; making one blocks.

    Args:
        make: whether to make the tables where there are none.
        may_be_away: do not connect; `prepare` is then to be awaited before anything else.
        serves: refuse a store of another environment or namespace; nobody is refused without.

    Raises:
        StoreTooNew: a newer version of saga wrote the database.
        StoreForeign: it serves others.
        StoreUnavailable: it cannot be reached, or is to be migrated first.
    """

    def __init__(
        self,
        database: PostgresDatabase,
        *,
        make: bool = True,
        serves: Serves | None = None,
        may_be_away: bool = False,
    ) -> None:
        self.database = database
        self._lock = sql.share_lock(database.address.lock_key("append"))
        self._ids = sql.OriginatorIds()
        self._known = KnownSagas[tuple[int, str]]()
        """Of each the number of turns and the originator id."""
        self._notifier = Notifier(database, CHANNEL)
        self._make = make
        self._serves = serves
        if not may_be_away:
            self._prepare()

    async def prepare(self) -> None:
        """See that the tables are there and are ours; raises as the making of one does."""
        await asyncio.to_thread(self._prepare)

    def _prepare(self) -> None:
        address = self.database.address
        prepare(address, EVENT_STORE, make=self._make)
        if self._serves is not None:
            settle_whose(address, STORE_FACTS, self._serves)

    @override
    async def now(self) -> Instant:
        [[now]] = await self.database.fetch(_NOW)
        return Instant(now)

    @override
    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        return await self.database.finish(self._append(batch, at))

    @override
    async def load(
        self, saga_ids: Sequence[SagaId], *, is_whole: bool = False
    ) -> Mapping[SagaId, History | CorruptHistory]:
        if not saga_ids:
            return {}
        query = _WHOLE_HISTORIES if is_whole else _LAST_RUNS
        rows = await self.database.fetch(query, uuids(dict.fromkeys(saga_ids)))
        histories: dict[SagaId, History | CorruptHistory] = {}
        interleaved = Interleaved(TURNS_READ_AT_ONCE)
        for (name, originator, known, first), turns in groupby(rows, key=itemgetter(0, 1, 2, 3)):
            saga_id = SagaId(name)
            numbered = (turn[4:] for turn in turns if turn[4] is not None)
            reading = reading_history(saga_id, numbered, known=known, first=first)
            history = histories[saga_id] = await interleaved.finish(reading)
            if isinstance(history, History):
                self._known.remember({saga_id: (history.turns, originator.replace("-", ""))})
        return histories

    @override
    async def tails(self, known: Mapping[SagaId, int]) -> Mapping[SagaId, History | CorruptHistory]:
        if not known:
            return {}
        rows = await self.database.fetch(_TAILS, uuids(known), ints(known.values()))
        tails: dict[SagaId, History | CorruptHistory] = {}
        interleaved = Interleaved(TURNS_READ_AT_ONCE)
        for (name, turns), behind in groupby(rows, key=itemgetter(0, 1)):
            saga_id = SagaId(name)
            reading = reading_tail(saga_id, (row[2:] for row in behind), first=turns + 1)
            tails[saga_id] = await interleaved.finish(reading)
        return tails

    @override
    async def load_from_snapshots(
        self, saga_ids: Sequence[SagaId]
    ) -> Mapping[SagaId, SnapshotAndTail | History | CorruptHistory]:
        if not saga_ids:
            return {}
        rows = await self.database.fetch(_FROM_SNAPSHOTS, uuids(dict.fromkeys(saga_ids)))
        told = dict.fromkeys(SagaId(row[1]) for row in rows if row[0] is not None)
        found = await self.database.fetch(sql.SNAPSHOTS, uuids(told)) if told else []
        kept = {row[0]: row for row in found}
        resumed: dict[SagaId, SnapshotAndTail | History | CorruptHistory] = {}
        useless: list[SagaId] = []
        interleaved = Interleaved(TURNS_READ_AT_ONCE)
        for shared, turns in groupby(rows, key=itemgetter(0, 1, 2, 3, 4)):
            covers, name, originator, known, first = shared
            numbered = [turn[5:] for turn in turns if turn[5] is not None]
            reading: Piecewise[SnapshotAndTail | History | CorruptHistory | None]
            if covers is None:
                reading = reading_history(SagaId(name), numbered, known=known, first=first)
            else:
                reading = reading_from_snapshot(kept.get(name), numbered, known=known)
            read = await interleaved.finish(reading)
            if read is None:
                useless.append(SagaId(name))
                continue
            resumed[SagaId(name)] = read
            if not isinstance(read, CorruptHistory):
                there = read.tail.turns if isinstance(read, SnapshotAndTail) else read.turns
                self._known.remember({SagaId(name): (there, originator.replace("-", ""))})
        return resumed | dict(await self.load(useless)) if useless else resumed

    @override
    async def keep_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        rows = sorted(map(from_snapshot, snapshots))
        if rows:
            await self.database.fetch(sql.KEEP_SNAPSHOTS.call(rows))

    @override
    async def snapshots(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, Snapshot]:
        if not saga_ids:
            return {}
        rows = await self.database.fetch(sql.SNAPSHOTS, uuids(saga_ids))
        found = map(to_snapshot, (row[:-1] for row in rows))
        return {each.saga_id: each for each in found if each is not None}

    @override
    async def drop_snapshots(self, saga_ids: Sequence[SagaId]) -> None:
        if saga_ids:
            await self.database.fetch(sql.DROP_SNAPSHOTS, uuids(saga_ids))

    @override
    async def count_snapshots(self) -> Mapping[SnapshotsOf, int]:
        rows = await self.database.fetch(sql.SNAPSHOT_COUNTS)
        return {SnapshotsOf(*row[:-1]): row[-1] for row in rows}

    @override
    async def beginnings(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, Sequence[Entry]]:
        if not saga_ids:
            return {}
        return beginnings_in(await self.database.fetch(_BEGINNINGS, uuids(saga_ids)))

    @override
    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        names = {tracking_name(source): source for source in sources}
        rows = await self.database.fetch(_POSITIONS, texts(names))
        return {names[unescaped(name)]: offset for name, offset in rows}

    @override
    async def origins(self, sources: Sequence[Source]) -> Mapping[Source, Origin]:
        names = {tracking_name(source): source for source in sources}
        rows = await self.database.fetch(_ORIGINS, texts(names))
        found = {names[unescaped(name)]: Origin(*ids) for name, *ids in rows}
        return {source: origin for source, origin in found.items() if origin != UNKNOWN_ORIGIN}

    @override
    async def adopt(self, places: Mapping[Source, Place]) -> None:
        rows = sorted(from_place(*each) for each in places.items())
        if rows:
            await self.database.fetch(sql.ADOPT.call(rows))

    @override
    async def rebase(self, places: Mapping[Source, Place], *, reason: str, at: Instant) -> None:
        rows = sorted(from_place(*each) for each in places.items())
        before = await self.positions(list(places))
        after = {source: place.offset for source, place in places.items()}
        fact = from_rebase(Rebase(at=at, reason=reason, before=before, after=after))

        async def is_kept() -> bool:
            return await self.database.fetch(sql.FACT_KEPT, text(fact[0])) == [(True,)]

        with translated(self.database.name):
            await self.database.commit(
                lambda: [sql.REBASE.call(rows), sql.FACT.call([fact])], has_landed=is_kept
            )

    @override
    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        return _timers(await self.database.fetch(_DUE, until, limit))

    @override
    async def pauses(self) -> Sequence[DefinitionPause]:
        rows = await self.database.fetch(sql.PAUSES)
        return rows_read(partial(to_pause, text=unescaped), rows)

    @override
    async def backlog(
        self, *, limit: int, after: int = 0, saga_ids: Collection[SagaId] | None = None
    ) -> Sequence[Backlog]:
        if saga_ids is None:
            rows = await self.database.fetch(_BACKLOG, after, limit)
        elif saga_ids:
            rows = await self.database.fetch(_BACKLOG_OF_SAGAS, after, limit, uuids(saga_ids))
        else:
            rows = await self.database.fetch(_BACKLOG_ALONE, after, limit)
        return [
            Backlog(backlog_id, Instant(appended_at), _entries_in(entries))
            for (backlog_id, appended_at), entries in groupby(rows, key=itemgetter(0, 1))
        ]

    @override
    def appends(self, *, poll_s: float) -> AsyncGenerator[None, None]:
        return self._notifier.appends(poll_s=poll_s)

    async def _append(self, batch: Batch, at: Instant) -> Appended:
        check_new_sagas(batch)
        originators, new = await self._originators(batch, at)

        def calls() -> list[Call]:
            return sql.calls_of(batch, originators, new, self._known, at=at, lock=self._lock)

        try:
            answers = await self.database.commit(
                calls, has_landed=partial(self._has_landed, batch, originators)
            )
        except psycopg.Error as error:
            raise await self._explained(error, batch) from error
        if answers is None:  # it is stored, but nothing of it is remembered
            backlog_id = await self._backlog_id(batch, originators)
        else:
            backlog_id = _backlog_id_in(answers) if batch.outgoing else None
            self._remember(batch, originators)
        if batch.histories:
            self._notifier.notify()
        return Appended(backlog_id)

    async def _originators(
        self, batch: Batch, at: Instant
    ) -> tuple[dict[SagaId, str], list[SagaId]]:
        """The originator ids of the sagas of *batch*, and those sagas that are new."""
        new = [each.saga_id for each in batch.histories if not each.expected_turns]
        originators = {saga_id: self._ids.draw(at) for saga_id in new}
        others = dict.fromkeys(timer_name(timer_id)[0] for timer_id in batch.timers_cleared)
        others |= dict.fromkeys(off.found.saga_id for off in batch.timers_put_off)
        missing = []
        for saga_id in (sql.sagas_written(batch) | others).keys() - originators:
            if known := self._known.get(saga_id):
                originators[saga_id] = known[1]
            elif is_saga_id(saga_id):
                missing.append(saga_id)
        if missing:
            for saga_id, originator in await self.database.fetch(sql.ORIGINATORS, uuids(missing)):
                originators[SagaId(saga_id)] = originator.replace("-", "")
        if gone := tuple(each for each in sql.sagas_written(batch) if each not in originators):
            raise HistoryConflict(gone)
        return originators, new

    async def _explained(self, error: psycopg.Error, batch: Batch) -> Exception:
        """What the refusal of *batch* means to the caller."""
        tables = {"stored_events", "saga_ids"}
        is_second = error.sqlstate == _UNIQUE_VIOLATION and error.diag.table_name in tables
        if error.sqlstate == sql.ALREADY_RECORDED:
            stored = await self.positions(list(batch.positions))
            return AlreadyRecorded(covered(batch.positions, stored))
        if error.sqlstate == sql.PAUSES_CHANGED:
            return PausesChanged()
        if error.sqlstate == sql.HISTORY_CONFLICT or is_second:
            # All of them, where it is not clear which it was.
            sagas = tuple(each.saga_id for each in batch.histories)
            turns = dict(await self.database.fetch(sql.TURNS, uuids(sagas)))
            return HistoryConflict(moved(batch, turns) or sagas)
        if error.sqlstate == _LOCK_TIMEOUT:
            await self.database.end_frozen()
        return unavailable(self.database.name, error) if is_of_the_server(error) else error

    async def _has_landed(self, batch: Batch, originators: sql.Originators) -> bool:
        self._known = KnownSagas()  # the server may be another one now, that has not all of it
        proof = sql.proof_of(batch, originators)
        return proof is not None and await self.database.fetch(proof) == [(True,)]

    async def _backlog_id(self, batch: Batch, originators: sql.Originators) -> int | None:
        if not batch.histories or not batch.outgoing:
            return None
        first = batch.histories[0]
        originator = uuid(originators[first.saga_id])
        backlog = await self.database.fetch(sql.BACKLOG_OF, originator, first.expected_turns + 1)
        return backlog[0][0] if backlog else None

    def _remember(self, batch: Batch, originators: sql.Originators) -> None:
        self._known.remember(
            {
                each.saga_id: (
                    each.expected_turns + len(each.turns),
                    originators[each.saga_id],
                )
                for each in batch.histories
            }
        )


def _backlog_id_in(answers: Sequence[PGresult]) -> int:
    # Of all statements only the one that writes the backlog answers with a number.
    values = (answer.get_value(0, 0) for answer in answers if answer.ntuples)
    (backlog_id,) = (value for value in values if value)
    return int.from_bytes(backlog_id)


def _entries_in(rows: Iterable[tuple[Any, ...]]) -> list[Entry]:
    entries = (row[2:] for row in rows)
    return readable((SagaId(saga_id), *rest) for saga_id, *rest in entries if saga_id is not None)


# What people and tools ask.

_SUMMARY: Final = (
    f"SELECT {SUMMARY_SHOWN.replace('saga_id', 'saga_id::text')}::text, originator_id::text "
    "FROM saga_index"
)
# Behind a row, and behind a saga.
_PLACE: Final = "greatest(%s::uuid, (SELECT originator_id FROM saga_ids WHERE saga_id = %s::uuid))"
# By the column of the table: the one of that name in the answer is text, without an index.
_IN_ORDER: Final = "saga_index.originator_id"
# The index by status leaves out completed sagas. Only such an order makes sure that it is used:
# whoever looks for a status that hardly any saga has would read all of them.
_BY_STATUS: Final = "saga_index.status, saga_index.originator_id"
_OF_STATUS_BEHIND: Final = (
    f"status <> 'completed' AND status <= %s AND (status, originator_id) > (%s, {_PLACE})"
)
_IS_SHOWN: Final = "shown -> %s::text = ANY(ARRAY(SELECT unnest(%s::text[])::jsonb))"
_SUMMARIES: Final = (
    f"{_SUMMARY} WHERE originator_id = ANY(ARRAY(SELECT originator_id FROM saga_ids "
    "WHERE saga_id = ANY(%s::uuid[])))"
)
_LOG: Final = (
    f"SELECT notification_id, {_SAGA.format('e')}, topic, state "
    "FROM stored_events AS e WHERE notification_id > %s AND notification_id <= %s "
    "ORDER BY notification_id LIMIT %s"
)
_SKIPPED: Final = f"SELECT name, value FROM store_facts WHERE starts_with(name, '{SKIPPED}')"
_REBASES: Final = "SELECT name, value FROM store_facts WHERE name LIKE %s::text ORDER BY name"
# One step of an index a saga, however many records are deferred behind each.
_NEXT_AWAITED: Final = "(SELECT {} FROM unhandled WHERE saga_id > {} ORDER BY saga_id LIMIT 1)"
_AWAITED: Final = (
    f"WITH RECURSIVE sagas AS ({_NEXT_AWAITED.format('saga_id, reason, kept_at', '%s::uuid')} "
    "UNION ALL SELECT u.* FROM sagas AS s CROSS JOIN LATERAL "
    f"{_NEXT_AWAITED.format('saga_id, reason, kept_at', 's.saga_id')} AS u) "
    "SELECT saga_id::text, reason, kept_at FROM sagas LIMIT %s"
)
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_FOR_EVER: Final = 2**63 - 1


class PostgresCatalogue(Catalogue):
    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._writers = sql.writers(database.address.lock_key("append"))

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
        conditions, values = where(
            ("definition = %s", None if definition is None else text(definition)),
            ("status = %s", text(status) if status is SagaStatus.COMPLETED else None),
            ("key = %s", None if key is None else text(key)),
            ("started_at >= %s::bigint", since),
            ("strpos(reason, %s::text) > 0", None if reason is None else text(reason)),
        )
        for field, wanted in shown.items():
            conditions += f" AND {_IS_SHOWN}"
            values += [text(field), texts(wanted)]
        behind, order = f"originator_id > {_PLACE}", _IN_ORDER
        if status is not None and status is not SagaStatus.COMPLETED:
            behind, order = _OF_STATUS_BEHIND, _BY_STATUS
            values += [text(status), text(status)]
        query = f"{_SUMMARY} WHERE {conditions} AND {behind} ORDER BY {order} LIMIT %s"

        async def fetch(place: str | None, left: int) -> Sequence[Any]:
            begin = uuid(place or _NIL), uuid(after or _NIL)
            return await self._database.fetch(query, *values, *begin, left)

        return await page_read(_summary, fetch, limit)

    @override
    async def count(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        since: Instant | None = None,
    ) -> int:
        # Only where the query says so is the index by status used: it leaves out completed sagas.
        unfinished = "" if status is SagaStatus.COMPLETED else " AND status <> 'completed'"
        conditions, values = where(
            (f"status = %s{unfinished}", None if status is None else text(status)),
            ("definition = %s", None if definition is None else text(definition)),
            ("started_at >= %s::bigint", since),
        )
        query = f"SELECT count(*) FROM saga_index WHERE {conditions}"
        [[count]] = await self._database.fetch(query, *values)
        return int(count)

    @override
    async def summaries(self, saga_ids: Sequence[SagaId]) -> Rows[SagaSummary]:
        rows = await self._database.fetch(_SUMMARIES, uuids(dict.fromkeys(saga_ids)))
        return in_order(saga_ids, rows_read(_summary, rows))

    @override
    async def paused(
        self, definition: str, *, after: SagaId | None = None, limit: int = 100
    ) -> Rows[SagaSummary]:
        query = (
            f"{_SUMMARY} WHERE paused IS NOT NULL AND {PAUSED_BY_DEFINITION} AND definition = %s "
            f"AND originator_id > {_PLACE} ORDER BY {_IN_ORDER} LIMIT %s"
        )

        async def fetch(place: str | None, left: int) -> Sequence[Any]:
            begin = uuid(place or _NIL), uuid(after or _NIL)
            return await self._database.fetch(query, text(definition), *begin, left)

        return await page_read(_summary, fetch, limit)

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
        conditions, given = where(
            ("record_id > %s", after),
            ("kind = %s", kind and text(kind)),
            ("saga_id = %s::uuid", saga_id and uuid(saga_id)),
        )
        columns = UNHANDLED_COLUMNS if values else UNHANDLED_LISTED.replace("NULL", "NULL::bytea")
        query = (
            f"SELECT {columns.replace('saga_id', 'saga_id::text')}, record_id FROM unhandled "
            f"WHERE {conditions} AND record_id > %s ORDER BY record_id LIMIT %s"
        )

        async def fetch(place: int | None, left: int) -> Sequence[Any]:
            return await self._database.fetch(query, *given, place or 0, left)

        return await page_read(_record, fetch, limit)

    @override
    async def awaited(self, *, after: SagaId | None = None, limit: int = 100) -> Rows[Awaited]:
        rows = await self._database.fetch(_AWAITED, uuid(after or _NIL), limit)
        return rows_read(_awaited, rows)

    @override
    async def early_events(self, *, limit: int) -> int:
        query = (
            "SELECT count(*) FROM (SELECT 1 FROM unhandled "
            "WHERE saga_id IS NOT NULL AND reason = %s LIMIT %s) AS waiting"
        )
        reason = text(DeferralReason.EARLY_EVENT)
        [[count]] = await self._database.fetch(query, reason, limit)
        return int(count)

    @override
    async def last_unhandled(self) -> int:
        [[last]] = await self._database.fetch("SELECT max(record_id) FROM unhandled")
        return int(last or 0)

    @override
    async def timers(self, *, after: TimerId | None = None, limit: int = 100) -> Sequence[DueTimer]:
        if after is None:
            rows = await self._database.fetch(_TIMERS_LISTED, _FOR_EVER, limit)
        else:
            saga_id, name = timer_name(after)
            if not is_saga_id(saga_id):
                return []
            rows = await self._database.fetch(_TIMERS_AFTER, uuid(saga_id), text(name), limit)
        return rows_read(_timer, rows)

    @override
    async def damaged(self, *, limit: int = 100) -> Sequence[str]:
        found: list[str] = []
        for query, read in _DAMAGED:
            found += rows_read(read, await self._database.fetch(query, limit)).damaged
        return found[:limit]

    @override
    async def skipped(self) -> Mapping[Skip, int]:
        rows = await self._database.fetch(_SKIPPED)
        return to_skipped(rows, text=unescaped)

    @override
    async def rebases(self) -> Sequence[Rebase]:
        rows = await self._database.fetch(_REBASES, text(f"{REBASES}%"))
        return [to_rebase(row, text=unescaped) for row in rows]

    @override
    async def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        # Ends at the last place that was taken when it began; nothing will appear before that.
        last = await self._settled_place()
        while True:
            rows = await self._database.fetch(_LOG, after, last, LOG_PAGE_TURNS)
            for position, saga_id, topic, state in rows:
                after = position
                if saga_id is not None:  # or else another program's, by the library
                    for entry in to_entries(SagaId(saga_id), topic, state):
                        yield position, entry
            if len(rows) < LOG_PAGE_TURNS:
                return

    async def _settled_place(self) -> int:
        rows = await self._database.fetch(sql.LAST_PLACE)
        if not rows:
            return 0
        await self._database.ended(self._writers)
        return int(rows[0][0])


def _summary(row: Sequence[Any]) -> SagaSummary:
    return to_summary(row, text=unescaped)


def _record(row: Sequence[Any]) -> UnhandledRecord:
    return to_unhandled(row, text=unescaped)


def _awaited(row: Sequence[Any]) -> Awaited:
    return to_awaited(row, text=unescaped)


def _timer(row: Sequence[Any]) -> DueTimer:
    return to_timer(row, text=unescaped)


def _timers(rows: Iterable[Sequence[Any]]) -> list[DueTimer]:
    return sorted(rows_read(_timer, rows), key=attrgetter("due_at", "timer_id"))


_KNOWN_STATUSES: Final = ", ".join(f"'{status}'" for status in SagaStatus)
_LISTED: Final = (
    f"SELECT {UNHANDLED_LISTED.replace('NULL', 'NULL::bytea').replace('saga_id', 'saga_id::text')}"
    ", record_id FROM unhandled"
)
_DAMAGED: Final[Sequence[tuple[str, Callable[[Sequence[Any]], Any]]]] = (
    (
        (
            f"{_SUMMARY} WHERE status NOT IN ({_KNOWN_STATUSES}) OR definition_version < 0 "
            f"OR version < 0 OR started_at NOT BETWEEN 0 AND {TIME_END - 1} "
            f"OR updated_at NOT BETWEEN 0 AND {TIME_END - 1} LIMIT %s"
        ),
        _summary,
    ),
    (f"{_LISTED} ORDER BY record_id LIMIT %s::bigint * 1000", _record),
    (
        (
            f"SELECT coalesce({_SAGA.format('t')}, 'no saga'), name, due_at FROM timers AS t "
            f"WHERE due_at NOT BETWEEN 0 AND {TIME_END - 1} OR {_SAGA.format('t')} IS NULL LIMIT %s"
        ),
        _timer,
    ),
)


# What is counted.

# The index by status has all but completed sagas, and is used only where the query says so.
_SAGAS_COUNTED: Final = (
    "SELECT definition, status, count(*) FROM saga_index WHERE status <> 'completed' "
    "AND status = ANY(%s::text[]) GROUP BY definition, status"
)
_UNHANDLED_COUNTED: Final = (
    "SELECT kind, reason, count(*) FROM "
    "(SELECT kind, reason FROM unhandled LIMIT %s) AS few GROUP BY kind, reason"
)
_TIMERS_COUNTED: Final = "SELECT count(*), min(due_at) FROM timers WHERE due_at <= %s"


class PostgresStatistics(StatisticsReader):
    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    @override
    async def take(self, *, at: Instant) -> StoreStatistics:
        fetch = self._database.fetch
        sagas = await fetch(_SAGAS_COUNTED, texts(UNFINISHED))
        unhandled = await fetch(_UNHANDLED_COUNTED, UNHANDLED_COUNTED_MAX)
        [backlog] = await fetch(COUNT_BACKLOG)
        [timers_due] = await fetch(_TIMERS_COUNTED, at)
        return to_statistics(sagas, unhandled, backlog, timers_due)
