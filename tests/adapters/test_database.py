"""What can go wrong with a file, and that group commit keeps jobs apart."""

# ruff: noqa: ASYNC221, ASYNC240 - a test may block its own event loop

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from saga.adapters.clocks import ManualClock
from saga.adapters.sqlite import LocalBus, SqliteDatabase, SqliteEventStore, commits, connection
from saga.adapters.sqlite.schema import STORE_VERSION
from saga.errors import BusUnavailable, StoreTooNew, StoreUnavailable
from saga.ports.bus import TopicSpec
from saga.testing import samples
from saga.testing.samples import MOMENT, saga
from tests.adapters.processes import ROOT

COUNT = "SELECT count(*) FROM n"


def _create(cursor: sqlite3.Cursor) -> None:
    cursor.execute("CREATE TABLE IF NOT EXISTS n (i INTEGER PRIMARY KEY, blob BLOB)")


def _insert(number: int, size: int = 0):
    def job(cursor: sqlite3.Cursor) -> int:
        cursor.execute("INSERT INTO n VALUES (?, zeroblob(?))", (number, size))
        return number

    return job


async def _numbers(database: SqliteDatabase) -> list[int]:
    rows = await database.read(lambda c: c.execute("SELECT i FROM n ORDER BY i").fetchall())
    return [number for (number,) in rows]


async def test_jobs_that_wait_together_are_all_recorded(database: SqliteDatabase) -> None:
    """Far more at once than one commit takes: each gets its own answer."""
    await database.write(_create)

    answers = await asyncio.gather(*(database.write(_insert(n)) for n in range(3000)))

    assert answers == list(range(3000))
    assert await _numbers(database) == list(range(3000))
    assert database.commits[0] < 300, "jobs that wait together share a commit"


async def test_a_failing_job_takes_nobody_with_it(database: SqliteDatabase) -> None:
    """Only its own writes are undone, and only it hears of its error."""
    await database.write(_create)

    def half(cursor: sqlite3.Cursor) -> None:
        _insert(100)(cursor)
        raise ValueError("half way")

    jobs = [_insert(1), half, _insert(2), _insert(1), _insert(3), half, _insert(4)]
    answers = await asyncio.gather(*map(database.write, jobs), return_exceptions=True)

    taken = sqlite3.IntegrityError
    assert [*map(type, answers)] == [int, ValueError, int, taken, int, ValueError, int]
    assert await _numbers(database) == [1, 2, 3, 4]


async def test_what_was_committed_is_told_in_order_even_to_nobody(database: SqliteDatabase) -> None:
    """The callback runs for each job, before its caller goes on, also when the caller is gone."""
    await database.write(_create)
    told: list[int] = []
    writes = [database.write(_insert(n), on_commit=told.append) for n in range(9)]
    writes[4].cancel()

    await asyncio.gather(*writes, return_exceptions=True)

    assert told == list(range(9))


async def test_all_of_a_commit_is_on_its_way_before_anybody_goes_on(
    database: SqliteDatabase,
) -> None:
    """What was written last may be what the next step waits for."""
    await database.write(_create)
    told: list[object] = []
    soon = partial(asyncio.get_running_loop().call_soon, told.append)
    first, second = (database.write(_insert(n), on_commit=soon) for n in range(2))
    first.add_done_callback(lambda _: told.append("the first goes on"))

    await asyncio.gather(first, second)

    assert told == [0, 1, "the first goes on"]


async def test_close_finishes_what_was_accepted(path: Path) -> None:
    """Closing twice is closing once; whoever comes later is told."""
    database = SqliteDatabase(path)
    await database.write(_create)
    writes = [database.write(_insert(n)) for n in range(50)]

    await asyncio.gather(database.close(), database.close())
    await database.close()

    assert await asyncio.gather(*writes) == list(range(50))
    for late in (database.write, database.read):
        with pytest.raises(StoreUnavailable, match="closed"):
            await late(_create)
    with pytest.raises(StoreUnavailable, match="closed"):
        database.read_now(_create)
    assert not Path(f"{path}-wal").exists()


