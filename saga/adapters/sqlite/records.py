"""The local bus's records in their file: topics, partitions, offsets and what retention leaves.

A row is a batch: consecutive records that one job writes to one partition. Its *place* is topic,
partition and first offset in one integer. Rows stand in the order of writing, so that a commit
writes few pages. Offsets are given in the transaction that writes the records: without gaps.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, takewhile
from operator import attrgetter
from typing import Any, Final

from saga.adapters.headers import decode_headers
from saga.adapters.partitioner import Partitioner
from saga.adapters.sqlite.connection import as_bus_error
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.packing import (
    BATCH_RECORDS_MAX,
    UNREADABLE,
    pack,
    unpack,
)
from saga.adapters.sqlite.statements import ManyRows
from saga.contracts.cloudevents import Said
from saga.core.identity import Instant, instant
from saga.core.texts import described
from saga.core.values import value
from saga.errors import TopicMissing
from saga.ports.bus import Inbound, Origin, Record, Source, TopicSpec

OFFSET_BITS: Final = 40
PARTITION_BITS: Final = 10
PARTITIONS_MAX: Final = 1 << PARTITION_BITS
LARGE_RECORD_BYTES: Final = 16_384
"""A record with a larger value is a batch of its own, and is not kept in memory for its readers."""
EXPIRED_PER_COMMIT_MAX: Final = 100
"""Batches."""
EXPIRE_SOURCES_MAX: Final = 256
"""Partitions that are looked at for old records at a time: there may be very many."""
READ_BYTES_MAX: Final = 16 * 1024 * 1024

log = logging.getLogger(__name__)

_OFFSETS: Final = (1 << OFFSET_BITS) - 1
_BATCHES: Final = (
    "CREATE TABLE bus_batches (position INTEGER PRIMARY KEY, place INTEGER NOT NULL UNIQUE, "
    "records INTEGER NOT NULL, timestamp INTEGER NOT NULL, packed BLOB NOT NULL)"
)
_TABLES: Final = (
    (
        "CREATE TABLE bus_topics (topic_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
        "partitions INTEGER NOT NULL, retention_s INTEGER)"
    ),
    "CREATE TABLE bus_partitions (source_id INTEGER PRIMARY KEY, begin_offset INTEGER NOT NULL)",
    _BATCHES,
    (
        "CREATE TABLE bus_groups (group_name TEXT PRIMARY KEY, generation INTEGER NOT NULL) "
        "WITHOUT ROWID"
    ),
    (
        "CREATE TABLE bus_members (member_id INTEGER PRIMARY KEY AUTOINCREMENT, "
        "group_name TEXT NOT NULL, topics TEXT NOT NULL, process TEXT NOT NULL, "
        "heartbeat_at INTEGER NOT NULL, generation INTEGER NOT NULL)"
    ),
    (
        "CREATE TABLE bus_offsets (group_name TEXT, source_id INTEGER, "
        "next_offset INTEGER NOT NULL, PRIMARY KEY (group_name, source_id)) WITHOUT ROWID"
    ),
)
_INSERT: Final = ManyRows(
    "INSERT OR FAIL INTO bus_batches (place, records, timestamp, content) VALUES {values}", 4
)
# A damaged number of records is the next best one.
_BEHIND: Final = f"place + min(max(CAST(records AS INTEGER), 1), {BATCH_RECORDS_MAX})"
_BOUNDS: Final = ManyRows(
    "SELECT r.column1, max(0, coalesce(CAST(p.begin_offset AS INTEGER), 0)), "
    f"(SELECT {_BEHIND} FROM bus_batches "
    f"WHERE place >= r.column1 << {OFFSET_BITS} AND place < (r.column1 + 1) << {OFFSET_BITS} "
    "ORDER BY place DESC LIMIT 1) "
    "FROM {rows} AS r LEFT JOIN bus_partitions AS p ON p.source_id = r.column1",
    1,
)
_READ: Final = (
    "SELECT position, place, records, timestamp, content FROM bus_batches "
    "WHERE place < :end AND place >= "
    "coalesce((SELECT max(place) FROM bus_batches WHERE place BETWEEN :begin AND :place), :place) "
    "ORDER BY place LIMIT :limit"
)
_LAST_POSITION: Final = "SELECT max(position) FROM bus_batches"
_ENDS_SINCE: Final = (
    f"SELECT place >> {OFFSET_BITS}, max({_BEHIND}) FROM bus_batches WHERE position > ? "
    f"GROUP BY place >> {OFFSET_BITS}"
)
_OLDEST: Final = (
    f"SELECT {_BEHIND}, timestamp FROM bus_batches WHERE place >= ? AND place < ? "
    f"ORDER BY place LIMIT {EXPIRED_PER_COMMIT_MAX}"
)


_headers: Final = attrgetter("headers")
_value: Final = attrgetter("value")
_head: Final = attrgetter("headers.contract_name", "headers.source")
"""Of a record whose headers saga writes."""
_BEHIND_DAMAGED: Final = (
    f"SELECT coalesce((SELECT min(place) FROM bus_batches WHERE place > :place AND place < :end), "
    f"{_BEHIND}) FROM bus_batches WHERE place = :place"
)
_PARTITION_COUNT: Final = (
    f"SELECT count(*) FROM bus_partitions WHERE source_id >> {PARTITION_BITS} = ?"
)


PlacedRecord = tuple[int, Record]
"""The number of a source, and a record that was accepted for it."""


@value
class RecordBatch:
    """Consecutive records of one partition, as they were written; *first* is an offset."""

    source: Source
    first: int
    records: Sequence[Record]
    timestamp: Instant

    @property
    def end(self) -> int:
        return self.first + len(self.records)

    @property
    def is_large(self) -> bool:
        """Whether its readers are to find it in the file."""
        return len(self.records) == 1 and len(self.records[0].value or b"") > LARGE_RECORD_BYTES

    def inbound(self) -> list[Inbound]:
        topic, partition = self.source
        return [
            Inbound(topic, partition, offset, each.key, each.value, each.headers, self.timestamp)
            for offset, each in enumerate(self.records, self.first)
        ]


class RecordLog:
    """The tables of the local bus."""

    def __init__(self, database: SqliteDatabase, *, record_bytes_max: int) -> None:
        self._database = database
        self._partitioner = Partitioner(record_bytes_max=record_bytes_max)
        self._topics: dict[str, tuple[int, int]] = {}
        """Of each topic its number and its partitions."""
        self._sources: dict[int, Source] = {}
        self._source_ids: dict[Source, int] = {}
        self._ends: dict[int, int] = {}
        self._ends_epoch = -1
        self._named: set[str] = set()
        self._topics_through = 0
        """The number of the topic that was made last, of those that are known."""
        self._expired_through = 0
        """The topic that was looked at last for old records."""
        database.migrate("bus", MIGRATIONS)

    def partitions(self, cursor: sqlite3.Cursor) -> dict[str, int]:
        self._load_topics(cursor)
        return {name: partitions for name, (_, partitions) in self._topics.items()}

    def place(self, records: Sequence[Record]) -> list[PlacedRecord]:
        """Choose partitions; raises TopicMissing, MessageTooLarge or BusUnavailable."""
        self._partitioner.check(records)
        topics, choose = self._topics, self._partitioner.choose
        placed = []
        for record in records:
            topic_id, partitions = topics.get(record.topic) or self._topic(record.topic)
            placed.append((topic_id << PARTITION_BITS | choose(record, partitions), record))
        return placed

    def append(
        self, cursor: sqlite3.Cursor, placed: Sequence[PlacedRecord], *, now: Instant
    ) -> list[RecordBatch]:
        """Give offsets and write the records, in a job of the writer."""
        runs = _runs(placed)
        ends = self._current_ends(cursor, runs)
        batches, rows = [], []
        for source_id, records in runs:
            first = ends[source_id]
            ends[source_id] = first + len(records)
            batches.append(RecordBatch(self._sources[source_id], first, records, now))
            place = source_id << OFFSET_BITS | first
            rows.append((place, len(records), now, pack(records, now)))
        _INSERT.execute(cursor, rows)
        return batches

    def bounds(
        self, cursor: sqlite3.Cursor, sources: Iterable[Source]
    ) -> dict[Source, tuple[int, int]]:
        """First offset kept and next one to be written of each source; raises TopicMissing."""
        bounds = self._bounds(cursor, [self._source_id(cursor, source) for source in sources])
        return {self._sources[source_id]: found for source_id, found in bounds.items()}

    def last_position(self, cursor: sqlite3.Cursor) -> int:
        """The place in the file of the batch that was written last."""
        [last] = cursor.execute(_LAST_POSITION).fetchone()
        return int(last or 0)

    def ends_since(self, cursor: sqlite3.Cursor, position: int) -> dict[Source, int]:
        """The next offset of each source of which a batch stands behind *position*."""
        rows = cursor.execute(_ENDS_SINCE, (position,)).fetchall()
        if any(source_id not in self._sources for source_id, _ in rows):
            self._load_topics(cursor)
        known = self._sources
        return {known[at]: end - (at << OFFSET_BITS) for at, end in rows if at in known}

    def origins(self, cursor: sqlite3.Cursor, topics: Collection[str]) -> dict[str, Origin]:
        """Topics by their numbers in this very file."""
        self._load_topics(cursor)
        [file_id] = cursor.execute("SELECT file_id FROM bus_file").fetchone()
        known = self._topics
        return {name: Origin(str(known[name][0]), file_id) for name in topics if name in known}

    def read(
        self, cursor: sqlite3.Cursor, source: Source, offset: int, limit: int
    ) -> list[Inbound]:
        """Records from *offset* on: to the end of the batch with the *limit*-th, or to 16 MiB."""
        begin = self._source_id(cursor, source) << OFFSET_BITS
        places = {"begin": begin, "place": begin | offset, "end": begin + _OFFSETS + 1}
        found: list[Inbound] = []
        size = 0
        for row in cursor.execute(_READ, {**places, "limit": limit}).fetchall():
            found += [each for each in self._inbound(cursor, source, row) if each.offset >= offset]
            size += len(row[-1]) if isinstance(row[-1], bytes) else 0
            if len(found) >= limit or size > READ_BYTES_MAX:
                break
        return found

    def _inbound(self, cursor: sqlite3.Cursor, source: Source, row: Sequence[Any]) -> list[Inbound]:
        position, place, count, timestamp, content = row
        first = place & _OFFSETS
        try:
            at = _checked_time(timestamp)
            unpacked = unpack(content, count, source.topic, at)
            if count > 1 and unpacked[0] == unpacked[-1]:  # a wrong number would look like that
                self._check_count(cursor, place, count)
        except UNREADABLE as error:
            return self._unreadable(cursor, source, position, place, described(error))
        return [
            Inbound(*source, number, key, text, headers, at)
            for number, (key, text, headers) in enumerate(unpacked, first)
        ]

    def _check_count(self, cursor: sqlite3.Cursor, place: int, count: int) -> None:
        if _behind_damaged(cursor, place) != place + count:
            raise ValueError(f"it says that it has {count} records, and has not")

    def _unreadable(
        self, cursor: sqlite3.Cursor, source: Source, position: int, place: int, why: str
    ) -> list[Inbound]:
        """In the place of each record one that nobody can read: it becomes a dead letter."""
        end = _behind_damaged(cursor, place)
        text = f"bus_batches, row {position}: its records cannot be read: {why}"
        self._name(f"{source.topic}[{source.partition}]: {text}")
        return [
            Inbound(*source, number, None, text.encode(), (), Instant(0))
            for number in range(place & _OFFSETS, (place & _OFFSETS) + end - place)
        ]

    def _name(self, damage: str) -> None:
        """Log it once."""
        if damage not in self._named:
            self._named.add(damage)
            log.critical("the local bus has a damaged row: %s", damage, extra={"reason": damage})

    def committed(self, cursor: sqlite3.Cursor, group: str) -> dict[Source, int]:
        """The next offsets that *group* has committed."""
        self._load_topics(cursor)
        cursor.execute(
            "SELECT source_id, next_offset FROM bus_offsets WHERE group_name = ?", (group,)
        )
        found = {}
        for source_id, offset in cursor.fetchall():
            if source_id not in self._sources or not _is_number(offset):
                self._name(
                    f"bus_offsets, row {group}, {source_id}: its next_offset is {offset!r:.60}; "
                    "the group reads that partition from its beginning"
                )
            else:
                found[self._sources[source_id]] = offset
        return found

    def commit(self, cursor: sqlite3.Cursor, group: str, offsets: Mapping[Source, int]) -> None:
        for source, offset in offsets.items():
            row = (group, self._source_id(cursor, source), offset)
            cursor.execute("INSERT OR REPLACE INTO bus_offsets VALUES (?, ?, ?)", row)

    def create(self, cursor: sqlite3.Cursor, specs: Sequence[TopicSpec]) -> bool:
        """Make the topics that are missing; whether there was any."""
        created = False
        for spec in specs:
            if not 1 <= spec.partitions <= PARTITIONS_MAX:
                raise ValueError(f"{spec.name}: 1 to {PARTITIONS_MAX} partitions are possible")
            cursor.execute(
                "INSERT OR IGNORE INTO bus_topics (name, partitions, retention_s) VALUES (?, ?, ?)",
                (spec.name, spec.partitions, spec.retention_s),
            )
            if cursor.rowcount:
                created = True
                first = (cursor.lastrowid or 0) << PARTITION_BITS
                rows = [(first | number,) for number in range(spec.partitions)]
                cursor.executemany("INSERT INTO bus_partitions VALUES (?, 0)", rows)
        return created

    def expire(self, cursor: sqlite3.Cursor, *, now: Instant) -> bool:
        """Delete some of the batches that are too old; whether more may be left.

        A call looks at a few topics, and the next one goes on behind them.
        """
        cursor.execute(
            "SELECT topic_id, partitions, retention_s FROM bus_topics "
            "WHERE retention_s IS NOT NULL ORDER BY topic_id <= ?, topic_id",
            (self._expired_through,),
        )
        looked_at = 0
        for topic_id, partitions, retention_s in cursor.fetchall():
            if looked_at >= EXPIRE_SOURCES_MAX:
                break
            if not _is_number(retention_s):
                self._name(
                    f"bus_topics, row {topic_id}: its retention_s is {retention_s!r:.60}; all "
                    "its records are kept"
                )
                continue
            for partition in range(self._partition_count(cursor, topic_id, partitions)):
                source_id = topic_id << PARTITION_BITS | partition
                looked_at += 1
                if _expire_source(cursor, source_id, now - retention_s * 1_000_000):
                    return True
            self._expired_through = topic_id
        return False

    def _topic(self, name: str) -> tuple[int, int]:
        with as_bus_error():
            self._database.read_now(self._load_topics)
        if name not in self._topics:
            raise TopicMissing(name)
        return self._topics[name]

    def _source_id(self, cursor: sqlite3.Cursor, source: Source) -> int:
        if source not in self._source_ids:
            self._load_topics(cursor)
        if source not in self._source_ids:
            raise TopicMissing(source.topic, source.partition)
        return self._source_ids[source]

    def _bounds(
        self, cursor: sqlite3.Cursor, source_ids: Iterable[int]
    ) -> dict[int, tuple[int, int]]:
        rows = _BOUNDS.fetch(cursor, [(source_id,) for source_id in source_ids])
        return {
            source_id: (begin, begin if end is None else max(begin, end & _OFFSETS))
            for source_id, begin, end in rows
        }

    def _current_ends(
        self, cursor: sqlite3.Cursor, runs: Iterable[tuple[int, object]]
    ) -> dict[int, int]:
        """The next offsets of their sources and others, remembered for one epoch of the file."""
        epoch = self._database.epoch
        if epoch != self._ends_epoch:
            self._ends.clear()
            self._ends_epoch = epoch
        missing = {source_id for source_id, _ in runs} - self._ends.keys()
        if missing:
            bounds = self._bounds(cursor, missing)
            self._ends |= {source_id: end for source_id, (_, end) in bounds.items()}
        return self._ends

    def _load_topics(self, cursor: sqlite3.Cursor) -> None:
        """Get to know those that were made since; they are never changed, nor deleted."""
        cursor.execute(
            "SELECT name, topic_id, partitions FROM bus_topics WHERE topic_id > ? "
            "ORDER BY topic_id",
            (self._topics_through,),
        )
        for name, topic_id, stored in cursor.fetchall():
            if not cursor.connection.in_transaction:  # or else it may be rolled back
                self._topics_through = topic_id
            if not isinstance(name, str):
                self._name(f"bus_topics, row {topic_id}: its name is {name!r:.60}, no text")
                continue
            partitions = self._partition_count(cursor, topic_id, stored)
            self._topics[name] = (topic_id, partitions)
            for partition in range(partitions):
                source, source_id = Source(name, partition), topic_id << PARTITION_BITS | partition
                self._sources[source_id], self._source_ids[source] = source, source_id

    def _partition_count(self, cursor: sqlite3.Cursor, topic_id: int, stored: object) -> int:
        """As it is *stored*, or where that is damaged, as many as there are rows of them."""
        if type(stored) is int and 1 <= stored <= PARTITIONS_MAX:
            return stored
        [count] = cursor.execute(_PARTITION_COUNT, (topic_id,)).fetchone()
        self._name(
            f"bus_topics, row {topic_id}: its partitions is {stored!r:.60}, no number from 1 to "
            f"{PARTITIONS_MAX}; it has {count}, by its rows of bus_partitions"
        )
        return min(int(count), PARTITIONS_MAX)


def _behind_damaged(cursor: sqlite3.Cursor, place: int) -> int:
    """The place of the next batch, which is known where there is one: offsets have no gaps."""
    values = {"place": place, "end": (place | _OFFSETS) + 1}
    [end] = cursor.execute(_BEHIND_DAMAGED, values).fetchone()
    return int(end)


def _is_number(stored: object) -> bool:
    return type(stored) is int and stored >= 0


def _checked_time(timestamp: object) -> Instant:
    if type(timestamp) is int:
        return instant(timestamp)  # a clock may be wrong: that is no damage
    raise ValueError(f"its timestamp is {timestamp!r:.60}, no time")


def _runs(placed: Iterable[PlacedRecord]) -> list[tuple[int, list[Record]]]:
    """The records of each batch: of one source, in order, with the same head."""
    by_source: defaultdict[int, list[Record]] = defaultdict(list)
    for source_id, record in placed:
        by_source[source_id].append(record)
    return [
        (source_id, run)
        for source_id, records in by_source.items()
        for alike in _alike(records)
        for run in _cut(alike)
    ]


def _alike(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Runs of *records* with the same head; those whose headers are bytes have none."""
    are_said = {*map(type, map(_headers, records))} == {Said}
    for _, run in groupby(records, _head if are_said else _head_if_any):
        yield [*run]


