"""Records that are shown before they are durable: one commit for both, or none."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from saga.adapters.clocks import ManualClock
from saga.adapters.sqlite import LocalBus, SqliteDatabase, SqliteEventStore
from saga.adapters.sqlite.delivery import Reader
from saga.adapters.sqlite.writer import LINGER_S
from saga.errors import BusUnavailable, RecordsRetracted, StoreUnavailable
from saga.ports.bus import Record, Source, TopicSpec
from saga.ports.store import Batch
from saga.testing import samples
from saga.testing.samples import MOMENT, saga
from tests.patience import HANG_S

SOURCE = Source("t", 0)


class Desk:
    """A bus and a store on one file, and a consumer whose positions are in the store."""

    def __init__(self, database: SqliteDatabase, clock: ManualClock) -> None:
        self.database = database
        self.bus = LocalBus(database, clock=clock)
        self.store = SqliteEventStore(database, publish_through=self.bus)

    async def join(self) -> None:
        """Become the only member of the group."""
        await self.bus.create_topics([TopicSpec("t", 1), TopicSpec("out", 1)])
        self.member = await self.bus.subscribe("g", ["t"], resume_at=self.resume_at)
        assert await self.member.fetch(records_max=1, timeout_s=0) == []

    async def resume_at(self, sources):
        """Where the store stands."""
        return {source: at + 1 for source, at in (await self.store.positions(sources)).items()}

    async def read(self):
        """The next records there are."""
        async with asyncio.timeout(HANG_S):
            while not (records := await self.member.fetch(records_max=100, timeout_s=1)):
                pass
        return records

    def turn(self, number: int, offset: int) -> Batch:
        """What a turn on the record at *offset* wants to commit."""
        return samples.batch(
            samples.history(saga(number)),
            positions={SOURCE: offset},
            outgoing=[Record("out", b"k", b"%d" % number)],
        )

    async def publish_and_turn(self, number: int) -> tuple[object, object]:
        """Publish a record and take a turn on it as soon as it can be seen; what became of both."""
        publishing = asyncio.create_task(self.bus.publish([Record("t", b"k", b"%d" % number)]))
        (record,) = await self.read()
        turn = self.store.append(self.turn(number, record.offset), at=MOMENT)
        return tuple(await asyncio.gather(publishing, turn, return_exceptions=True))


@pytest.fixture
async def desk(database: SqliteDatabase, clock: ManualClock):
    """Everybody has arrived."""
    desk = Desk(database, clock)
    await desk.join()
    yield desk
    await desk.bus.close()


def fail_next_commit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full, once, when the next transaction with records is to be committed."""
    writing = desk.database.writer.writing
    commit_really = writing.commit

    def commit(then):
        if not any(job.early_readers for job in then.args[0]):
            commit_really(then)  # a heartbeat
            return
        monkeypatch.undo()
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        asyncio.get_running_loop().call_soon(then, error)

    monkeypatch.setattr(writing, "commit", commit)


