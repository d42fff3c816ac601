"""The local bus's records in their file: topics, partitions, offsets and what retention leaves.

A record's *place* is topic, partition and offset packed into one integer. Rows stand in the order
in which they were written, so that a commit writes few pages however many topics it concerns; an
index of places, which is small, finds the rows of a partition. Offsets are given inside the
transaction that writes the records: unique and without gaps, however many processes publish.

Used by the writer thread (`append`, `expire`, `create`) and by readers; holds no connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from saga.adapters.headers import decode_headers, encode_headers
from saga.adapters.partitioner import partition_of
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.statements import ManyRows
from saga.core.identity import Instant
from saga.errors import MessageTooLarge, RecordsRetracted, TopicMissing
from saga.ports.bus import Inbound, Record, Source, TopicSpec

OFFSET_BITS: Final = 40
PARTITION_BITS: Final = 10
PARTITIONS_MAX: Final = 1 << PARTITION_BITS
EXPIRED_PER_COMMIT_MAX: Final = 500
READ_BYTES_MAX: Final = 16 * 1024 * 1024
DELIVERED_BYTES_MAX: Final = 16_384
"""Larger records are not kept in memory: their readers find them in the file."""

_OFFSETS: Final = (1 << OFFSET_BITS) - 1
_TABLES: Final = (
    (
        "CREATE TABLE bus_topics (topic_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
        "partitions INTEGER NOT NULL, retention_s INTEGER)"
    ),
    "CREATE TABLE bus_partitions (source_id INTEGER PRIMARY KEY, begin_offset INTEGER NOT NULL)",
    (
        "CREATE TABLE bus_records (place INTEGER PRIMARY KEY, key BLOB, value BLOB, "
        "headers BLOB NOT NULL, timestamp INTEGER NOT NULL)"
    ),
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
_IN_ORDER_OF_WRITING: Final = (
    "ALTER TABLE bus_records RENAME TO bus_records_by_partition",
    (
        "CREATE TABLE bus_records (position INTEGER PRIMARY KEY, place INTEGER NOT NULL, key BLOB, "
        "value BLOB, headers BLOB NOT NULL, timestamp INTEGER NOT NULL)"
    ),
    (
        "INSERT INTO bus_records (place, key, value, headers, timestamp) "
        "SELECT place, key, value, headers, timestamp FROM bus_records_by_partition "
        "ORDER BY timestamp, place"
    ),
    "DROP TABLE bus_records_by_partition",
    "CREATE UNIQUE INDEX bus_records_by_place ON bus_records (place)",
)
_INSERT: Final = ManyRows(
    "INSERT OR FAIL INTO bus_records (place, key, value, headers, timestamp) VALUES {values}", 5
)
_BOUNDS: Final = ManyRows(
    "SELECT r.column1, p.begin_offset, (SELECT max(place) FROM bus_records "
    f"WHERE place >= r.column1 << {OFFSET_BITS} AND place < (r.column1 + 1) << {OFFSET_BITS}) "
    "FROM {rows} AS r JOIN bus_partitions AS p ON p.source_id = r.column1",
    1,
)
_READ: Final = (
    "SELECT place, key, value, headers, timestamp FROM bus_records "
    "WHERE place >= ? AND place < ? ORDER BY place LIMIT ?"
)

Row = tuple[int, bytes | None, bytes | None, bytes, int]
"""place, key, value, headers, timestamp."""
EncodedRecord = tuple[int, bytes, Record]
"""A record that is ready to be written: its source's number, its headers' text, itself."""


class Topic(NamedTuple):
    """A topic as it was created."""

    topic_id: int
    name: str
    partitions: int
    retention_s: int | None


class AppendedRecords(NamedTuple):
    """What `append` wrote: the rows in the order of the records."""

    encoded: Sequence[EncodedRecord]
    rows: Sequence[Row]


class RecordLog:
    """The tables of the local bus."""

    def __init__(self, database: SqliteDatabase, *, record_bytes_max: int) -> None:
        self._database = database
        self._record_bytes_max = record_bytes_max
        self._topics: dict[str, Topic] = {}
        self._sources: dict[int, Source] = {}
        self._ends: dict[int, int] = {}
        self._ends_epoch = -1
        self._unkeyed = 0
        database.migrate("bus", (_create_tables, _put_records_in_order))

    def topics(self, names: Iterable[str]) -> dict[str, Topic]:
        """Those of the topics that exist."""
        wanted = set(names)
        if not wanted <= self._topics.keys():
            self._database.read_now(self._load_topics)
        return {name: self._topics[name] for name in wanted if name in self._topics}

    def source(self, source_id: int) -> Source:
        """Topic and partition of a *source_id*."""
        return self._sources[source_id]

    def source_id(self, source: Source) -> int:
        """The number of topic and partition.

        Raises:
            TopicMissing: there is no such partition.
        """
        topic = self.topics([source.topic]).get(source.topic)
        if topic is None or not 0 <= source.partition < topic.partitions:
            raise TopicMissing(source.topic, source.partition)
        return topic.topic_id << PARTITION_BITS | source.partition

    def _topic(self, name: str) -> Topic:
        topic = self.topics([name]).get(name)
        if topic is None:
            raise TopicMissing(name)
        return topic

    def encode(self, records: Sequence[Record]) -> list[EncodedRecord]:
        """Choose partitions and encode headers; on the caller's thread, outside any transaction.

        Raises:
            TopicMissing: a topic or partition does not exist.
            MessageTooLarge: a record exceeds the limit.
        """
        topics, largest = self._topics, self._record_bytes_max
        encoded: list[EncodedRecord] = []
        for record in records:
            topic = topics.get(record.topic) or self._topic(record.topic)
            topic_id, _, partitions, _ = topic
            key, value = record.key, record.value
            if record.partition is not None:
                source_id = self.source_id(Source(record.topic, record.partition))
            elif key is not None:
                source_id = topic_id << PARTITION_BITS | partition_of(key, partitions)
            else:
                self._unkeyed += 1
                source_id = topic_id << PARTITION_BITS | self._unkeyed % partitions
            headers = encode_headers(record.headers)
            size = len(headers) + (len(value) if value else 0) + (len(key) if key else 0)
            if size > largest:
                raise MessageTooLarge(
                    f"a record of {size} bytes on {record.topic} exceeds the limit of {largest}"
                )
            encoded.append((source_id, headers, record))
        return encoded

    def append(
        self, cursor: sqlite3.Cursor, encoded: Sequence[EncodedRecord], *, now: Instant
    ) -> AppendedRecords:
        """Give offsets and write the rows; part of a job of the writer."""
        ends = self._current_ends(cursor, encoded)
        rows: list[Row] = []
        for source_id, headers, record in encoded:
            offset = ends[source_id]
            ends[source_id] = offset + 1
            place = source_id << OFFSET_BITS | offset
            rows.append((place, record.key, record.value, headers, now))
        _INSERT.execute(cursor, rows)
        return AppendedRecords(encoded, rows)

    def bounds(
        self, cursor: sqlite3.Cursor, source_ids: Iterable[int]
    ) -> dict[int, tuple[int, int]]:
        """Of each source the first offset kept and the next one to be written."""
        rows = _BOUNDS.fetch(cursor, [(source_id,) for source_id in source_ids])
        return {
            source_id: (begin, begin if last is None else max(begin, (last & _OFFSETS) + 1))
            for source_id, begin, last in rows
        }

    def read(
        self, cursor: sqlite3.Cursor, source_id: int, offset: int, limit: int
    ) -> list[Inbound]:
        """At most *limit* records of a source from *offset* on; fewer where they are large."""
        first = source_id << OFFSET_BITS
        cursor.execute(_READ, (first | offset, first + _OFFSETS + 1, limit))
        topic, partition = self._sources[source_id]
        records: list[Inbound] = []
        size = 0
        for place, key, value, headers, timestamp in cursor:
            records.append(
                Inbound(
                    topic,
                    partition,
                    place & _OFFSETS,
                    key,
                    value,
                    decode_headers(headers),
                    Instant(timestamp),
                )
            )
            size += len(value or b"")
            if size > READ_BYTES_MAX:
                break
        return records

    def create(self, cursor: sqlite3.Cursor, specs: Sequence[TopicSpec]) -> bool:
        """Make the topics that are not there; whether there was any."""
        before = cursor.execute("SELECT count(*) FROM bus_topics").fetchone()[0]
        for spec in specs:
            if not 1 <= spec.partitions <= PARTITIONS_MAX:
                raise ValueError(f"{spec.name}: 1 to {PARTITIONS_MAX} partitions are possible")
            cursor.execute(
                "INSERT INTO bus_topics (name, partitions, retention_s) VALUES (?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                (spec.name, spec.partitions, spec.retention_s),
            )
            cursor.execute(
                "WITH RECURSIVE p(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM p) "
                "INSERT OR IGNORE INTO bus_partitions "
                f"SELECT t.topic_id << {PARTITION_BITS} | n, 0 FROM bus_topics AS t, "
                "(SELECT n FROM p LIMIT ?) WHERE name = ? AND n < partitions",
                (spec.partitions, spec.name),
            )
        return bool(cursor.execute("SELECT count(*) FROM bus_topics").fetchone()[0] > before)

    def expire(self, cursor: sqlite3.Cursor, *, now: Instant) -> bool:
        """Delete some records that are older than their topic keeps; whether more are left."""
        cursor.execute("SELECT * FROM bus_topics WHERE retention_s IS NOT NULL")
        for topic in [Topic(*row) for row in cursor.fetchall()]:
            assert topic.retention_s is not None
            keep_from = now - topic.retention_s * 1_000_000
            for partition in range(topic.partitions):
                source_id = topic.topic_id << PARTITION_BITS | partition
                if _expire_source(cursor, source_id, keep_from):
                    return True
        return False

    def _current_ends(
        self, cursor: sqlite3.Cursor, encoded: Sequence[EncodedRecord]
    ) -> dict[int, int]:
        """The next offset of at least these sources, remembered until another writer was there."""
        epoch = self._database.epoch
        if epoch != self._ends_epoch:
            self._ends.clear()
            self._ends_epoch = epoch
        missing = {source_id for source_id, _, _ in encoded} - self._ends.keys()
        if missing:
            for source_id, (_, end) in self.bounds(cursor, missing).items():
                self._ends[source_id] = end
        return self._ends

    def _load_topics(self, cursor: sqlite3.Cursor) -> None:
        for row in cursor.execute("SELECT * FROM bus_topics").fetchall():
            topic = Topic(*row)
            self._topics[topic.name] = topic
            for partition in range(topic.partitions):
                source_id = topic.topic_id << PARTITION_BITS | partition
                self._sources[source_id] = Source(topic.name, partition)


class Follower(Protocol):
    """What a consumer hears of records that were committed in this process."""

    @property
    def reads_early(self) -> bool:
        """Whether it may see what is not durable yet."""
        ...

    def offer(self, source_id: int, inbound: Inbound) -> None:
        """Take a record that was just committed; `wake` is called after the last one."""
        ...

    def lacks(self, source_id: int, offset: int) -> bool:
        """Whether the record was not delivered to it early."""
        ...

    def offer_early(self, source_id: int, inbound: Inbound) -> bool:
        """Take a record that is not durable yet; False where others have to be read before it."""
        ...

    def retract(self, source_id: int, first: int) -> bool:
        """Forget what was delivered from the offset *first* on; whether some of it was fetched."""
        ...

    def notice(self, ends: Mapping[int, int]) -> None:
        """Take note of how far the log goes by now."""
        ...

    def wake(self) -> None:
        """Let a waiting fetch go on, if there is anything for it."""
        ...


class EarlyDelivery:
    """Records on their way in memory, from their writer to the consumers of the same process.

    Normally a record is delivered once it is durable. A consumer whose positions are kept in the
    same file gets it as soon as it is written: the turn on it then commits together with it, or not
    at all, and a saga's hop costs one commit instead of two. Should that commit fail, the records
    are retracted; a batch that accounts for one of them is refused until its consumer seeks.
    """

    def __init__(self, log: RecordLog) -> None:
        self._log = log
        self._followers: dict[int, list[Follower]] = {}
        self._retracted: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        """Of sources that are followed here, the next offset as far as it is known."""

    @property
    def sources(self) -> list[int]:
        """The sources that are followed."""
        return list(self._followers)

    def follow(self, source_id: int, consumer: Follower, *, end: int) -> None:
        """Deliver the records of this source from now on; *end* is how far it goes by now."""
        self._followers.setdefault(source_id, []).append(consumer)
        self.ends[source_id] = end

    def unfollow(self, source_id: int, consumer: Follower) -> None:
        """Deliver no more records of this source."""
        readers = self._followers[source_id]
        readers.remove(consumer)
        if not readers:
            del self._followers[source_id]
            self.ends.pop(source_id, None)

    def deliver(self, appended: AppendedRecords) -> None:
        """Give what was committed to those who have not seen it; in commit order."""
        followers, ends = self._followers, self.ends
        reached: set[Follower] = set()
        for encoded, row in zip(appended.encoded, appended.rows, strict=True):
            source_id = encoded[0]
            readers = followers.get(source_id)
            if readers is None:
                continue
            offset = offset_of(row[0])
            ends[source_id] = offset + 1
            inbound = None
            for reader in readers:
                if not reader.lacks(source_id, offset):
                    continue
                reached.add(reader)
                if _is_large(row):
                    reader.notice({source_id: offset + 1})
                    continue
                if inbound is None:
                    inbound = _inbound(encoded, row)
                reader.offer(source_id, inbound)
        _wake(reached)

    def deliver_early(self, appended: AppendedRecords) -> bool:
        """Deliver what is written to those who commit in the same file; whether to anybody."""
        reached: set[Follower] = set()
        for encoded, row in zip(appended.encoded, appended.rows, strict=True):
            for reader in self._followers.get(encoded[0], ()):
                if reader.reads_early and not _is_large(row):
                    inbound = _inbound(encoded, row)
                    if reader.offer_early(encoded[0], inbound):
                        reached.add(reader)
        _wake(reached)
        return bool(reached)

    def retract(self, appended: AppendedRecords) -> None:
        """Take back what was delivered early of these: it is not durable, or not where it was."""
        firsts: dict[int, int] = {}
        for (source_id, _, _), row in zip(appended.encoded, appended.rows, strict=True):
            firsts.setdefault(source_id, offset_of(row[0]))
        for source_id, first in firsts.items():
            for reader in self._followers.get(source_id, ()):
                if reader.reads_early and reader.retract(source_id, first):
                    known = self._retracted.get(source_id, first)
                    self._retracted[source_id] = min(known, first)

    def check(self, positions: Mapping[Source, int]) -> None:
        """See that *positions* are of records as they are, and not of retracted ones.

        Raises:
            RecordsRetracted: they are not; a seek tells that the consumer knows.
        """
        if not self._retracted:
            return
        for source, offset in positions.items():
            first = self._retracted.get(self._log.source_id(source))
            if first is not None and offset >= first:
                raise RecordsRetracted(
                    f"{source.topic}[{source.partition}]: what was delivered from {first} on did "
                    "not become durable"
                )

    def sought(self, source_id: int) -> None:
        """The consumer reads this source anew."""
        self._retracted.pop(source_id, None)


def offset_of(place: int) -> int:
    """The offset in a record's place."""
    return place & _OFFSETS