def _head_if_any(record: Record) -> tuple[str, str] | None:
    said = record.headers
    return (said.contract_name, said.source) if type(said) is Said else None


def _cut(records: list[Record]) -> list[list[Record]]:
    """Batches that are not too long, and each large record in one of its own."""
    largest = max(map(len, filter(None, map(_value, records))), default=0)
    if largest <= LARGE_RECORD_BYTES and len(records) <= BATCH_RECORDS_MAX:
        return [records]
    runs = []
    for is_large, group in groupby(
        records, lambda each: len(each.value or b"") > LARGE_RECORD_BYTES
    ):
        run = [*group]
        size = 1 if is_large else BATCH_RECORDS_MAX
        runs += [run[start : start + size] for start in range(0, len(run), size)]
    return runs


def _expire_source(cursor: sqlite3.Cursor, source_id: int, keep_from: int) -> bool:
    first = source_id << OFFSET_BITS
    oldest = cursor.execute(_OLDEST, (first, first + _OFFSETS + 1)).fetchall()
    # A damaged time is as old as the next that is none.
    dated = (batch for batch in oldest if _is_number(batch[1]))
    expired = [*takewhile(lambda batch: batch[1] < keep_from, dated)]
    if expired:
        begin = expired[-1][0]
        # The newest of all stays until there is a newer one, so that no position is given twice.
        cursor.execute(
            "DELETE FROM bus_batches WHERE place >= ? AND place < ? "
            f"AND position < ({_LAST_POSITION})",
            (first, begin),
        )
        cursor.execute(
            "UPDATE bus_partitions SET begin_offset = ?1 WHERE source_id = ?2 "
            "AND begin_offset <> ?1",
            (begin & _OFFSETS, source_id),
        )
    return len(oldest) == len(expired) == EXPIRED_PER_COMMIT_MAX


