"""What is particular to the effects store in SQLite: its file, its threads, its groups."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from saga.adapters.sqlite import SqliteEffectsStore, writer
from saga.core.events import ReplyOutcome
from saga.core.identity import Instant
from saga.errors import StoreTooNew, StoreUnavailable
from saga.ports.effects_store import InboxRow, InboxWrite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that does not exist yet, in a folder that does not either."""
    return tmp_path / "new" / "effects.db"


@pytest.fixture
async def store(path: Path):
    store = SqliteEffectsStore(str(path))
    await store.open()
    yield store
    await store.close()


def write(key: str) -> tuple[InboxWrite]:
    row = InboxRow("s", key, 1, ReplyOutcome.DONE, None, None, None, None, b"d", Instant(1))
    return (InboxWrite(row),)


def rename(old: Path, new: Path) -> None:
    """As an operator might, while the service runs."""
    old.rename(new)


async def test_units_that_end_together_share_a_commit(store):
    first, second = store.unit().keep(write("a")), store.unit().keep(write("b"))
    assert first is second

    await first

    assert store.unit().keep(write("c")) is not first


async def test_a_group_that_is_full_is_committed_before_others_go_on(store, monkeypatch):
    """A long line does not put a commit off for ever."""
    monkeypatch.setattr(writer, "HANDLERS_S_MAX", 60)
    unit = store.unit()
    await unit.db.execute("CREATE TABLE t (n INTEGER)")
    await unit.keep(())
    futures: list[asyncio.Future] = []

    async def insert(number: int) -> None:
        unit = store.unit()
        await unit.db.execute("INSERT INTO t VALUES (:n)", n=number)
        await asyncio.sleep(0)
        futures.append(unit.keep(write(str(number))))

    await asyncio.gather(*(insert(number) for number in range(300)))
    await asyncio.gather(*futures)

    assert len(set(futures)) == 2


async def test_a_lock_of_another_process_is_waited_for_off_the_loop(store, path):
    """The loop goes on meanwhile, and the handler goes on afterwards."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    unit = store.unit()
    waiting = asyncio.ensure_future(unit.db.execute("CREATE TABLE t (n INTEGER)"))
    for _ in range(5):
        await asyncio.sleep(0.002)
        assert not waiting.done()
    other.execute("COMMIT")
    other.close()

    await waiting
    await unit.keep(write("k"))


async def test_waiting_for_another_process_can_be_cancelled(store, path):
    """The connection is used again only after the thread has returned it."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    given_up, patient = store.unit(), store.unit()
    waiting = asyncio.ensure_future(given_up.db.execute("CREATE TABLE lost (n INTEGER)"))
    await asyncio.sleep(0.005)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    given_up.drop()
    behind = asyncio.ensure_future(patient.db.execute("CREATE TABLE t (n INTEGER)"))
    await asyncio.sleep(0.005)
    assert not behind.done()
    other.execute("COMMIT")
    other.close()

    await behind
    assert not await patient.keep(write("k"))


async def test_a_file_that_was_deleted_takes_no_more(store, path):
    """A write to a file without a name is refused, not lost."""
    await store.unit().keep(write("a"))
    hidden = path.with_name("hidden")
    rename(path, hidden)
    with pytest.raises(StoreUnavailable, match="replaced or deleted"):
        await store.unit().keep(write("b"))
    rename(hidden, path)

    await store.unit().keep(write("b"))
    assert set(await store.kept("s", ["a", "b"])) == {"a", "b"}


async def test_a_newer_file_is_refused(path):
    store = SqliteEffectsStore(str(path))
    await store.open()
    await store.close()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE saga_schema SET version = 99")
    file.close()

    with pytest.raises(StoreTooNew, match="effects tables have version 99"):
        await SqliteEffectsStore(str(path)).open()


@pytest.fixture(params=["no database", "a folder", "in a file"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path at which there cannot be a store."""
    path = tmp_path / "bad"
    if request.param == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b"no database" * 100)
    return path / "effects.db" if request.param == "in a file" else path


async def test_a_file_that_cannot_be_opened_is_named(unusable):
    """The error names the file or its folder."""
    with pytest.raises(StoreUnavailable, match=str(unusable.parent)):
        await SqliteEffectsStore(str(unusable)).open()


async def test_what_is_abandoned_leaves_nothing_uncommitted(path):
    """As when a process is killed: the next sees the kept rows, and can write at once."""
    killed = SqliteEffectsStore(str(path))
    await killed.open()
    await killed.unit().keep(write("kept"))
    unit = killed.unit()
    await unit.db.execute("CREATE TABLE t (n INTEGER)")
    untold = killed.unit().keep(write("lost"))
    killed.abandon()

    store = SqliteEffectsStore(str(path))
    await store.open()
    await store.unit().keep(write("next"))
    assert set(await store.kept("s", ["kept", "lost", "next"])) == {"kept", "next"}
    assert not untold.done()
    await store.close()


async def test_those_in_line_are_told_when_the_store_closes(store):
    """No caller waits for ever, least of all a thread."""
    holder, waiting = store.unit(), store.unit()
    await holder.db.execute("CREATE TABLE t (n INTEGER)")
    asked = asyncio.ensure_future(waiting.db.execute("INSERT INTO t VALUES (1)"))
    await asyncio.sleep(0)
    await store.close()

    with pytest.raises(StoreUnavailable):
        await asked
    assert waiting.is_broken
