"""The local bus beyond the contract: handing over in memory, publishing as part of an append,
members that fall silent.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence

import pytest

from saga.adapters.clocks import ManualClock
from saga.adapters.memory import MemoryBus, MemoryEventStore
from saga.adapters.sqlite import LocalBus, SqliteDatabase, SqliteEventStore, delivery, groups
from saga.adapters.sqlite import bus as bus_module
from saga.adapters.sqlite import records as records_module
from saga.adapters.sqlite.statements import ManyRows
from saga.contracts.cloudevents import Said
from saga.core.identity import Instant
from saga.errors import (
    AlreadyRecorded,
    BusUnavailable,
    HistoryConflict,
    MessageTooLarge,
    TaskEnded,
    TopicMissing,
)
from saga.ports.bus import Bus, Consumer, Inbound, Record, Source, TopicSpec
from saga.ports.store import Batch, EventStore
from saga.testing import samples
from saga.testing.samples import MOMENT, saga
from tests.adapters.first_batches import pack_numbers
from tests.patience import HANG_S, until


@pytest.fixture
async def bus(database: SqliteDatabase, clock: ManualClock):
    """A bus with a topic of two partitions."""
    bus = LocalBus(database, clock=clock)
    await bus.create_topics([TopicSpec("t", 2)])
    yield bus
    await bus.close()


async def _read(member: bus_module.LocalConsumer, count: int) -> list[Inbound]:
    found: list[Inbound] = []
    async with asyncio.timeout(HANG_S):
        while len(found) < count:
            found += await member.fetch(records_max=100, timeout_s=1)
    return found


async def test_own_records_are_handed_over_in_memory(bus: LocalBus) -> None:
    """A consumer that keeps up gets the very bytes that were published; one that came late reads
    them.
    """
    member = await bus.subscribe("g", ["t"])
    await member.fetch(records_max=1, timeout_s=0)
    records = [Record("t", b"k", b"%d" % number * 99) for number in range(50)]
    await bus.publish(records)

    found = await _read(member, 50)
    late = await _read(await bus.subscribe("late", ["t"]), 50)

    assert all(each.value is record.value for each, record in zip(found, records, strict=True))
    assert late == found


@pytest.mark.parametrize(("limit", "size"), [("BUFFERED_RECORDS_MAX", 5), ("size", 20_000)])
async def test_what_is_too_much_for_memory_is_read_from_the_file(
    bus: LocalBus, monkeypatch: pytest.MonkeyPatch, limit: str, size: int
) -> None:
    """Too many records, or too large ones: none is lost or out of order."""
    if limit != "size":
        monkeypatch.setattr(delivery, limit, 7)
    monkeypatch.setattr(bus_module, "POLL_IDLE_S", 60)  # no look at the file may help out
    member = await bus.subscribe("g", ["t"])
    await member.fetch(records_max=1, timeout_s=0)
    for start in range(0, 60, 6):
        values = [b"%d " % number + bytes(size) for number in range(start, start + 6)]
        await bus.publish([Record("t", b"k", value) for value in values])

    found: list[Inbound] = []
    while records := await member.fetch(records_max=100, timeout_s=0):
        found += records

    assert [int(each.value.split()[0]) for each in found] == list(range(60))


SAME = (("id", b"1"), ("type", b"x"))


def said(number: int, source: str = "/a") -> Said:
    return Said(f"{number}/x", "t", source, Instant(number), idempotency_key=f"{number}")


RECORD_SETS = {
    "nulls": ([(None, None, ()), (b"", b"", ()), (b"k", b"v", ())], 1),
    "headers that differ": ([(b"k", b"v", (*SAME, ("n", b"%d" % n))) for n in range(9)], 1),
    "null headers": ([(b"k", b"v", (("n", text),)) for text in (None, b"", b"1", None)], 1),
    "a name twice": ([(b"k", b"v", (("n", b"1"), ("n", b"\xff")))] * 2, 1),
    "other names": ([(b"k", b"v", headers) for headers in ((), SAME, SAME, SAME[:1])], 1),
    "what they say": ([(b"k", b"%d" % n, said(n)) for n in range(300)], 3),
    "others between": (
        [(b"k", b"v", headers) for headers in (said(1), said(2, "/b"), said(3), SAME, said(4))],
        5,
    ),
    "many": ([(b"k", b"%d" % n, SAME) for n in range(300)], 3),
    "large ones": ([(b"k", b"v" * size, ()) for size in (1, 20_000, 2, 3, 20_000, 20_000)], 5),
}


@pytest.mark.parametrize(("records", "batches"), RECORD_SETS.values(), ids=RECORD_SETS)
async def test_what_one_job_writes_to_a_partition_is_in_batches(
    bus: LocalBus, database: SqliteDatabase, records, batches: int
) -> None:
    """A row each, of records with the same source; all can be read from any offset, in order."""
    written = [Record("t", *fields, 1) for fields in records]
    await bus.publish(written)

    rows = database.read_now(lambda c: c.execute("SELECT records FROM bus_batches").fetchall())
    assert (len(rows), sum(count for (count,) in rows)) == (batches, len(records))
    for offset in {0, 1, len(records) // 2, len(records) - 1}:
        member = await bus.subscribe(f"from {offset}", ["t"])
        await member.fetch(records_max=1, timeout_s=0)
        await member.seek({Source("t", 1): offset})
        found = await _read(member, len(records) - offset)
        assert [each.offset for each in found] == [*range(offset, len(records))]
        assert [(each.key, each.value, each.headers) for each in found] == records[offset:]
        await member.close()


@pytest.mark.parametrize(("first_s", "then_s"), [(60.0, 0.05), (0.05, 0.2)])
async def test_a_fetch_waits_as_long_as_it_is_told(
    bus: LocalBus, first_s: float, then_s: float
) -> None:
    """However long the one before it would have waited, had there been no record."""
    member = await bus.subscribe("g", ["t"])
    await member.fetch(records_max=1, timeout_s=0)
    waiting = asyncio.create_task(member.fetch(records_max=1, timeout_s=first_s))
    await asyncio.sleep(0)
    await bus.publish([samples.record("t")])
    await waiting
    await member.fetch(records_max=1, timeout_s=0)
    began_s = asyncio.get_running_loop().time()

    async with asyncio.timeout(HANG_S):
        assert await member.fetch(records_max=1, timeout_s=then_s) == []

    assert asyncio.get_running_loop().time() - began_s >= then_s


async def test_two_buses_on_one_file_see_each_other(
    bus: LocalBus, database: SqliteDatabase, clock: ManualClock, tmp_path
) -> None:
    """Topics, records and groups of one are known to the other, as between two processes."""
    second = SqliteDatabase(database.path)
    other = LocalBus(second, clock=clock)
    mine, theirs = await bus.subscribe("g", ["t"]), await other.subscribe("g", ["t"])
    async with asyncio.timeout(HANG_S):
        while not (len(mine.assignment()) == len(theirs.assignment()) == 1):
            await mine.fetch(records_max=1, timeout_s=0.005)
            await theirs.fetch(records_max=1, timeout_s=0.005)

    for number in range(20):
        await (bus, other)[number % 2].publish([Record("t", None, b"%d" % number, (), 1)])

    found = await _read(theirs, 20)
    assert [each.offset for each in found] == list(range(20))
    assert [int(each.value) for each in found] == list(range(20))
    await other.close()
    await second.close()


async def test_a_silent_member_is_expelled_and_may_come_back(
    bus: LocalBus, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hangs loses its partitions after some seconds without a heartbeat; when it
    goes on, it reads nothing more of them and joins anew.
    """
    monkeypatch.setattr(bus_module, "LIVENESS_S", 0.0)
    sleepy = SqliteDatabase(database.path)
    late_clock = ManualClock()
    other = LocalBus(sleepy, clock=late_clock)
    gone = await other.subscribe("g", ["t"])
    await gone.fetch(records_max=1, timeout_s=0)
    assert len(gone.assignment()) == 2
    assert other._tender is not None  # noqa: SLF001 - it hangs
    other._tender.cancel()  # noqa: SLF001
    await asyncio.gather(other._tender, return_exceptions=True)  # noqa: SLF001

    mine = await bus.subscribe("g", ["t"])
    for _ in range(20):
        await mine.fetch(records_max=1, timeout_s=0.005)
    assert mine.assignment() == frozenset(), "nothing is taken over that was not let go of"
    bus._clock.advance(groups.HEARTBEAT_EXPIRY_S + 1)  # noqa: SLF001 - time has passed here
    await _until(mine, lambda: len(mine.assignment()) == 2)

    late_clock.advance(groups.HEARTBEAT_EXPIRY_S + 1)
    await bus.publish([Record("t", None, b"1", (), 0)])
    assert [each.value for each in await _read(mine, 1)] == [b"1"]
    other._tender = asyncio.create_task(other._tend())  # noqa: SLF001 - it goes on
    await _until(gone, lambda: gone.assignment() == {Source("t", 1)})
    await _until(mine, lambda: mine.assignment() == {Source("t", 0)})
    await other.close()
    await sleepy.close()