async def test_a_record_and_the_turn_on_it_share_a_commit(desk: Desk) -> None:
    """Ten hops are ten commits; a consumer of another kind sees records when durable."""
    other = await desk.bus.subscribe("other", ["t", "out"])
    await other.fetch(records_max=1, timeout_s=0)
    before, _ = desk.database.commits
    for number in range(10):
        published, appended = await desk.publish_and_turn(number)
        assert not isinstance(published, Exception)
        assert not isinstance(appended, Exception)

    commits = desk.database.commits[0] - before
    assert 10 <= commits < 15  # heartbeats have commits of their own
    assert (await desk.store.positions([SOURCE])) == {SOURCE: 9}
    found = []
    while len(found) < 20:
        found += await other.fetch(records_max=100, timeout_s=1)
    for topic in ("t", "out"):
        assert [r.value for r in found if r.topic == topic] == [b"%d" % n for n in range(10)]


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_turn_that_took_long_to_decide_still_shares_the_commit(
    loop: Callable[[], asyncio.AbstractEventLoop], path: Path, clock: ManualClock
) -> None:
    """What the loop was busy with goes along, whether it looks at timers first or not."""

    async def hops() -> int:
        database = SqliteDatabase(path)
        desk = Desk(database, clock)
        await desk.join()
        before, _ = database.commits
        for number in range(10):
            publishing = asyncio.create_task(desk.bus.publish([Record("t", b"k", b"%d" % number)]))
            (record,) = await desk.read()
            time.sleep(LINGER_S * 2)  # noqa: ASYNC251  # a batch is decided without a pause
            await desk.store.append(desk.turn(number, record.offset), at=MOMENT)
            await publishing
        after, _ = database.commits
        await desk.bus.close()
        await database.close()
        return after - before

    with asyncio.Runner(loop_factory=loop) as runner:
        assert 10 <= runner.run(hops()) < 15  # heartbeats have commits of their own


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_wait_shorter_than_the_loops_clock_hinders_no_other(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Its timer is set anew in the very round of the loop in which a record wakes the reader."""

    async def waits() -> None:
        reader = Reader(is_early=False)
        waiting = asyncio.create_task(wait_often(reader))
        while not waiting.done():
            reader.wake(always=True)
            await asyncio.sleep(0)
        await waiting

    async def wait_often(reader: Reader) -> None:
        for _ in range(100):
            await reader.wait(0.0004)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(waits(), HANG_S))


async def test_a_commit_waits_for_nobody_for_long(desk: Desk) -> None:
    """Where no turn follows, the record is durable all the same, and is not handed over twice."""
    async with asyncio.timeout(HANG_S):
        await desk.bus.publish([Record("t", b"k", b"1")])

    assert [record.value for record in await desk.read()] == [b"1"]
    assert await desk.member.fetch(records_max=1, timeout_s=0.05) == []


async def test_what_was_shown_falls_with_its_commit(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the record nor the turn is stored; both can be had again, at the same offset."""
    fail_next_commit(desk, monkeypatch)
    published, appended = await desk.publish_and_turn(1)

    assert isinstance(published, BusUnavailable)
    assert isinstance(appended, StoreUnavailable)
    assert not await desk.store.load([saga(1)])

    await desk.bus.publish([Record("t", b"k", b"another")])
    with pytest.raises(RecordsRetracted, match=r"t\[0\]: what was delivered from 0 on"):
        await desk.store.append(desk.turn(1, 0), at=MOMENT)
    assert not await desk.store.load([saga(1)])

    await desk.member.seek({SOURCE: 0})
    (record,) = await desk.read()
    assert (record.offset, record.value) == (0, b"another")
    await desk.store.append(desk.turn(1, 0), at=MOMENT)
    assert await desk.store.positions([SOURCE]) == {SOURCE: 0}


async def test_what_nobody_had_fetched_is_read_again_by_itself(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer has not noticed anything, so nothing is refused."""
    fail_next_commit(desk, monkeypatch)
    with pytest.raises(BusUnavailable):
        await desk.bus.publish([Record("t", b"k", b"lost")])
    await desk.bus.publish([Record("t", b"k", b"kept")])

    (record,) = await desk.read()
    assert (record.offset, record.value) == (0, b"kept")
    await desk.store.append(desk.turn(1, 0), at=MOMENT)


async def test_a_job_that_fails_beside_it_takes_the_turn_along(desk: Desk) -> None:
    """What was shown may stand elsewhere now: the turn is refused, the record stays."""

    def broken(cursor):
        raise LookupError("a bug")

    publishing = asyncio.create_task(desk.bus.publish([Record("t", b"k", b"1")]))
    (record,) = await desk.read()
    turn = asyncio.create_task(desk.store.append(desk.turn(1, record.offset), at=MOMENT))
    beside = asyncio.ensure_future(desk.database.write(broken))
    done = await asyncio.gather(publishing, turn, beside, return_exceptions=True)

    assert [type(each) for each in done] == [type(None), RecordsRetracted, LookupError]
    await desk.member.seek({SOURCE: 0})
    (again,) = await desk.read()
    assert again == record
    await desk.store.append(desk.turn(1, 0), at=MOMENT)


async def test_large_records_are_not_shown(desk: Desk) -> None:
    """They are read from the file once they are durable."""
    publishing = asyncio.create_task(desk.bus.publish([Record("t", b"k", b"x" * 20_000)]))
    (record,) = await desk.read()

    await asyncio.wait_for(publishing, HANG_S)
    assert record.value == b"x" * 20_000
