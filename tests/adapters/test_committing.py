"""Where a commit is made: on the loop's thread while that holds up nobody, beside it otherwise."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from saga.adapters.sqlite import committing
from saga.adapters.sqlite.beside import Beside
from saga.adapters.sqlite.checkpoints import Checkpointer
from saga.adapters.sqlite.committing import Committer
from saga.adapters.sqlite.connections import connect


class Disk(sqlite3.Connection):
    """A connection to a disk that takes as long as told, and notes who waits for it."""

    takes_s = 0.0
    waited: list[str]
    error: sqlite3.Error | None = None

    def execute(self, sql: str, *params):
        """Wait before a COMMIT, and fail it if told to."""
        if sql == "COMMIT":
            on_loop = threading.current_thread() is threading.main_thread()
            self.waited.append("loop" if on_loop else "beside")
            time.sleep(self.takes_s)
            if self.error is not None:
                raise self.error
        elif "wal_checkpoint" in sql:
            on_loop = threading.current_thread() is threading.main_thread()
            self.waited.append("checkpoint on loop" if on_loop else "checkpoint beside")
        return super().execute(sql, *params)


class Desk:
    """A file, its committer and a disk whose speed is set."""

    def __init__(self, path: Path) -> None:
        connect(str(path)).execute("PRAGMA journal_mode=WAL").connection.close()
        self.disk = sqlite3.connect(
            path, factory=Disk, isolation_level=None, check_same_thread=False
        )
        self.disk.execute("PRAGMA synchronous=OFF")  # only the waits made here count
        self.disk.execute("CREATE TABLE n (i)")
        self.disk.waited = []
        self.beside = Beside("commits")
        self.beside.start()
        self.checkpointer = Checkpointer(str(path))
        self.committer = Committer(self.beside, self.checkpointer)

    async def commit(self, takes_s: float = 0.0) -> BaseException | None:
        """Commit a row; what the commit raised."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[BaseException | None] = loop.create_future()
        self.disk.takes_s = takes_s
        self.disk.execute("BEGIN IMMEDIATE")
        self.disk.execute("INSERT INTO n VALUES (1)")
        self.committer.commit(self.disk, ended.set_result, loop)
        assert not ended.done(), "nobody is told before the call has returned"
        return await ended


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Limits so far apart that a slow machine crosses none of them by itself."""
    monkeypatch.setattr(committing, "QUICK_S", 0.2)
    monkeypatch.setattr(committing, "HELD_UP_S", 0.4)
    monkeypatch.setattr(committing, "WARY_S", 60.0)
    desk = Desk(tmp_path / "f.db")
    yield desk
    desk.beside.close(wait=True)
    desk.disk.close()


async def test_a_quick_disk_is_waited_for_on_the_loop(desk: Desk) -> None:
    """A change of threads would cost as much as the commit."""
    assert [await desk.commit() for _ in range(3)] == [None] * 3

    assert desk.disk.waited == ["loop"] * 3


async def test_a_slow_disk_is_waited_for_beside_the_loop(desk: Desk) -> None:
    """From the commit after the first slow one on, until one was quick again."""
    for takes_s in (0.25, 0.25, 0, 0):
        await desk.commit(takes_s)

    assert desk.disk.waited == ["loop", "beside", "beside", "loop"]


async def test_a_disk_that_has_held_up_the_loop_is_not_trusted_for_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However quick it is meanwhile."""
    for takes_s in (0.45, 0, 0, 0):
        await desk.commit(takes_s)
    assert desk.disk.waited == ["loop", "beside", "beside", "beside"]

    monkeypatch.setattr(desk.committer, "_is_wary_until_s", 0.0)
    await desk.commit()
    assert desk.disk.waited[-1] == "loop"


async def test_checkpoints_are_made_beside_the_loop(desk: Desk) -> None:
    """They may take long, whatever the commits do."""
    await desk.commit()
    desk.checkpointer.is_rest_wanted = True
    await desk.commit()
    await desk.commit()

    assert desk.disk.waited == ["loop", "beside", "checkpoint beside", "loop"]


@pytest.mark.parametrize("where", ["loop", "beside"])
async def test_an_error_is_handed_over(desk: Desk, where: str) -> None:
    """Whoever asked for the commit is told what it raised, wherever it was made."""
    if where == "beside":
        await desk.commit(0.25)
    desk.disk.error = sqlite3.OperationalError("disk I/O error")

    assert await desk.commit() is desk.disk.error
    assert desk.disk.waited[-1] == where
