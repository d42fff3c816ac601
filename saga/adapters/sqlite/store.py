"""The event store in an SQLite file: histories, what commits with them, and what people ask of it.

`stored_events` and `tracking` are eventsourcing's own tables: a stored event is a turn, its rowid
the place in the log. Sagas are numbered in order of start, so that those that run at the same time
share the pages that a commit writes; an originator id is that number as 32 hex digits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple, TypeAlias

from typing_extensions import override

from saga.adapters.mapper import TURN, to_entries
from saga.adapters.rows import (
    PAUSE_COLUMNS,
    PAUSED_BY_DEFINITION,
    REBASES,
    SKIPPED,
    SUMMARY_COLUMNS,
    SUMMARY_SHOWN,
    UNHANDLED_COLUMNS,
    UNHANDLED_LISTED,
    KnownSagas,
    apart,
    check_new_sagas,
    covered,
    from_pause,
    from_place,
    from_rebase,
    from_summary,
    from_summary_shown,
    from_unhandled,
    in_order,
    is_originator,
    moved,
    number_of,
    originator_of_number,
    page_read,
    readable,
    rows_read,
    saga_id_in,
    show_anything,
    skipped_name,
    timer_name,
    to_awaited,
    to_pause,
    to_rebase,
    to_skipped,
    to_summary,
    to_timer,
    to_unhandled,
    tracking_name,
    turns_of,
    where,
)
from saga.adapters.sqlite.bus import LocalBus
from saga.adapters.sqlite.conditions import is_shown, of_status
from saga.adapters.sqlite.damage import DAMAGED, backlog_row
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.histories import (
    DROP_SNAPSHOTS,
    WHOLE_HISTORIES,
    SqliteHistories,
)
from saga.adapters.sqlite.records import RecordBatch
from saga.adapters.sqlite.schema import COMPONENT, MIGRATIONS
from saga.adapters.sqlite.statements import ManyRows
from saga.adapters.sqlite.whose import STORE_FACTS, settle_whose
from saga.adapters.whose import Serves
from saga.core.events import Json
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.status import SagaStatus
from saga.errors import (
    AlreadyRecorded,
    BusUnavailable,
    HistoryConflict,
    PausesChanged,
    StoreUnavailable,
)
from saga.ports.bus import Origin, Source
from saga.ports.store import (
    DAMAGED_OFFSET,
    NOTHING_SHOWN,
    Appended,
    Awaited,
    Backlog,
    Batch,
    Catalogue,
    DeferralReason,
    DefinitionPause,
    DueTimer,
    Place,
    Rebase,
    Rows,
    SagaSummary,
    Skip,
    UnhandledKind,
    UnhandledRecord,
)

LOG_PAGE_TURNS: Final = 500

# OR FAIL: a job that fails is rolled back whole, so SQLite need not remember every page that a
# statement of many rows changes. That is a fifth to a third of the time of an insert.
_TURNS: Final = ManyRows("INSERT OR FAIL INTO stored_events VALUES {values}", 4)
_TRACKINGS: Final = ManyRows(
    "INSERT OR FAIL INTO tracking VALUES {values} "
    "ON CONFLICT (application_name) DO UPDATE SET notification_id = excluded.notification_id "
    "WHERE notification_id < excluded.notification_id",
    2,
)
_CHANGED: Final = SUMMARY_COLUMNS.removeprefix("saga_id, ")
_NEW_VALUES: Final = ", ".join(f"excluded.{column}" for column in _CHANGED.split(", "))
# One statement for new sagas, which have no number yet, and those that have one.
_SAGAS: Final = ManyRows(
    f"INSERT OR FAIL INTO saga_index (number, {SUMMARY_COLUMNS}) VALUES {{values}} "
    f"ON CONFLICT (number) DO UPDATE SET ({_CHANGED}) = ({_NEW_VALUES})",
    12,
)
_SHOWN: Final = (
    f"INSERT OR FAIL INTO saga_index (number, {SUMMARY_SHOWN}) VALUES {{values}} "
    f"ON CONFLICT (number) DO UPDATE SET ({_CHANGED}, shown) = "
    f"({_NEW_VALUES}, coalesce(excluded.shown, shown))"
)
_SAGAS_SHOWN: Final = ManyRows(_SHOWN, 13)
# Of sagas whose histories stay as they are: another worker may have taken one on meanwhile.
_SAGAS_FOUND: Final = ManyRows(f"{_SHOWN} WHERE version <= excluded.version", 13)
_NUMBERS: Final = ManyRows(
    "SELECT i.saga_id, i.number, (SELECT max(originator_version) FROM stored_events "
    "WHERE originator_id = printf('%032x', i.number)) "
    "FROM {rows} AS r CROSS JOIN saga_index AS i ON i.saga_id = r.column1",
    1,
)
_ARM: Final = ManyRows("INSERT OR REPLACE INTO timers VALUES {values}", 3)
_PUT_OFF: Final = "UPDATE timers SET due_at = ? WHERE saga = ? AND name = ? AND due_at = ?"
_CLEAR: Final = ManyRows("DELETE FROM timers WHERE (saga, name) IN {rows}", 2)
_SET_ASIDE: Final = ManyRows(
    f"INSERT INTO unhandled ({UNHANDLED_COLUMNS}) VALUES {{values}}",
    12,
)
_HANDLED: Final = ManyRows("DELETE FROM unhandled WHERE record_id IN {rows}", 1)
_SKIPPED: Final = ManyRows(
    "INSERT INTO store_facts VALUES {values} "
    "ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + excluded.value",
    2,
)
_PAUSES: Final = f"SELECT {PAUSE_COLUMNS} FROM paused_definitions"
_PAUSE_CHANGES: Final = "SELECT coalesce(sum(changes), 0) FROM paused_definitions"
_PAUSE: Final = ManyRows("INSERT OR REPLACE INTO paused_definitions VALUES {values}", 3)
_RELAYED: Final = ManyRows("DELETE FROM backlog WHERE backlog_id IN {rows}", 1)
_RUNS: Final = ManyRows("INSERT OR REPLACE INTO saga_runs VALUES {values}", 2)
_POSITIONS: Final = ManyRows(
    "SELECT application_name, notification_id FROM tracking WHERE application_name IN {rows}", 1
)
_BEGIN: Final = ManyRows("INSERT OR IGNORE INTO tracking VALUES {values}", 2)
_SET: Final = ManyRows("INSERT OR REPLACE INTO tracking VALUES {values}", 2)
_ORIGINS: Final = ManyRows("SELECT name, topic_id, cluster_id FROM sources WHERE name IN {rows}", 1)
_ADOPT: Final = ManyRows(
    "INSERT INTO sources VALUES {values} ON CONFLICT (name) DO UPDATE SET "
    "topic_id = coalesce(topic_id, excluded.topic_id), "
    "cluster_id = coalesce(cluster_id, excluded.cluster_id)",
    3,
)
_UNREAD: Final = ManyRows(
    "DELETE FROM sources WHERE name IN "
    "(SELECT application_name FROM tracking WHERE notification_id < 0 "
    "AND application_name IN {rows})",
    1,
)
_BELONG: Final = ManyRows("INSERT OR REPLACE INTO sources VALUES {values}", 3)
_REBASES: Final = "SELECT name, value FROM store_facts WHERE name GLOB ? ORDER BY name"
_SAGA_IDS: Final = ManyRows("SELECT number, saga_id FROM saga_index WHERE number IN {rows}", 1)
_TIMERS: Final = (
    "SELECT i.saga_id, t.name, t.due_at FROM timers AS t CROSS JOIN saga_index AS i "
    "ON i.number = t.saga WHERE t.due_at <= ? ORDER BY t.due_at, t.saga, t.name LIMIT ?"
)
_TIMERS_AFTER: Final = _TIMERS.replace(
    "t.due_at <= ?",
    "(t.due_at, t.saga, t.name) > (SELECT a.due_at, a.saga, a.name FROM timers AS a "
    "JOIN saga_index AS s ON s.number = a.saga WHERE s.saga_id = ? AND a.name = ?)",
)
# One step of an index a saga, however many records are deferred behind each.
_AWAITED: Final = (
    "WITH RECURSIVE sagas (saga_id, number) AS ("
    "SELECT (SELECT min(saga_id) FROM unhandled WHERE saga_id > :after), 1 UNION ALL "
    "SELECT (SELECT min(saga_id) FROM unhandled WHERE saga_id > s.saga_id), number + 1 "
    "FROM sagas AS s WHERE s.saga_id IS NOT NULL AND number < :limit) "
    "SELECT u.saga_id, u.reason, u.kept_at FROM sagas AS s CROSS JOIN unhandled AS u "
    "ON u.record_id = (SELECT min(record_id) FROM unhandled WHERE saga_id = s.saga_id)"
)
_SUMMARY: Final = f"SELECT {SUMMARY_SHOWN} FROM saga_index"
_SUMMARIES: Final = ManyRows(f"{_SUMMARY} WHERE saga_id IN {{rows}}", 1)
_FOREVER: Final = 2**63 - 1


Turn: TypeAlias = tuple[SagaId, int, bytes]
"""Its saga, its number in the history, its text."""


class _Written(NamedTuple):
    numbers: Mapping[SagaId, int]
    backlog_id: int | None
    records: Sequence[RecordBatch]


_TAKEN: Final = frozenset(
    f"SQLITE_CONSTRAINT_{what}" for what in ("UNIQUE", "PRIMARYKEY", "ROWID", "NOTNULL")
)
"""What SQLite says where a row is there already, or the one that it belongs to is gone."""


_ANY: Final = -1
"""Turns that are expected of a saga that gets none."""


class SqliteEventStore(SqliteHistories):
    """Histories in the file of *database*, which stays its maker's to close.

    Args:
        publish_through: a bus on the same database; what a batch publishes is then part of its
            commit. Without one it goes to the relay's backlog.
        serves: refuse a store of another environment or namespace; nobody is refused without.

    Raises:
        StoreTooNew: a newer version of saga wrote the file.
        StoreForeign: it serves others.
        StoreUnavailable: the file cannot be read or written, or is to be migrated first.
    """

    def __init__(
        self,
        database: SqliteDatabase,
        *,
        publish_through: LocalBus | None = None,
        serves: Serves | None = None,
    ) -> None:
        if publish_through is not None and publish_through.database is not database:
            raise ValueError("publish_through must be a bus on the same database")
        super().__init__(database)
        self._bus = publish_through
        if publish_through is not None:
            publish_through.allow_early_delivery()
        self._known = KnownSagas[tuple[int, int]]()  # turns and number
        database.migrate(COMPONENT, MIGRATIONS, may_change=False)
        if serves is not None:
            settle_whose(database, STORE_FACTS, serves)

    @override
    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        bus = self._bus
        check_new_sagas(batch)
        turns = turns_of(batch)
        try:
            placed = bus.place(batch.outgoing) if bus and batch.outgoing else []
        except BusUnavailable as error:
            raise StoreUnavailable(str(error)) from error

        def work(cursor: sqlite3.Cursor) -> _Written:
            if bus is not None:
                bus.delivery.check(batch.positions)
            numbers, last = self._write(cursor, batch, turns)
            if bus is not None and placed:
                return _Written(numbers, None, bus.append(cursor, placed))
            if batch.outgoing:
                place = (last - len(turns) + 1, last)
                return _Written(numbers, _add_to_backlog(cursor, place, at), ())
            return _Written(numbers, None, ())

        def on_commit(written: _Written) -> None:
            numbers = written.numbers
            self._known.remember(
                {saga_id: (number, numbers[saga_id]) for saga_id, number, _ in turns}
            )
            if bus is not None:
                bus.delivery.deliver(written.records)

        has_proof = bool(turns or batch.positions)
        is_stored = partial(_is_stored, batch, turns) if has_proof else None
        try:
            written = await self._database.write(
                work, is_stored=is_stored, on_commit=on_commit, is_last=True
            )
        except AlreadyRecorded:
            # The attempt is rolled back, so the stored positions tell which of them it was.
            stored = await self.positions(list(batch.positions))
            raise AlreadyRecorded(covered(batch.positions, stored)) from None
        except PausesChanged:
            raise
        except HistoryConflict as conflict:
            moved = self._database.read_now(partial(_moved, batch))
            raise HistoryConflict(moved or conflict.saga_ids) from conflict.__cause__
        return Appended(written.backlog_id)

    @override
    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        names = {tracking_name(source): source for source in sources}
        rows = self._database.read_now(
            lambda cursor: _POSITIONS.fetch(cursor, [(name,) for name in names])
        )
        return {
            names[name]: offset if type(offset) is int else DAMAGED_OFFSET for name, offset in rows
        }

    @override
    async def origins(self, sources: Sequence[Source]) -> Mapping[Source, Origin]:
        names = {tracking_name(source): source for source in sources}
        rows = self._database.read_now(
            lambda cursor: _ORIGINS.fetch(cursor, [(name,) for name in names])
        )
        return {names[name]: Origin(*ids) for name, *ids in rows}

    @override
    async def adopt(self, places: Mapping[Source, Place]) -> None:
        rows = [from_place(*each) for each in places.items()]

        def work(cursor: sqlite3.Cursor) -> None:
            _BEGIN.execute(cursor, [row[:2] for row in rows])
            _UNREAD.execute(cursor, [row[:1] for row in rows])
            _ADOPT.execute(cursor, [(name, *ids) for name, _, *ids in rows])

        await self._database.write(work)

    @override
    async def rebase(self, places: Mapping[Source, Place], *, reason: str, at: Instant) -> None:
        rows = [from_place(*each) for each in places.items()]
        before = await self.positions(list(places))
        after = {source: place.offset for source, place in places.items()}
        fact = from_rebase(Rebase(at=at, reason=reason, before=before, after=after))

        def work(cursor: sqlite3.Cursor) -> None:
            _SET.execute(cursor, [row[:2] for row in rows])
            _BELONG.execute(cursor, [(name, *ids) for name, _, *ids in rows])
            cursor.execute("INSERT INTO store_facts VALUES (?, ?)", fact)

        await self._database.write(work)

    @override
    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        return self._database.read_now(lambda cursor: _timers(cursor, until, limit))

    @override
    async def pauses(self) -> Sequence[DefinitionPause]:
        rows = self._database.read_now(lambda cursor: cursor.execute(_PAUSES).fetchall())
        return rows_read(to_pause, rows)

    @override
    async def backlog(
        self, *, limit: int, after: int = 0, saga_ids: Collection[SagaId] | None = None
    ) -> Sequence[Backlog]:
        # A turn that cannot be read cannot be published either and is left out; `load` names it.
        def query(cursor: sqlite3.Cursor) -> list[Backlog]:
            cursor.execute(
                "SELECT backlog_id, first_position, last_position, appended_at FROM backlog "
                "WHERE backlog_id > ? ORDER BY backlog_id LIMIT ?",
                (after, limit),
            )
            return [
                Backlog(
                    backlog_id,
                    Instant(appended_at),
                    _entries_between(cursor, first, last, saga_ids),
                )
                for backlog_id, first, last, appended_at in rows_read(
                    backlog_row, cursor.fetchall()
                )
            ]

        return await self._database.read(query)

    def _write(
        self, cursor: sqlite3.Cursor, batch: Batch, turns: Sequence[Turn]
    ) -> tuple[dict[SagaId, int], int]:
        """Write all of *batch* but what it publishes; the numbers of its sagas, the last place.

        AlreadyRecorded and HistoryConflict name all of the batch, and not what caused them.
        """
        if batch.pauses_seen is not None:
            [changes] = cursor.execute(_PAUSE_CHANGES).fetchone()
            if changes != batch.pauses_seen:
                raise PausesChanged
        _advance(cursor, batch.positions)
        numbers = self._find_numbers(cursor, batch)
        last = 0
        try:
            _write_summaries(cursor, batch, numbers)
            rows = [
                (originator_of_number(numbers[saga_id]), number, TURN, state)
                for saga_id, number, state in turns
            ]
            if rows:
                _TURNS.execute(cursor, rows)
                last = cursor.lastrowid or 0
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname not in _TAKEN:
                raise  # a check or trigger of somebody else: it would refuse the row again
            raise HistoryConflict(tuple(each.saga_id for each in batch.histories)) from error
        if batch.runs:
            _RUNS.execute(cursor, [(numbers[each], turn) for each, turn in batch.runs.items()])
        if batch.snapshots_over:
            DROP_SNAPSHOTS.execute(cursor, [(each,) for each in batch.snapshots_over])
        if batch.timers_put_off or batch.timers_armed or batch.timers_cleared:
            _write_timers(cursor, batch, numbers)
        _write_others(cursor, batch)
        return numbers, last

    def _find_numbers(self, cursor: sqlite3.Cursor, batch: Batch) -> dict[SagaId, int]:
        """The numbers of sagas that are not new; HistoryConflict where turns are missing."""
        expected = {history.saga_id: history.expected_turns for history in batch.histories}
        others = {*map(saga_id_in, batch.summaries), *map(saga_id_in, batch.timers_armed)}
        others.update(off.found.saga_id for off in batch.timers_put_off)
        others.update(timer_name(timer_id)[0] for timer_id in batch.timers_cleared)
        expected |= dict.fromkeys(others - expected.keys(), _ANY)
        numbers: dict[SagaId, int] = {}
        unknown: dict[SagaId, int] = {}
        known_now = self._known.get
        for saga_id, turns in expected.items():
            if not turns:
                continue
            known = known_now(saga_id)
            if known is None or known[0] < turns:
                unknown[saga_id] = turns
            else:
                numbers[saga_id] = known[1]
        if unknown:
            found: dict[SagaId, int] = {}
            for saga_id, number, turns in _NUMBERS.fetch(cursor, [(each,) for each in unknown]):
                numbers[saga_id], found[saga_id] = number, turns if type(turns) is int else 0
            if any(found.get(saga_id, 0) < turns for saga_id, turns in unknown.items()):
                raise HistoryConflict(tuple(each.saga_id for each in batch.histories))
        return numbers


class SqliteCatalogue(Catalogue):
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

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
        first = "SELECT number FROM saga_index WHERE saga_id = ?"
        conditions, values = where(
            of_status(status),
            ("definition = ?", definition),
            ("key = ?", key),
            ("started_at >= ?", since),
            ("instr(reason, ?) > 0", reason),
            (f"number > coalesce(({first}), 0)", after),
        )
        for sql, given in map(is_shown, shown, shown.values()):
            conditions += f" AND {sql}"
            values += given
        sql = (
            f"SELECT {SUMMARY_SHOWN}, number FROM saga_index WHERE {conditions} AND number > ? "
            "ORDER BY number LIMIT ?"
        )

        async def fetch(place: int | None, left: int) -> Sequence[Any]:
            return await self._fetch(sql, *values, place or 0, left)

        return await page_read(to_summary, fetch, limit)

    @override
    async def count(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        since: Instant | None = None,
    ) -> int:
        conditions, values = where(
            of_status(status), ("definition = ?", definition), ("started_at >= ?", since)
        )
        [[count]] = await self._fetch(
            f"SELECT count(*) FROM saga_index WHERE {conditions}", *values
        )
        return int(count)

    @override
    async def summaries(self, saga_ids: Sequence[SagaId]) -> Rows[SagaSummary]:
        wanted = [(saga_id,) for saga_id in saga_ids]
        rows = await self._database.read(lambda cursor: _SUMMARIES.fetch(cursor, wanted))
        return in_order(saga_ids, rows_read(to_summary, rows))

    @override
    async def paused(
        self, definition: str, *, after: SagaId | None = None, limit: int = 100
    ) -> Rows[SagaSummary]:
        sql = (
            f"SELECT {SUMMARY_SHOWN}, number FROM saga_index WHERE paused IS NOT NULL "
            f"AND {PAUSED_BY_DEFINITION} AND definition = ? AND number > coalesce(("
            "SELECT number FROM saga_index WHERE saga_id = ?), 0) AND number > ? "
            "ORDER BY number LIMIT ?"
        )

        async def fetch(place: int | None, left: int) -> Sequence[Any]:
            return await self._fetch(sql, definition, after, place or 0, left)

        return await page_read(to_summary, fetch, limit)

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
            ("record_id > ?", after), ("kind = ?", kind and kind.value), ("saga_id = ?", saga_id)
        )
        columns = UNHANDLED_COLUMNS if values else UNHANDLED_LISTED
        sql = (
            f"SELECT {columns}, record_id FROM unhandled WHERE {conditions} "
            "AND record_id > ? ORDER BY record_id LIMIT ?"
        )

        async def fetch(place: int | None, left: int) -> Sequence[Any]:
            return await self._fetch(sql, *given, place or 0, left)

        return await page_read(to_unhandled, fetch, limit)

    @override
    async def awaited(self, *, after: SagaId | None = None, limit: int = 100) -> Rows[Awaited]:
        values = {"after": after or "", "limit": limit}
        rows = await self._database.read(lambda cursor: cursor.execute(_AWAITED, values).fetchall())
        return rows_read(to_awaited, rows)

    @override
    async def early_events(self, *, limit: int) -> int:
        sql = (
            "SELECT count(*) FROM (SELECT 1 FROM unhandled "
            "WHERE saga_id IS NOT NULL AND reason = ? LIMIT ?)"
        )
        [[count]] = await self._fetch(sql, DeferralReason.EARLY_EVENT.value, limit)
        return int(count)

    @override
    async def last_unhandled(self) -> int:
        [[last]] = await self._fetch("SELECT max(record_id) FROM unhandled")
        return int(last or 0)

    @override
    async def timers(self, *, after: TimerId | None = None, limit: int = 100) -> Sequence[DueTimer]:
        if after is None:
            return await self._database.read(lambda cursor: _timers(cursor, _FOREVER, limit))
        return rows_read(to_timer, await self._fetch(_TIMERS_AFTER, *timer_name(after), limit))

    @override
    async def damaged(self, *, limit: int = 100) -> Sequence[str]:
        found: list[str] = []
        for sql, read in DAMAGED:
            found += rows_read(read, await self._fetch(sql, limit)).damaged
        return found[:limit]

    @override
    async def skipped(self) -> Mapping[Skip, int]:
        rows = await self._fetch("SELECT name, value FROM store_facts")
        return to_skipped((name, value) for name, value in rows if name.startswith(SKIPPED))

    @override
    async def rebases(self) -> Sequence[Rebase]:
        return [to_rebase(row) for row in await self._fetch(_REBASES, f"{REBASES}*")]

    @override
    async def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        def query(cursor: sqlite3.Cursor) -> list[tuple[int, SagaId, str, bytes]]:
            cursor.execute(
                "SELECT rowid, originator_id, topic, state FROM stored_events "
                "WHERE rowid > ? ORDER BY rowid LIMIT ?",
                (after, LOG_PAGE_TURNS),
            )
            return _with_saga_ids(cursor, cursor.fetchall())

        while True:
            turns = await self._database.read(query)
            for place, saga_id, topic, state in turns:
                for entry in to_entries(saga_id, topic, state):
                    yield place, entry
                after = place
            if len(turns) < LOG_PAGE_TURNS:
                return

    async def _fetch(self, sql: str, *values: object) -> list[Any]:
        def query(cursor: sqlite3.Cursor) -> list[Any]:
            return cursor.execute(sql, values).fetchall()

        return await self._database.read(query)


def _advance(cursor: sqlite3.Cursor, positions: Mapping[Source, int]) -> None:
    rows = [(tracking_name(source), offset) for source, offset in positions.items()]
    if _TRACKINGS.execute(cursor, rows) < len(rows):
        raise AlreadyRecorded(tuple(f"{topic}:{partition}" for topic, partition in positions))


def _write_summaries(cursor: sqlite3.Cursor, batch: Batch, numbers: dict[SagaId, int]) -> None:
    """Write the index rows, and add the numbers of new sagas to *numbers*."""
    of_turns, found = apart(batch)
    if show_anything(batch):
        _write_rows(cursor, _SAGAS_SHOWN, from_summary_shown, of_turns, numbers)
    else:
        _write_rows(cursor, _SAGAS, from_summary, of_turns, numbers)
    if found:
        _write_rows(cursor, _SAGAS_FOUND, from_summary_shown, found, numbers)


def _write_rows(
    cursor: sqlite3.Cursor,
    index: ManyRows,
    row_of: Callable[[SagaSummary], tuple[object, ...]],
    summaries: Mapping[SagaId, SagaSummary],
    numbers: dict[SagaId, int],
) -> None:
    begun = [saga_id for saga_id in summaries if saga_id not in numbers]
    known = numbers.get
    index.execute(cursor, [(known(saga_id), *row_of(each)) for saga_id, each in summaries.items()])
    if begun:
        assert cursor.lastrowid is not None
        numbers.update(zip(begun, count(cursor.lastrowid - len(begun) + 1)))


def _write_others(cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Write what belongs to no history: unhandled records, and what the store notes of itself."""
    if batch.unhandled:
        _SET_ASIDE.execute(cursor, [from_unhandled(record) for record in batch.unhandled])
    if batch.handled:
        _HANDLED.execute(cursor, [(record_id,) for record_id in batch.handled])
    if batch.relayed:
        _RELAYED.execute(cursor, [(backlog_id,) for backlog_id in batch.relayed])
    if batch.skipped:
        skips = batch.skipped.items()
        _SKIPPED.execute(cursor, [(skipped_name(skip), str(more)) for skip, more in skips])
    if batch.pauses:
        _PAUSE.execute(cursor, [from_pause(pause) for pause in batch.pauses])


