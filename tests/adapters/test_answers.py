"""Answers in the file of the bus: each commits with its inbox row, and one key has one row."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from saga.adapters.clocks import ManualClock
from saga.adapters.opening import check_answers, open_bus_and_store, open_effects_store
from saga.adapters.sqlite import LocalBus, SqliteDatabase, SqliteEffectsStore, SqliteEventStore
from saga.core.events import ReplyOutcome
from saga.errors import SchemaDiffers, StoreUnavailable
from saga.ports.bus import Record, Source, TopicSpec
from saga.ports.effects_store import InboxRow, InboxWrite
from saga.settings import Settings
from saga.testing import samples
from saga.testing.effects_store_suite import SERVICE, inbox_row
from saga.testing.samples import MOMENT, saga
from tests.patience import HANG_S, until

SOURCE = Source("answers", 0)
FAILED = ReplyOutcome.FAILED


class Desk:
    """One process: bus, store and answers in a file, effects in another."""

    def __init__(self, folder: Path, *, has_answers: bool = True) -> None:
        self.database = SqliteDatabase(folder / "saga.db")
        self.bus = LocalBus(self.database, clock=ManualClock())
        self.store = SqliteEventStore(self.database, publish_through=self.bus)
        through = self.bus if has_answers else None
        self.effects = SqliteEffectsStore(
            f"{folder}/effects.db", beside=self.database, publish_through=through
        )

    async def open(self) -> None:
        """Make what is missing."""
        await self.bus.create_topics([TopicSpec(SOURCE.topic, 1)])
        await self.effects.open()

    async def close(self) -> None:
        await self.effects.close()
        await self.bus.close()
        await self.database.close()

    def keep(self, row: InboxRow, replaces: InboxRow | None = None):
        """End a unit that has written nothing; its answer says whose it is."""
        return self.effects.unit().keep([InboxWrite(row, replaces)], answer_of(row))

    async def keep_written(self, row: InboxRow, replaces: InboxRow | None = None):
        """The same of a unit that has used `ctx.db`."""
        unit = self.effects.unit()
        await unit.db.fetch("SELECT 1")
        return await unit.keep([InboxWrite(row, replaces)], answer_of(row))

    async def kept(self, key: str) -> InboxRow | None:
        return (await self.effects.kept(SERVICE, [key])).get(key)

    def answers(self) -> list[bytes | None]:
        """What is on the bus, durably."""
        found = self.database.read_now(lambda c: self.bus.log.read(c, SOURCE, 0, 1_000))
        return [record.value for record in found]

    def rows(self) -> dict[str, int]:
        """How many rows each file has."""
        return {
            name: database.read_now(
                lambda c: c.execute("SELECT count(*) FROM saga_inbox").fetchone()[0]
            )
            for name, database in (("bus", self.database), ("own", self.effects.database))
        }


def answer_of(row: InboxRow) -> Record:
    return Record(SOURCE.topic, b"k", f"{row.key} {row.attempt}".encode(), ())


def undone(row: InboxRow) -> InboxRow:
    return row._replace(undone=True)


@pytest.fixture
async def desk(tmp_path: Path):
    """A process at work."""
    desk = Desk(tmp_path)
    await desk.open()
    yield desk
    await desk.close()


@pytest.fixture
async def other(desk: Desk, tmp_path: Path):
    """Another process on the same files."""
    other = Desk(tmp_path)
    await other.open()
    yield other
    await other.close()


async def test_a_row_its_answer_and_the_turn_on_it_share_a_commit(desk: Desk) -> None:
    """And nothing is written to the file of the effects."""

    async def resume_at(sources):
        return {source: at + 1 for source, at in (await desk.store.positions(sources)).items()}

    member = await desk.bus.subscribe("g", [SOURCE.topic], resume_at=resume_at)
    await member.fetch(records_max=1, timeout_s=0)
    before, _ = desk.database.commits
    for number in range(10):
        kept = desk.keep(inbox_row(f"s/{number}/do"))
        async with asyncio.timeout(HANG_S):
            while not (records := await member.fetch(records_max=9, timeout_s=1)):
                pass
        assert not kept.done()
        batch = samples.batch(samples.history(saga(number)), positions={SOURCE: records[0].offset})
        await desk.store.append(batch, at=MOMENT)
        not_kept = await kept
        assert not not_kept
        assert len(not_kept.published) == 1

    assert 10 <= desk.database.commits[0] - before < 15  # heartbeats have commits of their own
    assert desk.rows() == {"bus": 10, "own": 0}
    assert desk.effects.database.commits[0] == 0


async def test_what_was_written_has_its_row_beside_it(desk: Desk) -> None:
    """Its answer is left to whoever is told."""
    not_kept = await desk.keep_written(inbox_row("s/a/do"))

    assert (not_kept, not_kept.published) == (set(), set())
    assert desk.rows() == {"bus": 0, "own": 1}
    assert desk.answers() == []


async def test_a_handler_that_holds_its_file_holds_up_no_turn(desk: Desk) -> None:
    """Rows that are kept meanwhile wait for it, as ever; the store's commits do not."""
    slow = desk.effects.unit()
    await slow.db.fetch("SELECT 1")
    kept = desk.keep(inbox_row("s/a/do"))
    await desk.store.append(samples.batch(samples.history(saga(1))), at=MOMENT)
    assert not kept.done()
    slow.drop()

    not_kept = await kept
    assert (not_kept, not_kept.published) == (set(), set())
    assert desk.rows() == {"bus": 0, "own": 1}


