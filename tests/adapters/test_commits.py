"""Where a commit is made: on the loop's thread while that holds up nobody, else on another one."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from saga.adapters.sqlite import commits, connection
from saga.adapters.sqlite.commits import BEGIN_S_MAX, Executor, WritingConnection
from saga.adapters.sqlite.connection import connect
from tests.patience import HANG_S


class Disk(sqlite3.Connection):
    """A connection to a disk that takes as long as told, and notes who waits for it."""

    takes_s = 0.0
    waited: ClassVar[list[str]] = []
    error: sqlite3.Error | None = None

    def execute(self, sql: str, *params):
        """Wait before a COMMIT, and fail it if told to."""
        if sql == "COMMIT":
            on_loop = threading.current_thread() is threading.main_thread()
            self.waited.append("loop" if on_loop else "beside")
            time.sleep(self.takes_s)
            if self.error is not None:
                raise self.error
        elif sql == "PRAGMA synchronous=FULL":
            sql = "PRAGMA synchronous=OFF"  # only the waits made here count
        elif "wal_checkpoint" in sql:
            on_loop = threading.current_thread() is threading.main_thread()
            self.waited.append("checkpoint on loop" if on_loop else "checkpoint beside")
        return super().execute(sql, *params)


class Desk:
    """A file, its writing connection and a disk whose speed is set."""

    def __init__(self, path: Path) -> None:
        connect(str(path)).execute("PRAGMA journal_mode=WAL").connection.close()
        self.writing = WritingConnection(str(path))
        self.disk = self.writing.connection
        self.disk.execute("CREATE TABLE n (i)")
        Disk.waited.clear()

    async def commit(self, takes_s: float = 0.0) -> BaseException | None:
        """Commit a row; what the commit raised."""
        ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.disk.takes_s = takes_s
        self.disk.execute("BEGIN IMMEDIATE")
        self.disk.execute("INSERT INTO n VALUES (1)")
        self.writing.commit(ended.set_result)
        return await ended


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Limits so far apart that a slow machine crosses none of them by itself."""
    monkeypatch.setattr(commits, "QUICK_S", 0.2)
    monkeypatch.setattr(commits, "HELD_UP_S", 0.4)
    monkeypatch.setattr(commits, "WARY_S", 60.0)
    monkeypatch.setattr(connection.sqlite3, "connect", partial(sqlite3.connect, factory=Disk))
    desk = Desk(tmp_path / "f.db")
    yield desk
    desk.writing.close()


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
    desk: Desk,
) -> None:
    """However quick it is meanwhile."""
    for takes_s in (0.45, 0, 0, 0):
        await desk.commit(takes_s)
    assert desk.disk.waited == ["loop", "beside", "beside", "beside"]

    desk.writing._wary_until_s = 0.0  # noqa: SLF001
    await desk.commit()
    assert desk.disk.waited[-1] == "loop"


async def test_checkpoints_are_made_beside_the_loop(desk: Desk) -> None:
    """They may take long, whatever the commits do."""
    await desk.commit()
    desk.writing._beside.checkpointer.is_rest_wanted = True  # noqa: SLF001
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


@pytest.fixture
def executor():
    """A thread at work."""
    executor = Executor("test")
    yield executor
    executor.close(wait=True)


async def test_what_is_begun_goes_on_while_the_loop_works(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's thread never lets go of the interpreter here, and yet the order is carried out."""
    monkeypatch.setattr(commits, "BEGIN_S_MAX", HANG_S)  # however busy the machine is
    events: list[str] = []
    has_slept = threading.Event()
    ended = asyncio.get_running_loop().create_future()

    def act() -> None:
        events.append("begun")
        has_slept.wait(HANG_S)

    executor.begin(act, ended.set_result)
    events.append("loop")
    has_slept.set()

    assert await ended is None
    assert events == ["begun", "loop"]


async def test_a_thread_that_is_busy_holds_up_nobody(executor: Executor) -> None:
    """The loop goes on after a moment; the order is carried out in its turn."""
    loop = asyncio.get_running_loop()
    release = threading.Event()
    ended: list[str] = []
    first = loop.create_future()
    second = loop.create_future()
    is_busy = threading.Event()

    def work() -> None:
        is_busy.set()
        release.wait(HANG_S)

    executor.call(work, first.set_result)
    assert is_busy.wait(HANG_S)

    began_s = time.monotonic()
    executor.begin(lambda: ended.append("second"), second.set_result)
    took_s = time.monotonic() - began_s

    assert took_s > BEGIN_S_MAX / 2
    assert not first.done()
    assert ended == []
    release.set()
    await asyncio.gather(first, second)
    assert ended == ["second"]


async def test_after_a_wait_in_vain_the_next_order_is_waited_for_again(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late beginning of an order is not taken for that of the next one."""
    loop = asyncio.get_running_loop()
    release = threading.Event()
    first, second, third = (loop.create_future() for _ in range(3))
    executor.call(lambda: release.wait(HANG_S) and None, first.set_result)
    executor.begin(lambda: None, second.set_result)
    release.set()
    await asyncio.gather(first, second)
    events: list[str] = []
    monkeypatch.setattr(commits, "BEGIN_S_MAX", HANG_S)

    executor.begin(lambda: events.append("begun"), third.set_result)
    events.append("loop")
    await third

    assert events == ["begun", "loop"]


async def test_an_error_of_an_order_is_handed_over(executor: Executor) -> None:
    """Whoever gave the order is told, and the thread lives on."""

    def broken() -> None:
        raise LookupError("a bug")

    answers: asyncio.Queue[object] = asyncio.Queue()
    for act in (broken, lambda: None):
        executor.call(act, answers.put_nowait)

    assert isinstance(await answers.get(), LookupError)
    assert await answers.get() is None


def test_a_checkpointer_that_fails_begins_anew(tmp_path: Path, monkeypatch) -> None:
    """Its thread goes on: without it the log would grow for ever."""
    moved = threading.Event()
    failures = iter([LookupError("no more"), sqlite3.ProgrammingError("closed")])

    def move(self, connection, commits, *, is_asked) -> None:
        if error := next(failures, None):
            raise error
        moved.set()

    monkeypatch.setattr(commits, "IDLE_S", 0.001)
    monkeypatch.setattr(commits.Checkpointer, "_move", move)
    connect(str(tmp_path / "a.db")).execute("PRAGMA journal_mode=WAL").connection.close()
    checkpointer = commits.Checkpointer(str(tmp_path / "a.db"))
    checkpointer.committed()

    assert moved.wait(30)
    checkpointer.close()