def _write_timers(cursor: sqlite3.Cursor, batch: Batch, numbers: Mapping[SagaId, int]) -> None:
    put_off = [
        (off.due_at, numbers[found.saga_id], timer_name(found.timer_id)[1], found.due_at)
        for off in batch.timers_put_off
        if (found := off.found).saga_id in numbers
    ]
    cursor.executemany(_PUT_OFF, put_off)
    armed = [
        (numbers[timer.saga_id], timer_name(timer.timer_id)[1], timer.due_at)
        for timer in batch.timers_armed
    ]
    _ARM.execute(cursor, armed)
    cleared = [
        (numbers[saga_id], name)
        for saga_id, name in map(timer_name, batch.timers_cleared)
        if saga_id in numbers
    ]
    _CLEAR.execute(cursor, cleared)


def _add_to_backlog(cursor: sqlite3.Cursor, place: tuple[int, int], at: Instant) -> int:
    """Returns the id."""
    cursor.execute(
        "INSERT INTO backlog (first_position, last_position, appended_at) VALUES (?, ?, ?)",
        (*place, at),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _moved(batch: Batch, cursor: sqlite3.Cursor) -> tuple[SagaId, ...]:
    rows = _NUMBERS.fetch(cursor, [(history.saga_id,) for history in batch.histories])
    return moved(batch, {saga_id: turns for saga_id, _, turns in rows})


def _is_stored(batch: Batch, turns: Sequence[Turn], cursor: sqlite3.Cursor) -> bool:
    """Whether *batch* is stored, judging by its first turn or position."""
    if turns:
        rows = WHOLE_HISTORIES.fetch(cursor, [turns[0][:1]])
        return any((number, state) == turns[0][1:] for *_, number, _, state in rows)
    source, offset = next(iter(batch.positions.items()))
    return _POSITIONS.fetch(cursor, [(tracking_name(source),)]) == [(tracking_name(source), offset)]


def _timers(cursor: sqlite3.Cursor, until: int, limit: int) -> list[DueTimer]:
    return rows_read(to_timer, cursor.execute(_TIMERS, (until, limit)).fetchall())


def _entries_between(
    cursor: sqlite3.Cursor, first: int, last: int, saga_ids: Collection[SagaId] | None
) -> list[Entry]:
    cursor.execute(
        "SELECT rowid, originator_id, topic, state FROM stored_events "
        "WHERE rowid BETWEEN ? AND ? ORDER BY rowid",
        (first, last),
    )
    turns = _with_saga_ids(cursor, cursor.fetchall())
    return readable(turn[1:] for turn in turns if saga_ids is None or turn[1] in saga_ids)


def _with_saga_ids(
    cursor: sqlite3.Cursor, rows: Sequence[tuple[int, str, str, bytes]]
) -> list[tuple[int, SagaId, str, bytes]]:
    """*rows* with saga ids in place of originator ids; those of unknown sagas are left out."""
    rows = [row for row in rows if is_originator(row[1])]
    numbers = {number_of(originator_id) for _, originator_id, _, _ in rows}
    saga_ids = dict(_SAGA_IDS.fetch(cursor, [(number,) for number in numbers]))
    return [
        (place, SagaId(saga_ids[number_of(originator_id)]), topic, state)
        for place, originator_id, topic, state in rows
        if number_of(originator_id) in saga_ids
    ]