async def test_the_folder_is_made(tmp_path: Path) -> None:
    """A path of which nothing exists yet is as good as any."""
    database = SqliteDatabase(tmp_path / "a" / "b" / "saga.db")
    await database.close()

    assert (tmp_path / "a" / "b" / "saga.db").exists()


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """The message names the file and says what to do; the file is not touched."""
    path.write_text("Dear diary, " * 1000)

    with pytest.raises(StoreUnavailable, match=r"saga\.db: it is no SQLite database: name another"):
        SqliteDatabase(path)

    assert path.read_text().startswith("Dear diary")


def test_a_folder_in_the_way_is_named(path: Path, tmp_path: Path) -> None:
    """Neither a folder where the file should be, nor a file where a folder should be."""
    path.mkdir()
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailable, match=r"saga\.db: it cannot be opened"):
        SqliteDatabase(path)
    with pytest.raises(StoreUnavailable, match=r"file.saga\.db: "):
        SqliteDatabase(tmp_path / "file" / "saga.db")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, mounted for this test."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a disk")
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_a_read_only_disk_is_named(small_disk: Path) -> None:
    """Before anything starts, with what to do."""
    await SqliteDatabase(small_disk / "saga.db").close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with pytest.raises(StoreUnavailable, match=r"saga\.db: .*(read-only|cannot be opened)"):
        SqliteDatabase(small_disk / "saga.db")
    with pytest.raises(StoreUnavailable, match=r"new.*: Read-only file system"):
        SqliteDatabase(small_disk / "new" / "saga.db")


async def test_a_full_disk_is_survived(small_disk: Path) -> None:
    """What does not fit is refused whole, what was recorded stays, and room is all it takes."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    database = SqliteDatabase(small_disk / "saga.db")
    await database.write(_create)
    recorded: list[int] = []

    async def fill() -> None:
        while len(recorded) < 100:
            recorded.append(await database.write(_insert(len(recorded), 20_000)))

    with pytest.raises(StoreUnavailable, match=r"saga\.db: the disk (is full|reports)"):
        await fill()
    assert await _numbers(database) == recorded

    ballast.unlink()
    await database.write(_insert(1000, 20_000))

    assert await _numbers(database) == [*recorded, 1000]
    await database.close()


async def test_a_full_database_is_survived(database: SqliteDatabase) -> None:
    """The same, in a group of jobs of which some fit and some do not."""
    await database.write(_create)
    await database.write(lambda c: c.execute("PRAGMA max_page_count=20").fetchone())

    jobs = [_insert(n, size) for n, size in enumerate([10, 500_000, 10, 500_000])]
    answers = await asyncio.gather(*map(database.write, jobs), return_exceptions=True)

    kept = [n for n, answer in enumerate(answers) if not isinstance(answer, Exception)]
    assert all(isinstance(answers[n], StoreUnavailable) for n in (1, 3))
    assert await _numbers(database) == kept
    await database.write(lambda c: c.execute("PRAGMA max_page_count=100000").fetchone())
    await database.write(_insert(9, 500_000))


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_file_replaced_while_open_is_noticed(path: Path, suffix: str) -> None:
    """Writing on would be writing into nowhere. Put back, it goes on."""
    database = SqliteDatabase(path)
    await database.write(_create)
    file = Path(f"{path}{suffix}")
    file.rename(f"{file}.away")

    for other in (None, b"another"):
        if other is not None:
            file.write_bytes(other)
        with pytest.raises(StoreUnavailable, match=r"saga\.db: .*replaced or deleted"):
            await database.write(_insert(1))
    Path(f"{file}.away").rename(file)

    assert await database.write(_insert(2)) == 2
    await database.close()


async def test_a_lock_that_is_never_released_is_named(
    database: SqliteDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds up work for some seconds, then it is said so."""
    await database.write(_create)
    monkeypatch.setattr(commits, "BUSY_TIMEOUT_S", 0.02)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="another process keeps it locked"):
        await database.write(_insert(1))
    other.execute("ROLLBACK")
    other.close()

    assert await database.write(_insert(1)) == 1