def committed_offsets(
    cursor: sqlite3.Cursor, group: str, source_ids: Iterable[int]
) -> Mapping[int, int]:
    """What a group has committed of these sources."""
    wanted = set(source_ids)
    cursor.execute("SELECT source_id, next_offset FROM bus_offsets WHERE group_name = ?", (group,))
    return {source_id: offset for source_id, offset in cursor.fetchall() if source_id in wanted}


def _expire_source(cursor: sqlite3.Cursor, source_id: int, keep_from: int) -> bool:
    first = source_id << OFFSET_BITS
    oldest = (
        f"SELECT place, timestamp FROM bus_records WHERE place >= {first} "
        f"AND place < {first + _OFFSETS + 1} ORDER BY place LIMIT {EXPIRED_PER_COMMIT_MAX}"
    )
    count, last, kept = cursor.execute(
        "SELECT count(*), max(place), min(CASE WHEN timestamp >= ? THEN place END) "
        f"FROM ({oldest})",
        (keep_from,),
    ).fetchone()
    if not count:
        return False
    begin = kept if kept is not None else last + 1
    cursor.execute("DELETE FROM bus_records WHERE place >= ? AND place < ?", (first, begin))
    if cursor.rowcount:
        cursor.execute(
            "UPDATE bus_partitions SET begin_offset = ? WHERE source_id = ?",
            (begin & _OFFSETS, source_id),
        )
    return kept is None


def _create_tables(cursor: sqlite3.Cursor) -> None:
    for table in _TABLES:
        cursor.execute(table)


def _put_records_in_order(cursor: sqlite3.Cursor) -> None:
    for statement in _IN_ORDER_OF_WRITING:
        cursor.execute(statement)


def _wake(consumers: Iterable[Follower]) -> None:
    for consumer in consumers:
        consumer.wake()


def _is_large(row: Row) -> bool:
    return row[2] is not None and len(row[2]) > DELIVERED_BYTES_MAX


def _inbound(encoded: EncodedRecord, row: Row) -> Inbound:
    source_id, _, record = encoded
    return Inbound(
        record.topic,
        source_id & (PARTITIONS_MAX - 1),
        offset_of(row[0]),
        record.key,
        record.value,
        record.headers,
        Instant(row[4]),
    )
