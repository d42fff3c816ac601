"""Real stores on a stage: each process has its own connection, and can go down in the middle of a
commit.
"""

# ruff: noqa: SLF001 - a commit is cut off inside of the adapters, where no port reaches

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from saga.adapters.postgres import Address, PostgresCatalogue, PostgresDatabase, PostgresEventStore
from saga.adapters.sqlite import SqliteCatalogue, SqliteDatabase, SqliteEventStore
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId
from saga.ports import Appended, Batch
from saga.testing.world.ports import Forwarded
from saga.testing.world.process import Process
from tests.proxy import Cut, Proxy
from tests.simulation.crash_points.aim import How
from tests.simulation.crash_points.loop import StagedLoop


class Opened(NamedTuple):
    """A process's own connection to a store. *close* is told whether the process went down."""

    store: Any
    catalogue: Any
    commits: Any
    close: Callable[..., Awaitable[None]]


COMMIT = "commit"
"""The boundary inside of an append: everything is written, and COMMIT is about to be said."""


class Busy(Forwarded):
    """A real thing, whose calls are waited for in real time."""

    def __init__(self, thing, loop: StagedLoop) -> None:
        super().__init__(thing)
        self._loop = loop

    async def call(self, name: str, act):
        """Do *act*, and let real time pass meanwhile."""
        with self._loop.working():
            return await act()


class Stored:
    """The entries that are known to be stored, and when each was."""

    def __init__(self) -> None:
        self.at: dict[tuple[SagaId, int], int] = {}
        self.histories: dict[SagaId, dict[int, Entry]] = {}

    def keep(self, entries: Iterable[Entry]) -> None:
        """Of an entry that is found again, the first one is kept."""
        for entry in entries:
            self.histories.setdefault(entry.saga_id, {}).setdefault(entry.version, entry)


class StagedStore(Busy):
    """A store, of which it is known what was stored when."""

    def __init__(self, store, process: Process, commits, stored: Stored) -> None:
        super().__init__(store, process.surroundings.loop)
        self._process = process
        self._commits = commits
        self._stored = stored

    async def now(self) -> None:
        """Time passes on the stage alone: a server's own clock would stand nearly still."""

    async def load(self, saga_ids: Sequence[SagaId]):
        """The histories, which may have entries that nobody knew to be stored."""
        with self._loop.working():
            loaded = await self.inner.load(saga_ids)
        self._see(loaded.values())
        return loaded

    async def tails(self, known: Mapping[SagaId, int]):
        """As `load`, of what is behind the turns that are known."""
        with self._loop.working():
            tails = await self.inner.tails(known)
        self._see(tails.values())
        return tails

    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        """Record the whole batch, or nothing of it."""
        if batch.histories or batch.positions or batch.timers_cleared or batch.unhandled:
            self._commits.how = self._process.surroundings.faults.takes(COMMIT)
        with self._loop.working():
            appended = await self.inner.append(batch, at=at)
        self._see(history.entries for history in batch.histories)
        return appended

    async def backlog(self, **which):
        """What is stored and perhaps not published yet."""
        with self._loop.working():
            found = await self.inner.backlog(**which)
        self._see(each.entries for each in found)
        return found

    def _see(self, seen: Iterable[Iterable[Entry]]) -> None:
        """Note what is stored, as soon as anybody knows; the first time counts.

        Another process may load and publish it before the append that stored it has returned, and
        one whose COMMIT was lost may find another's entries, which are the same.
        """
        at = self._stored.at
        entries = [entry for each in seen for entry in each]
        self._stored.keep(entries)
        new = [key for entry in entries if (key := (entry.saga_id, entry.version)) not in at]
        if new:
            at.update(dict.fromkeys(new, self._process.surroundings.next_number()))

    def history(self, saga_id: SagaId) -> Sequence[Entry]:
        """What is stored of a saga that somebody has loaded or begun."""
        return [entry for _, entry in sorted(self._stored.histories.get(saga_id, {}).items())]


class SqlitePlace:
    """A file."""

    orchestrators = 1

    def __init__(self, folder: Path) -> None:
        self._path = folder / "saga.db"

    async def open(self, process: Process | None) -> Opened:
        """Connect for *process*."""
        database = SqliteDatabase(self._path)
        commits = _SqliteCommits(database, process)

        async def close(*, is_crashed: bool) -> None:
            await database.close()

        return Opened(SqliteEventStore(database), SqliteCatalogue(database), commits, close)


class _SqliteCommits:
    def __init__(self, database: SqliteDatabase, process: Process | None) -> None:
        self.how: How | None = None
        self._process = process
        self._writing = database.writer.writing
        self._really_commit = self._writing._commit
        self._writing._commit = self._commit  # type: ignore[method-assign]

    def _commit(self) -> None:
        how, self.how = self.how, None
        process = self._process
        if how is None or process is None:
            self._really_commit()
            return
        is_done = how in {How.DIES, How.ANSWER_LOST}
        self._writing.connection.execute("COMMIT" if is_done else "ROLLBACK")
        lost = sqlite3.OperationalError("made up: the answer is lost")
        lost.sqlite_errorname = "SQLITE_IOERR"
        if how in {How.ANSWER_LOST, How.FAILS}:
            process.surroundings.faults.happened[how] += 1
            raise lost
        process.surroundings.loop.call_soon_threadsafe(partial(process.crash, COMMIT))
        raise lost


class PostgresPlace:
    """A database, emptied."""

    orchestrators = 2

    def __init__(self, url: str) -> None:
        self._url = url
        with psycopg.connect(url) as connection:
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public' "
                "AND tablename <> 'saga_schema'"
            ).fetchall()
            # Tables of a few rows: this takes a tenth of the time of a TRUNCATE.
            connection.execute("; ".join(f"DELETE FROM {name}" for (name,) in tables))

    async def open(self, process: Process | None) -> Opened:
        """Connect for *process*, through a proxy of its own."""
        commits = _PostgresCommits(process)
        proxy = Proxy(self._url)
        proxy.at_commit, proxy.on_cut = commits.at_commit, commits.on_cut
        if process is not None:
            process.on_crash.append(proxy.shut)
        database = PostgresDatabase(Address(proxy.url), connections_max=3)
        store = await asyncio.to_thread(PostgresEventStore, database)

        async def close(*, is_crashed: bool) -> None:
            if is_crashed and database._pool is not None:
                await database._pool.close(timeout=0)
            await database.close()
            proxy.close()

        return Opened(store, PostgresCatalogue(database), commits, close)


class _PostgresCommits:
    def __init__(self, process: Process | None) -> None:
        self.how: How | None = None
        self._cut_as: How | None = None
        self._process = process

    def at_commit(self) -> Cut | None:
        """What happens to the COMMIT that is passing."""
        how, self.how = self.how, None
        self._cut_as = how or self._cut_as
        match how:
            case How.DIES_BEFORE | How.FAILS:
                return Cut.BEFORE
            case How.DIES | How.ANSWER_LOST:
                return Cut.AFTER
            case _:
                return None

    def on_cut(self) -> None:
        """The connection is lost, and with it perhaps its process."""
        process, how = self._process, self._cut_as
        if process is None or how is None:
            return
        if how in {How.ANSWER_LOST, How.FAILS}:
            process.surroundings.faults.happened[how] += 1
        else:
            process.surroundings.loop.call_soon_threadsafe(partial(process.crash, COMMIT))