class CutConnection(sqlite3.Connection):
    """Answers COMMIT with an error of the disk, after or instead of doing it."""

    cuts = 0
    is_done = False

    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
        """As ever, but for some commits."""
        if sql != "COMMIT" or not CutConnection.cuts:
            return super().execute(sql, *args)
        CutConnection.cuts -= 1
        if CutConnection.is_done:
            super().execute(sql)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error


@pytest.mark.parametrize("is_done", [True, False])
async def test_an_error_at_commit_is_looked_into(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, is_done: bool
) -> None:
    """If the batch is stored all the same, that is success; else nothing of it was recorded."""
    real = sqlite3.connect
    monkeypatch.setattr(
        connection.sqlite3,
        "connect",
        lambda *args, **options: real(*args, **options, factory=CutConnection),
    )
    database = SqliteDatabase(path)
    store = SqliteEventStore(database)
    monkeypatch.setattr(CutConnection, "cuts", 1)
    monkeypatch.setattr(CutConnection, "is_done", is_done)
    append = store.append(samples.batch(samples.history(saga(1))), at=MOMENT)

    if is_done:
        await append
    else:
        with pytest.raises(StoreUnavailable, match="input/output error"):
            await append

    assert CutConnection.cuts == 0
    assert bool(await store.load([saga(1)])) == is_done
    await store.append(samples.batch(samples.history(saga(1), int(is_done))), at=MOMENT)
    await database.close()


async def test_a_store_of_a_newer_version_is_refused(database: SqliteDatabase) -> None:
    """Both versions are named; nothing is written."""
    SqliteEventStore(database)
    await database.write(lambda c: c.execute("UPDATE saga_schema SET version = 7"))

    with pytest.raises(StoreTooNew, match=f"have version 7, this saga knows up to {STORE_VERSION}"):
        SqliteEventStore(database)


async def test_an_older_schema_is_migrated_forward(database: SqliteDatabase) -> None:
    """Only by what is missing, in one transaction: a step that fails leaves it as it was."""

    def second(cursor: sqlite3.Cursor) -> None:
        cursor.execute("ALTER TABLE n ADD COLUMN more TEXT")

    def broken(cursor: sqlite3.Cursor) -> None:
        cursor.execute("DROP TABLE n")
        raise RuntimeError("broken")

    database.migrate("n", (_create,))
    with pytest.raises(RuntimeError):
        database.migrate("n", (_create, second, broken))
    for _ in range(2):
        database.migrate("n", (_create, second))

    await database.write(lambda c: c.execute("INSERT INTO n (i, more) VALUES (1, 'x')"))
    with pytest.raises(StoreTooNew):
        database.migrate("n", (_create,))


async def test_tables_are_made_while_somebody_reads(database: SqliteDatabase) -> None:
    """Who reads on sees the file as it was, on the connection that is used to look into it."""

    def begin_to_read(cursor: sqlite3.Cursor) -> sqlite3.Cursor:
        cursor.execute("SELECT name FROM sqlite_master CROSS JOIN (VALUES (1), (2))")
        cursor.fetchone()
        return cursor

    cursor = database.read_now(begin_to_read)
    database.migrate("numbers", [_create])
    cursor.close()

    assert await _numbers(database) == []


async def test_two_processes_may_make_the_tables_at_once(path: Path) -> None:
    """Whoever is second finds them made."""
    code = (
        "import sys; from saga.adapters.sqlite import *; "
        "from saga.adapters.clocks import SystemClock; database = SqliteDatabase(sys.argv[1]); "
        "SqliteEventStore(database); LocalBus(database, clock=SystemClock())"
    )
    starts = [
        asyncio.create_subprocess_exec(sys.executable, "-c", code, str(path), cwd=ROOT)
        for _ in range(3)
    ]
    processes = await asyncio.gather(*starts)

    assert [await process.wait() for process in processes] == [0, 0, 0]