async def test_handlers_wait_for_no_more_than_a_commit(desk: Desk) -> None:
    """While an answer is written, whoever asks for `ctx.db` gets it next."""
    kept = desk.keep(inbox_row("s/a/do"))
    await asyncio.sleep(0)  # it is written, and not committed
    unit = desk.effects.unit()
    await unit.db.fetch("SELECT 1")
    unit.drop()

    assert len((await kept).published) == 1


@pytest.mark.parametrize("begins", ["without ctx.db", "with ctx.db"])
async def test_the_next_attempt_takes_the_place_of_the_last_wherever_that_is(
    desk: Desk, begins: str
) -> None:
    """There and back again; and only of the last one."""
    rows = [inbox_row("s/a/do", attempt=n, outcome=FAILED) for n in range(1, 6)]
    ways = [desk.keep, desk.keep_written]
    replaced = None
    for row in rows:
        keep = ways[(row.attempt + (begins == "with ctx.db")) % 2]
        assert not await keep(row, replaced)
        assert await desk.kept(row.key) == row
        replaced = row

    for late in (inbox_row("s/a/do", attempt=9), inbox_row("s/a/do", attempt=1)):
        assert await desk.keep(late)
        assert await desk.keep_written(late)
        assert await desk.keep(late, rows[1])
        assert await desk.keep_written(late, rows[1])
    assert await desk.kept("s/a/do") == rows[-1]
    assert desk.rows() == {"bus": 1, "own": 1}


@pytest.mark.parametrize("where", ["bus", "own"])
async def test_a_step_is_undone_wherever_it_was_done(desk: Desk, where: str) -> None:
    """The row of the failed attempt is marked in the other file."""
    failed = inbox_row("s/a/do", outcome=FAILED)
    writes = [InboxWrite(inbox_row("s/a/undo")), InboxWrite(undone(failed), failed)]
    unit = desk.effects.unit()
    if where == "bus":
        await desk.keep_written(failed)
        assert not await unit.keep(writes, answer_of(writes[0].row))
    else:
        await desk.keep(failed)
        await unit.db.fetch("SELECT 1")
        assert not await unit.keep(writes)

    assert await desk.kept("s/a/do") == undone(failed)
    again = inbox_row("s/a/do", attempt=2)
    assert await desk.keep(again, failed)
    assert await desk.keep_written(again, failed)