def _create_tables(cursor: sqlite3.Cursor) -> None:
    for table in _TABLES:
        cursor.execute(table)


def _keep_rows(_: sqlite3.Cursor) -> None:
    """Version 2 had the rows of version 1 in another order, with an index of places."""


def _put_records_into_batches(cursor: sqlite3.Cursor) -> None:
    """Rewrite tables of one row a record; does nothing where they were made new."""
    cursor.execute("SELECT 1 FROM sqlite_master WHERE name = 'bus_records'")
    if not cursor.fetchone():
        return
    cursor.execute(_BATCHES)
    rows = cursor.connection.execute(
        "SELECT place, key, value, headers, timestamp FROM bus_records ORDER BY place"
    )
    cursor.executemany(
        "INSERT INTO bus_batches (place, records, timestamp, packed) VALUES (?, 1, ?, ?)",
        (
            (place, timestamp, pack([Record("", key, text, decode_headers(headers))], timestamp))
            for place, key, text, headers, timestamp in rows
        ),
    )
    cursor.execute("DROP TABLE bus_records")


def _name_the_file(cursor: sqlite3.Cursor) -> None:
    """Another file at the same path has other records under the same offsets."""
    cursor.execute("CREATE TABLE bus_file (file_id TEXT NOT NULL)")
    cursor.execute("INSERT INTO bus_file VALUES (?)", (secrets.token_hex(8),))


def _rename_what_batches_hold(cursor: sqlite3.Cursor) -> None:
    """Version 4 wrote batches in another way, which is still read; it finds none of ours."""
    cursor.execute("ALTER TABLE bus_batches RENAME COLUMN packed TO content")


MIGRATIONS: Final = (
    _create_tables,
    _keep_rows,
    _put_records_into_batches,
    _name_the_file,
    _rename_what_batches_hold,
)
