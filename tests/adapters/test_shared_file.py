"""One file for event store, bus and effects: one owner, whose jobs and handlers take turns."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from saga.adapters.opening import open_bus_and_store, open_effects_store
from saga.adapters.sqlite import SqliteDatabase, SqliteEffectsStore, SqliteEventStore, writer
from saga.errors import StoreUnavailable, TransactionEnded
from saga.ports.effects_store import InboxWrite
from saga.settings import Settings
from saga.testing import samples
from saga.testing.effects_store_suite import SERVICE, inbox_row
from saga.testing.samples import MOMENT, saga


@pytest.fixture
async def store(database: SqliteDatabase):
    """An event store."""
    return SqliteEventStore(database)


@pytest.fixture
async def effects(database: SqliteDatabase):
    """An effects store in the same file, with a table of its own."""
    effects = SqliteEffectsStore(database)
    await effects.open()
    await database.write(lambda cursor: cursor.execute("CREATE TABLE t (n INTEGER UNIQUE)"))
    yield effects
    await effects.close()


def turn(number: int):
    """A saga's first turn."""
    return samples.batch(samples.history(saga(number)))


def keep(unit, key: str):
    """End *unit* with a row."""
    return unit.keep((InboxWrite(inbox_row(key)),))


async def numbers(database: SqliteDatabase) -> list[int]:
    """What handlers have written."""
    rows = await database.read(lambda c: c.execute("SELECT n FROM t ORDER BY n").fetchall())
    return [number for (number,) in rows]


@pytest.mark.parametrize("name", ["saga.db", "folder/../saga.db", "link.db"])
async def test_a_file_with_several_addresses_has_one_owner(tmp_path: Path, name: str) -> None:
    """However its address is written."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "saga.db")
    at = f"{tmp_path}/saga.db"
    settings = Settings.read(
        {},
        bus=f"local:///{at}",
        store=f"sqlite:///{at}",
        effects_store=f"sqlite:///{tmp_path}/{name}",
    )
    opened = open_bus_and_store(settings)
    effects = open_effects_store(settings, beside=opened)
    await effects.open()

    assert effects.database is opened.files[0]
    await effects.close()
    await opened.store.append(turn(1), at=MOMENT)
    await opened.close()


async def test_turns_and_rows_of_services_share_a_commit(
    database: SqliteDatabase, store: SqliteEventStore, effects: SqliteEffectsStore
) -> None:
    """Whether a handler has written by itself or not."""
    written = effects.unit()
    before, _ = database.commits
    await written.db.execute("INSERT INTO t VALUES (1)")
    turns = [asyncio.ensure_future(store.append(turn(number), at=MOMENT)) for number in (1, 2)]
    await asyncio.sleep(0)
    kept = [keep(written, "written"), keep(effects.unit(), "row")]
    await asyncio.gather(*turns, *kept)

    assert database.commits[0] - before == 1
    assert await numbers(database) == [1]
    assert await effects.kept(SERVICE, ["written", "row"]) == {
        key: inbox_row(key) for key in ("written", "row")
    }


async def test_a_job_that_fails_takes_no_handler_with_it(
    database: SqliteDatabase, effects: SqliteEffectsStore
) -> None:
    """What a handler has written cannot be written again by anybody else."""
    unit = effects.unit()
    await unit.db.execute("INSERT INTO t VALUES (1)")
    jobs = [
        database.write(
            lambda cursor, n=n: cursor.execute("INSERT INTO t VALUES (?)", (n,)).rowcount
        )
        for n in (2, 1, 3)
    ]
    kept = keep(unit, "k")
    answers = await asyncio.gather(*jobs, return_exceptions=True)

    assert [type(answer) for answer in answers] == [int, sqlite3.IntegrityError, int]
    assert not await kept
    assert await numbers(database) == [1, 2, 3]


async def test_a_handler_holds_up_turns_no_longer_than_another_process_would(
    store: SqliteEventStore, effects: SqliteEffectsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fail, as where the file is locked; it and those before it lose nothing."""
    monkeypatch.setattr(writer, "BUSY_TIMEOUT_S", 0.02)
    before, slow = effects.unit(), effects.unit()
    await before.db.execute("INSERT INTO t VALUES (1)")
    kept = keep(before, "before")
    await slow.db.execute("INSERT INTO t VALUES (2)")

    with pytest.raises(StoreUnavailable, match=r"a handler that uses ctx\.db keeps it"):
        await store.append(turn(1), at=MOMENT)
    assert not kept.done()
    await store_again(store, slow)
    assert not await kept
    assert len(await effects.kept(SERVICE, ["before", "slow"])) == 2


async def store_again(store: SqliteEventStore, slow) -> None:
    """The turn that was refused, once the handler has ended."""
    again = asyncio.ensure_future(store.append(turn(1), at=MOMENT))
    await asyncio.sleep(0)
    assert not await keep(slow, "slow")
    await again


async def test_turns_that_wait_for_a_handler_come_before_those_in_line_for_long(
    database: SqliteDatabase, store: SqliteEventStore, effects: SqliteEffectsStore
) -> None:
    """Handlers that follow one another do not put a commit off for ever."""
    ended = asyncio.Event()
    handled = 0

    async def handle() -> None:
        nonlocal handled
        while not ended.is_set():
            unit = effects.unit()
            await unit.db.execute("SELECT 1")
            await asyncio.sleep(0.002)
            unit.drop()
            handled += 1

    handlers = [asyncio.create_task(handle()) for _ in range(3)]
    await asyncio.sleep(0)
    for number in range(3):
        await store.append(turn(number), at=MOMENT)
    ended.set()
    await asyncio.gather(*handlers)

    assert handled > 0
    assert len(await store.load([saga(number) for number in range(3)])) == 3


async def test_a_handler_that_ends_its_transaction_takes_no_turn_with_it(
    database: SqliteDatabase, store: SqliteEventStore, effects: SqliteEffectsStore
) -> None:
    """Turns are written when it has left; those before it are told to look again."""
    before, tampering = effects.unit(), effects.unit()
    await before.db.execute("INSERT INTO t VALUES (1)")
    kept = keep(before, "before")
    await tampering.db.execute("INSERT INTO t VALUES (2)")
    appended = asyncio.ensure_future(store.append(turn(1), at=MOMENT))
    await asyncio.sleep(0)
    tampering.raw().execute("ROLLBACK")

    with pytest.raises(TransactionEnded):
        keep(tampering, "tampering")

    assert list(await kept) == [before]
    await appended
    assert await numbers(database) == []
    assert await effects.kept(SERVICE, ["before", "tampering"]) == {}


async def test_closing_the_effects_store_leaves_the_file_to_others(
    store: SqliteEventStore, effects: SqliteEffectsStore
) -> None:
    """What its handlers have not kept is undone at once."""
    unit = effects.unit()
    await unit.db.execute("INSERT INTO t VALUES (1)")
    await effects.close()

    await store.append(turn(1), at=MOMENT)
    unit.drop()
    await effects.open()
    assert not await keep(effects.unit(), "k")