async def test_a_closed_bus_says_so(bus: LocalBus) -> None:
    """Closing twice is closing once; its consumers read nothing more."""
    member = await bus.subscribe("g", ["t"])
    await bus.close()
    await bus.close()

    assert await member.fetch(records_max=1, timeout_s=9) == []
    with pytest.raises(BusUnavailable, match="closed"):
        await bus.publish([samples.record("t")])


async def test_what_many_publish_at_once_is_one_job(
    bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they published; who gives up waiting, or has a record that is too
    large, takes nobody along.
    """
    inserts: list[int] = []
    append = bus.log.append

    def counted(cursor, placed, *, now):
        inserts.append(len(placed))
        return append(cursor, placed, now=now)

    monkeypatch.setattr(bus.log, "append", counted)
    publishing = [
        asyncio.create_task(bus.publish([Record("t", b"k", b"%d" % number)]))
        for number in range(100)
    ]
    too_large = asyncio.create_task(bus.publish([Record("t", b"k", bytes(2_000_000))]))
    await asyncio.sleep(0)
    publishing[0].cancel()

    said = await asyncio.gather(*publishing, too_large, return_exceptions=True)

    assert isinstance(said[0], asyncio.CancelledError)
    assert isinstance(said[-1], MessageTooLarge)
    assert said[1:-1] == [None] * 99
    assert inserts == [100]
    found = await _read(await bus.subscribe("g", ["t"]), 100)
    assert [one.value for one in found] == [b"%d" % number for number in range(100)]


async def test_all_who_publish_onto_a_full_disk_are_told(
    bus: LocalBus, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the records is there afterwards, and the next publish goes its own way."""

    def full(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise error

    with monkeypatch.context() as patches:
        patches.setattr(bus.log, "append", full)
        said = await asyncio.gather(
            *(bus.publish([samples.record("t")]) for _ in range(3)), return_exceptions=True
        )
    await bus.publish([Record("t", b"k", b"after")])

    assert [type(one) for one in said] == [BusUnavailable] * 3
    assert "make room" in str(said[0])
    found = await _read(await bus.subscribe("g", ["t"]), 1)
    assert [one.value for one in found] == [b"after"]


async def test_retention_deletes_in_small_transactions(
    database: SqliteDatabase, clock: ManualClock
) -> None:
    """However much there is to delete, no commit deletes more than a hundred batches."""
    bus = LocalBus(database, clock=clock)
    await bus.create_topics([TopicSpec("short", 2, 60)])
    for _ in range(260):
        await bus.publish([Record("short", None, b"", (), number % 2) for number in range(10)])
    clock.advance(61)
    await bus.publish([Record("short", None, b"", (), 0)])
    before = database.commits[0]

    await bus.expire()

    assert database.commits[0] - before >= 5
    assert await bus.bounds([Source("short", 0), Source("short", 1)]) == {
        Source("short", 0): (1300, 1301),
        Source("short", 1): (1300, 1300),
    }
    rows = database.read_now(lambda c: c.execute("SELECT count(*) FROM bus_batches").fetchone())
    assert rows == (1,)
    await bus.close()


ROWS_OF_RECORDS = {
    1: ["CREATE TABLE bus_records (place INTEGER PRIMARY KEY, {columns})"],
    2: [
        "CREATE TABLE bus_records (position INTEGER PRIMARY KEY, place INTEGER, {columns})",
        "CREATE UNIQUE INDEX bus_records_by_place ON bus_records (place)",
    ],
}
"""The tables of earlier versions, which had a row a record."""


@pytest.mark.parametrize("version", ROWS_OF_RECORDS)
async def test_a_file_of_an_earlier_layout_goes_on_where_it_was(
    database: SqliteDatabase, clock: ManualClock, version: int
) -> None:
    """Its records are read as they were, and offsets and groups go on."""
    places = [1 << 50 | partition << 40 | offset for partition in (0, 1) for offset in range(3, 6)]
    headers = ((b'[["a","1"],["n",null]]', (("a", b"1"), ("n", None))), (b"", ()))

    def lay_out(cursor: sqlite3.Cursor) -> None:
        records_module.MIGRATIONS[0](cursor)
        cursor.execute("DROP TABLE bus_batches")
        for table in ROWS_OF_RECORDS[version]:
            columns = "key BLOB, value BLOB, headers BLOB NOT NULL, timestamp INTEGER NOT NULL"
            cursor.execute(table.format(columns=columns))
        cursor.execute("INSERT INTO bus_topics VALUES (1, 't', 2, NULL)")
        for source_id in (1 << 10, 1 << 10 | 1):
            cursor.execute("INSERT INTO bus_partitions VALUES (?, 3)", (source_id,))
        cursor.execute("INSERT INTO bus_offsets VALUES ('g', ?, 5)", (1 << 10,))
        for place in reversed(places):
            row = (place, b"k", b"%d" % place, headers[place % 2][0], clock.now() - place % 7)
            cursor.execute(
                "INSERT INTO bus_records (place, key, value, headers, timestamp) "
                "VALUES (?, ?, ?, ?, ?)",
                row,
            )

    database.migrate("bus", [lay_out, *[lambda _: None] * (version - 1)])

    bus = LocalBus(database, clock=clock)
    await bus.publish([Record("t", b"k", b"new", (), 1)])
    found = await _read(await bus.subscribe("late", ["t"]), 7)
    rest = await _read(await bus.subscribe("g", ["t"]), 5)

    by_partition = {
        partition: [(one.offset, one.value) for one in found if one.partition == partition]
        for partition in (0, 1)
    }
    assert by_partition == {
        0: [(offset, b"%d" % (1 << 50 | offset)) for offset in (3, 4, 5)],
        1: [*((offset, b"%d" % (1 << 50 | 1 << 40 | offset)) for offset in (3, 4, 5)), (6, b"new")],
    }
    old = [one for one in found if one.value != b"new"]
    assert all(one.headers == headers[one.offset % 2][1] for one in old)
    assert all(one.timestamp == clock.now() - int(one.value or 0) % 7 for one in old)
    assert [one.offset for one in rest if one.partition == 0] == [5]
    await bus.close()


BYTES_ONLY = {
    name: records
    for name, (records, _) in RECORD_SETS.items()
    if len({tuple(name for name, _ in headers) for _, _, headers in records}) == 1
}


@pytest.mark.parametrize("records", BYTES_ONLY.values(), ids=BYTES_ONLY)
async def test_a_file_of_version_4_goes_on(
    database: SqliteDatabase, clock: ManualClock, records
) -> None:
    """Its batches are read as they were, and new ones stand behind them."""
    place = (1 << 10 | 1) << 40

    def lay_out(cursor: sqlite3.Cursor) -> None:
        for migration in records_module.MIGRATIONS[:4]:
            migration(cursor)
        cursor.execute("INSERT INTO bus_topics VALUES (1, 't', 2, NULL)")
        cursor.execute("INSERT INTO bus_partitions VALUES (?, 0), (?, 0)", (1 << 10, 1 << 10 | 1))
        for first in range(0, len(records), 100):
            batch = [Record("t", *fields) for fields in records[first : first + 100]]
            cursor.execute(
                "INSERT INTO bus_batches (place, records, timestamp, packed) VALUES (?, ?, 7, ?)",
                (place + first, len(batch), pack_numbers(batch)),
            )

    database.migrate("bus", [lay_out, *[lambda _: None] * 3])
    bus = LocalBus(database, clock=clock)
    await bus.publish([Record("t", b"k", b"new", said(1), 1)])

    found = await _read(await bus.subscribe("late", ["t"]), len(records) + 1)

    contents = [(each.key, each.value, each.headers) for each in found]
    assert contents == [*records, (b"k", b"new", said(1))]
    assert [each.offset for each in found] == [*range(len(records) + 1)]
    assert {each.timestamp for each in found[:-1]} == {7}
    await bus.close()


@pytest.mark.parametrize("is_last", [False, True])
async def test_a_batch_of_version_4_with_a_wrong_number(
    database: SqliteDatabase, clock: ManualClock, *, is_last: bool
) -> None:
    """It is known by the one behind it; where there is none, equal records are read once more."""
    bus = LocalBus(database, clock=clock)
    await bus.create_topics([TopicSpec("t", 1)])
    for value in (b"1", b"2"):
        await bus.publish([Record("t", b"k", value)])

    def spoil(cursor: sqlite3.Cursor) -> None:
        content = pack_numbers([Record("t", b"k", b"old")])
        cursor.execute(
            "UPDATE bus_batches SET records = 9, content = ? WHERE position = ?",
            (content, 2 if is_last else 1),
        )

    await database.write(spoil)
    found = await _read(await bus.subscribe("late", ["t"]), 10 if is_last else 2)

    values = [each.value or b"" for each in found]
    assert values == [b"1", *[b"old"] * 9] if is_last else b"cannot be read" in values[0]
    await bus.close()


@pytest.fixture(params=["sqlite", "memory"])
async def publishing(request: pytest.FixtureRequest, database: SqliteDatabase, clock: ManualClock):
    """A store and the bus that it publishes through."""
    bus: Bus
    store: EventStore
    if request.param == "sqlite":
        bus = LocalBus(database, clock=clock)
        store = SqliteEventStore(database, publish_through=bus)
    else:
        bus = MemoryBus(clock=clock)
        store = MemoryEventStore(publish_through=bus)
    await bus.create_topics([TopicSpec("t", 1)])
    yield store, bus
    await bus.close()


async def test_publishing_is_part_of_the_append(publishing: tuple[EventStore, Bus]) -> None:
    """Entries and records are there together, in order, and nothing is left to relay."""
    store, bus = publishing
    member = await bus.subscribe("g", ["t"])
    await member.fetch(records_max=1, timeout_s=0)

    for number in range(5):
        batch = samples.batch(
            samples.history(saga(number)),
            outgoing=[samples.record("t", value=b"%d" % (2 * number + n)) for n in (0, 1)],
        )
        assert (await store.append(batch, at=MOMENT)).backlog_id is None

    found = await member.fetch(records_max=100, timeout_s=0)
    assert [int(each.value) for each in found] == list(range(10))
    assert await store.backlog(limit=9) == []


async def test_a_group_may_change_while_a_member_asks_where_to_begin(
    publishing: tuple[EventStore, Bus],
) -> None:
    """What the member was about to read belongs to another by the time it is told."""
    _, bus = publishing
    await bus.create_topics([TopicSpec("two", 2)])
    others: list[Consumer] = []

    async def resume_at(_: Sequence[Source]) -> Mapping[Source, int]:
        if not others:
            others.append(await bus.subscribe("g", ["two"]))
        return {}

    first = await bus.subscribe("g", ["two"], resume_at=resume_at)
    shares = {frozenset({Source("two", 0)}), frozenset({Source("two", 1)})}

    async def is_shared_out() -> bool:
        for member in (first, *others):
            await member.fetch(records_max=1, timeout_s=0)
        return {member.assignment() for member in (first, *others)} == shares

    await until(is_shared_out)


async def test_a_refused_append_publishes_nothing(publishing: tuple[EventStore, Bus]) -> None:
    """And an append whose records are refused records nothing."""
    store, bus = publishing
    await store.append(
        samples.batch(samples.history(saga(1)), positions={Source("t", 0): 1}), at=MOMENT
    )
    outgoing = [samples.record("t")]
    nowhere = [samples.record("no")]
    refused = [
        (HistoryConflict, samples.batch(samples.history(saga(1)), outgoing=outgoing)),
        (AlreadyRecorded, Batch(positions={Source("t", 0): 1}, outgoing=outgoing)),
        (TopicMissing, samples.batch(samples.history(saga(2)), outgoing=nowhere)),
        (
            MessageTooLarge,
            samples.batch(
                samples.history(saga(2)),
                outgoing=[*outgoing, samples.record("t", value=bytes(2_000_000))],
            ),
        ),
    ]

    for error, batch in refused:
        with pytest.raises(error):
            await store.append(batch, at=MOMENT)

    assert await bus.bounds([Source("t", 0)]) == {Source("t", 0): (0, 0)}
    assert await store.load([saga(2)]) == {}


async def test_a_store_publishes_only_through_its_own_file(
    database: SqliteDatabase, tmp_path, clock: ManualClock
) -> None:
    """A bus on another file could not commit together with it."""
    other = SqliteDatabase(tmp_path / "other.db")
    with pytest.raises(ValueError, match="same database"):
        SqliteEventStore(database, publish_through=LocalBus(other, clock=clock))
    await other.close()


async def test_many_rows_are_one_statement(database: SqliteDatabase) -> None:
    """Each statement gives up the interpreter's lock: as many as rows would stall a busy
    process.
    """
    statements: list[str] = []
    insert = ManyRows("INSERT INTO n SELECT * FROM {rows}", 2)

    def job(cursor) -> tuple[int, list[tuple[int, str]]]:
        cursor.execute("CREATE TABLE n (i INTEGER, s TEXT)")
        cursor.connection.set_trace_callback(statements.append)
        changed = insert.execute(cursor, [(number, f"row {number}") for number in range(300)])
        cursor.connection.set_trace_callback(None)
        return changed, cursor.execute("SELECT * FROM n ORDER BY rowid").fetchall()

    changed, rows = await database.write(job)

    assert rows == [(number, f"row {number}") for number in range(300)]
    assert (changed, len(statements)) == (300, 2)


async def _until(member: bus_module.LocalConsumer, is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not is_so():
            await member.fetch(records_max=100, timeout_s=0.01)


async def test_a_watch_over_the_file_that_is_cancelled_is_told_to_readers(bus: LocalBus) -> None:
    """Nobody else would see what other processes publish."""
    member = await bus.subscribe("g", ["t"])
    (watch,) = [task for task in asyncio.all_tasks() if task.get_name() == "local bus"]
    watch.cancel()
    await asyncio.wait([watch])

    with pytest.raises(TaskEnded, match="cancelled by somebody else"):
        await member.fetch(records_max=1, timeout_s=1)


async def test_what_goes_wrong_after_a_commit_reaches_who_waits_for_it(
    database: SqliteDatabase,
) -> None:
    """Those who share the commit are told of theirs."""

    def on_commit(_: object) -> None:
        raise LookupError("no more")

    ill = database.write(lambda cursor: cursor.execute("SELECT 1"), on_commit=on_commit)
    well = database.write(lambda cursor: 7)

    with pytest.raises(LookupError, match="no more"):
        await ill
    assert await well == 7