async def test_the_write_ahead_log_stays_small(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are made beside the commits, and the log begins anew while work goes on."""
    monkeypatch.setattr(commits, "FRAMES_TARGET", 64)
    monkeypatch.setattr(commits, "COMMITS_FIRST", 8)
    database = SqliteDatabase(path)
    await database.write(_create)
    written = 0
    while written < 600 or (path.stat().st_size < written * 4_000 and written < 6000):
        await database.write(_insert(written, 8_000))
        written += 1

    assert path.stat().st_size >= written * 4_000
    assert Path(f"{path}-wal").stat().st_size < written * 4_000
    await database.close()


async def test_a_bus_says_of_a_file_that_it_is_the_bus_that_is_away(
    path: Path, clock: ManualClock
) -> None:
    """Each port has its own error, with the same message."""
    database = SqliteDatabase(path)
    bus = LocalBus(database, clock=clock)
    await bus.create_topics([TopicSpec("t", 1)])
    path.rename(f"{path}.away")

    with pytest.raises(BusUnavailable, match="replaced or deleted"):
        await bus.publish([samples.record("t")])

    Path(f"{path}.away").rename(path)
    await bus.publish([samples.record("t")])
    await bus.close()
    await database.close()


class TestReadOnly:
    """A file that this user may only read, opened by who asks for no more."""

    @pytest.fixture
    async def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A database with a table, which cannot be written any more."""
        path = tmp_path / "saga.db"
        database = SqliteDatabase(path)
        database.migrate("things", (_create,))
        await database.close()

        def refuse(path: str) -> NoReturn:
            raise StoreUnavailable(f"{path}: it is read-only")

        monkeypatch.setattr("saga.adapters.sqlite.database._prepare", refuse)
        return path

    async def test_it_is_read_and_not_written(self, path: Path) -> None:
        """Whatever is asked of it, the file stays as it is."""
        before = path.read_bytes()
        database = SqliteDatabase(path, is_to_write=False)
        database.migrate("things", (_create,))

        assert await database.read(lambda cursor: cursor.execute(COUNT).fetchone()) == (0,)
        assert database.read_now(lambda cursor: cursor.execute(COUNT).fetchone()) == (0,)
        with pytest.raises(StoreUnavailable, match="opened to be read"):
            await database.write(_insert(1))
        await database.close()
        await database.close()
        assert path.read_bytes() == before

    async def test_older_tables_are_said_to_be_too_old(self, path: Path) -> None:
        """They would have to be changed first; newer ones need another program, as ever."""
        database = SqliteDatabase(path, is_to_write=False)
        with pytest.raises(StoreUnavailable, match=r"version 1, this saga needs 2.* read-only"):
            database.migrate("things", (_create, _create))
        with pytest.raises(StoreUnavailable, match="version 0, this saga needs 1"):
            database.migrate("others", (_create,))
        with pytest.raises(StoreTooNew):
            database.migrate("things", ())
        await database.close()

    @pytest.mark.parametrize("is_to_write", [True, False])
    async def test_what_cannot_be_read_either_is_said(
        self, path: Path, tmp_path: Path, *, is_to_write: bool
    ) -> None:
        """As is what was to be written."""
        other = tmp_path / "other.db"
        other.write_bytes(b"no database, but long enough to look at" * 100)

        with pytest.raises(StoreUnavailable, match=r"other\.db: it is"):
            SqliteDatabase(other, is_to_write=is_to_write)
        with pytest.raises(StoreUnavailable, match=r"missing\.db: it is"):
            SqliteDatabase(tmp_path / "missing.db", is_to_write=is_to_write)
        assert not (tmp_path / "missing.db").exists()