async def test_a_key_that_is_taken_in_the_other_file_is_taken(desk: Desk) -> None:
    """Alone and among others; no answer goes out for it."""
    await desk.keep_written(inbox_row("s/own/do"))
    await desk.keep(inbox_row("s/bus/do"))
    futures = [
        desk.keep(inbox_row(f"s/{name}/do", attempt=2)) for name in ("own", "bus", "new", "more")
    ]
    moved = {unit for future in futures for unit in await future}
    published = {unit for future in futures for unit in (await future).published}

    assert (len(moved), len(published)) == (2, 2)
    assert desk.answers() == [b"s/bus/do 1", b"s/new/do 2", b"s/more/do 2"]
    assert await desk.keep_written(inbox_row("s/bus/do", attempt=2))


async def test_two_processes_at_one_key_keep_one_row(desk: Desk, other: Desk) -> None:
    """Whichever file they write: each holds that of the effects while it looks and writes."""
    written = desk.effects.unit()
    await written.db.fetch("SELECT 1")
    late = other.keep(inbox_row("s/a/do", attempt=2))
    await asyncio.sleep(0.02)
    assert not late.done()
    assert not await written.keep([InboxWrite(inbox_row("s/a/do"))])
    assert await late

    early = other.keep(inbox_row("s/b/do"))
    written = desk.effects.unit()
    await early
    await written.db.fetch("SELECT 1")
    assert await written.keep([InboxWrite(inbox_row("s/b/do", attempt=2))])
    assert other.answers() == [b"s/b/do 1"]


async def test_between_the_look_and_the_commit_nobody_writes_the_other_file(
    desk: Desk, other: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on everybody finds the row."""
    writing = desk.database.writer.writing
    commit = writing.commit
    put_off: list = []
    monkeypatch.setattr(writing, "commit", put_off.append)
    kept = desk.keep(inbox_row("s/a/do"))
    await until(lambda: put_off)
    begun = other.effects.database.writer
    assert not begun.try_hold("other")
    monkeypatch.undo()
    commit(*put_off)
    assert not await kept
    await asyncio.sleep(0)

    assert begun.try_hold("other")
    begun.release("other")
    assert await other.keep_written(inbox_row("s/a/do", attempt=2))


async def test_without_answers_in_the_bus_its_rows_count_all_the_same(
    desk: Desk, tmp_path: Path
) -> None:
    """As where the address of the effects store was set later."""
    failed = inbox_row("s/a/do", outcome=FAILED)
    await desk.keep(failed)
    await desk.keep(inbox_row("s/b/do"))
    apart = Desk(tmp_path, has_answers=False)
    await apart.open()

    assert await apart.kept("s/a/do") == failed
    assert await apart.keep(inbox_row("s/b/do", attempt=2))
    assert not await apart.keep(inbox_row("s/a/do", attempt=2), failed)
    assert apart.rows() == {"bus": 2, "own": 1}
    assert (await desk.kept("s/a/do")).attempt == 2
    await apart.close()


@pytest.mark.parametrize("fails", ["saga.db", "effects.db"])
async def test_a_disk_that_fails_keeps_neither_row_nor_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Whichever of the files it is; and the next try keeps both."""
    database = desk.database if fails == "saga.db" else desk.effects.database
    writing = database.writer.writing
    begin = writing.begin

    def fail(*, wait_s: float = 0.0) -> bool:
        begin(wait_s=wait_s)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR"
        raise error

    monkeypatch.setattr(writing, "begin", fail)
    with pytest.raises(StoreUnavailable, match=fails):
        await desk.keep(inbox_row("s/a/do"))
    monkeypatch.undo()

    assert (await desk.kept("s/a/do"), desk.answers()) == (None, [])
    assert len((await desk.keep(inbox_row("s/a/do"))).published) == 1
    assert desk.answers() == [b"s/a/do 1"]


async def test_an_answer_that_cannot_be_published_now_is_left_to_others(desk: Desk) -> None:
    """Its row is kept, and whoever publishes it hears what is the matter."""
    for number, topic in enumerate(("nowhere", SOURCE.topic)):
        answer = Record(topic, b"k", bytes(number * (2 << 20)), ())
        row = inbox_row(f"s/{topic}/do")
        not_kept = await desk.effects.unit().keep([InboxWrite(row)], answer)
        assert (not_kept, not_kept.published) == (set(), set())

    assert desk.rows() == {"bus": 0, "own": 2}


async def test_an_answer_that_cannot_be_published_takes_nobody_along(desk: Desk) -> None:
    """Those that end with it are kept as well, and published by whoever waits for them."""
    nowhere = Record("nowhere", b"k", b"", ())
    lost = desk.effects.unit().keep([InboxWrite(inbox_row("s/nowhere/do"))], nowhere)
    kept = desk.keep(inbox_row("s/a/do"))

    assert [set(await each) for each in (lost, kept)] == [set(), set()]
    assert desk.rows() == {"bus": 0, "own": 2}
    assert not await desk.keep(inbox_row("s/b/do"))
    assert desk.answers() == [b"s/b/do 1"]


@pytest.mark.parametrize("where", ["bus", "own"])
async def test_a_damaged_row_is_hidden_by_none_in_the_other_file(desk: Desk, where: str) -> None:
    """Nobody knows what was done: whoever asks is told, and nothing is written for its key."""
    failed, later = [inbox_row("s/a/do", attempt=n, outcome=FAILED) for n in (1, 2)]
    keep, keep_later = (
        (desk.keep, desk.keep_written) if where == "bus" else (desk.keep_written, desk.keep)
    )
    await keep(failed)
    await keep_later(later, failed)
    database = desk.database if where == "bus" else desk.effects.database
    database.change(lambda cursor: cursor.execute("UPDATE saga_inbox SET outcome = 'dancing'"))

    kept = await desk.effects.kept(SERVICE, ["s/a/do"])
    assert "its outcome is" in kept.damaged["s/a/do"]
    assert await desk.keep(inbox_row("s/a/do", attempt=3), later)
    assert await desk.keep_written(inbox_row("s/a/do", attempt=3), later)


async def test_an_inbox_that_differs_is_refused_in_the_bus_too(desk: Desk, tmp_path: Path) -> None:
    """When a service opens it, and by `saga doctor`."""
    settings = Settings.read({}, store=f"sqlite:///{tmp_path}/saga.db")
    check_answers(settings)
    desk.database.change(lambda cursor: cursor.execute("ALTER TABLE saga_inbox ADD more TEXT"))

    with pytest.raises(SchemaDiffers, match=r"saga\.db: its effects tables"):
        check_answers(settings)
    again = SqliteEffectsStore(f"{tmp_path}/effects.db", beside=desk.database)
    with pytest.raises(SchemaDiffers, match=r"saga\.db: its effects tables"):
        await again.open()


@pytest.mark.parametrize(
    ("effects", "where"),
    [
        (None, {"bus": 1, "own": 0}),
        ("saga-effects.db", {"bus": 0, "own": 1}),
        ("elsewhere.db", {"bus": 0, "own": 1}),
        ("saga.db", {"bus": 1, "own": 1}),  # they are the same
    ],
)
async def test_an_address_says_where_all_rows_go(
    tmp_path: Path, effects: str | None, where: dict[str, int]
) -> None:
    """Without one, answers are in the bus's file where that is the store's too."""
    at = f"{tmp_path}/saga.db"
    address = None if effects is None else f"sqlite:///{tmp_path}/{effects}"
    settings = Settings.read(
        {}, bus=f"local:///{at}", store=f"sqlite:///{at}", effects_store=address
    )
    opened = open_bus_and_store(settings)
    await opened.bus.create_topics([TopicSpec(SOURCE.topic, 1)])
    store = open_effects_store(settings, beside=opened)
    await store.open()
    row = inbox_row("s/a/do")
    not_kept = await store.unit().keep([InboxWrite(row)], answer_of(row))

    assert len(not_kept.published) == where["bus"]
    counted = {}
    for name, database in (("bus", opened.files[0]), ("own", store.database)):
        counted[name] = database.read_now(
            lambda c: c.execute("SELECT count(*) FROM saga_inbox").fetchone()[0]
        )
    assert counted == where
    await store.close()
    await opened.close()
