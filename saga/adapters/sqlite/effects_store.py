"""The effects store in one SQLite file: statements on the loop, slow commits in a thread.

One connection writes. A handler owns it from its first statement to its end; those that come
meanwhile wait in line. Units that have ended form a group, which is committed as soon as nobody is
in line, or when it is large or old. While the thread commits, handlers go on that do not need the
connection. A second connection reads the inbox, so that the next batch is looked up meanwhile.

Several services of one process share one such store, and with it the cost of a commit. Without
threads (`threaded=False`), as in simulated worlds, everything happens on the loop.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from saga.adapters.sqlite.beside import Beside
from saga.adapters.sqlite.checkpoints import Checkpointer
from saga.adapters.sqlite.committing import Committer
from saga.adapters.sqlite.connections import connect
from saga.adapters.sqlite.effects_group import Group, Settled, begin, write
from saga.adapters.sqlite.effects_inbox import create_inbox, select_rows
from saga.adapters.sqlite.effects_unit import SqliteUnit
from saga.adapters.sqlite.failures import translated, unavailable
from saga.adapters.sqlite.file_watch import FileWatch
from saga.errors import StoreUnavailable
from saga.ports.clock import Clock
from saga.ports.effects_store import InboxRow, InboxWrite, Unit

GROUP_UNITS_MAX: Final = 256
GROUP_AGE_S_MAX: Final = 0.010


class SqliteEffectsStore:
    """See `saga.ports.effects_store.EffectsStore`.

    Args:
        path: the file; made where there is none.
        clock: says how old a group is.
        threaded: commit, and wait for other processes, in a thread.
        connection: use this one for everything and leave it open at the end. Several stores may
            follow one another on it, as processes follow one another on a file.
    """

    def __init__(
        self,
        path: str,
        *,
        clock: Clock,
        threaded: bool = True,
        connection: sqlite3.Connection | None = None,
    ) -> None:
        self.path: Final = path
        self.threaded: Final = threaded
        self.commits_max: Final = 2
        self._clock = clock
        self._given = connection
        self._writer: sqlite3.Connection | None = connection
        self._reader: sqlite3.Connection | None = connection
        self._beside: Beside | None = None
        self._holder: SqliteUnit | None = None
        self._line: deque[tuple[SqliteUnit, asyncio.Future[None]]] = deque()
        self._group = Group(clock.monotonic_s())
        self._is_open = False
        self._watch: FileWatch | None = None
        self._closing: asyncio.Future[None] | None = None
        self._checkpointer: Checkpointer | None = None
        self._commits: Committer | None = None
        self._is_busy = False
        self._is_commit_due = False
        self._is_abandoned = False

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that writes.

        Raises:
            StoreUnavailable: the store is not open.
        """
        if self._writer is None:
            raise self._not_open()
        return self._writer

    async def open(self) -> None:
        """Connect and make the inbox where there is none."""
        if self._is_open:
            return
        if self.threaded:
            if self._beside is None:
                self._beside = Beside(f"commits to {self.path}")
                self._beside.start()
            await self._beside.run(self._open)
        else:
            self._open()
        self._is_open = True

    async def kept(self, service: str, keys: Sequence[str]) -> Mapping[str, InboxRow]:
        """The inbox rows of these idempotency keys."""
        reader = self._reader
        if reader is None:
            raise self._not_open()
        with translated(self.path):
            return select_rows(reader.cursor(), service, keys)

    def unit(self, *, alone: bool = False) -> SqliteUnit:  # noqa: ARG002 - each writes alone
        """A new unit of work."""
        return SqliteUnit(self)

    async def close(self) -> None:
        """Commit what was to be kept and close the file."""
        while self._group.kept is not None or self._is_busy:
            self._closing = asyncio.get_running_loop().create_future()
            await self._closing
        self._let_go()

    def abandon(self) -> None:
        """Let go as a killed process would: what is not committed is lost, and nobody is told."""
        self._is_abandoned = True
        if not self._is_busy:
            self._let_go()

    # What units ask of it.

    def try_enter(self, unit: SqliteUnit) -> bool:
        """Give *unit* the connection if that is possible at once."""
        writer = self._writer
        if self._holder is not None or self._is_busy or self._line or writer is None:
            return False
        try:
            if not writer.in_transaction:
                begin(writer, wait=False)
            self._occupy(unit)
        except sqlite3.Error:
            return False  # `enter` asks again, and says what is the matter
        return True

    async def enter(self, unit: SqliteUnit) -> None:
        """Wait in line for the connection.

        Raises:
            StoreUnavailable: no transaction could be begun.
        """
        if self._holder is not None or self._is_busy or self._line:
            await self._wait_in_line(unit)
        self._holder = unit
        try:
            if not self.connection.in_transaction:
                await self._begin()
            self._occupy(unit)
        except BaseException as error:
            self._holder = None
            self._go_on()
            if isinstance(error, sqlite3.Error):
                raise unavailable(self.path, error) from error
            raise

    def leave(self, unit: SqliteUnit, *, keep: bool) -> bool:
        """Take the connection back; False where the transaction is gone."""
        assert self._holder is unit, "only the unit that owns the connection can leave it"
        self._holder = None
        connection = self.connection
        is_whole = connection.in_transaction
        if is_whole:
            if not keep:
                connection.execute("ROLLBACK TO unit")
            connection.execute("RELEASE unit")
        else:
            self._group.lose_written()
        self._go_on()
        return is_whole

    def settle(
        self, unit: SqliteUnit, writes: Sequence[InboxWrite], *, has_written: bool
    ) -> asyncio.Future[Collection[Unit]]:
        """Take a unit that has ended into the group."""
        if self._writer is None:
            refused = asyncio.get_running_loop().create_future()
            if not self._is_abandoned:
                refused.set_exception(self._not_open())
            return refused
        group = self._group
        if group.kept is None:
            group.kept = asyncio.get_running_loop().create_future()
            group.began_at_s = self._clock.monotonic_s()
        (group.written if has_written else group.rows_only).append(Settled(unit, writes))
        self._call_commit()
        return group.kept

    # Who goes on: the next in line, or the commit.

    def _occupy(self, unit: SqliteUnit) -> None:
        self.connection.execute("SAVEPOINT unit")
        self._holder = unit

    async def _wait_in_line(self, unit: SqliteUnit) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((unit, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if self._holder is unit:
                self._holder = None
                self._go_on()
            raise

    async def _begin(self) -> None:
        if self._beside is None:
            begin(self.connection, wait=False)
            return
        begun = self._beside.run(partial(begin, self.connection, wait=True))
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError:
            # The thread goes on; nobody may use the connection before it has ended.
            self._is_busy = True
            begun.add_done_callback(self._begun_for_nobody)
            raise

    def _begun_for_nobody(self, begun: asyncio.Future[None]) -> None:
        begun.exception()
        self._is_busy = False
        self._go_on()

    def _go_on(self) -> None:
        if self._holder is not None or self._is_busy:
            return
        if self._is_abandoned:
            self._let_go()
            return
        while self._line and not self._is_group_full():
            unit, turn = self._line.popleft()
            if not turn.done():
                self._holder = unit
                turn.set_result(None)
                return
        self._call_commit()

    def _is_group_full(self) -> bool:
        group = self._group
        age_s = self._clock.monotonic_s() - group.began_at_s
        is_large = group.units >= GROUP_UNITS_MAX
        return group.kept is not None and (is_large or age_s > GROUP_AGE_S_MAX)

    def _call_commit(self) -> None:
        # The call comes when the loop has run what is ready now, so that units which end one
        # after another share a commit.
        if not self._is_commit_due:
            self._is_commit_due = True
            asyncio.get_running_loop().call_soon(self._commit_if_free)

    def _commit_if_free(self) -> None:
        self._is_commit_due = False
        if self._holder is not None or self._is_busy or self._is_abandoned:
            return
        if self._line and not self._is_group_full():
            self._go_on()
            return
        writer = self._writer
        if writer is None or (self._group.kept is None and not writer.in_transaction):
            return
        group, self._group = self._group, Group(self._clock.monotonic_s())
        self._is_busy = True
        if writer.in_transaction:
            self._write(group, None, None)
            return
        group.lose_written()
        try:
            begin(writer, wait=False)
        except sqlite3.Error as error:
            if self._beside is None:
                self._committed(group, (), error)
                return
            # Most likely another process is writing: wait for it beside the loop.
            again = partial(begin, writer, wait=True)
            self._beside.call(again, partial(self._write, group), asyncio.get_running_loop())
        else:
            self._write(group, None, None)

    def _write(self, group: Group, _: None, error: BaseException | None) -> None:
        """The transaction is begun, if there is no *error*: write, then commit."""
        writer = self.connection
        try:
            if error is not None:
                raise error
            if self._watch is not None:
                self._watch.check()
            moved = write(writer, group)
        except (sqlite3.Error, StoreUnavailable) as raised:
            self._committed(group, (), raised)
            return
        then = partial(self._committed, group, moved)
        if self._commits is not None:
            self._commits.commit(writer, then, asyncio.get_running_loop())
            return
        try:
            writer.execute("COMMIT")
        except sqlite3.Error as raised:
            then(raised)
        else:
            then(None)

    def _committed(
        self, group: Group, moved: Collection[Unit], error: BaseException | None
    ) -> None:
        self._is_busy = False
        if error is not None and self._writer is not None and self._writer.in_transaction:
            with suppress(sqlite3.Error):  # whoever waits is told all the same
                self._writer.execute("ROLLBACK")
        if group.kept is not None and not self._is_abandoned and not group.kept.done():
            if error is None:
                group.kept.set_result(moved)
            else:
                group.kept.set_exception(
                    unavailable(self.path, error) if isinstance(error, sqlite3.Error) else error
                )
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        self._go_on()

    # Opening and letting go.

    def _not_open(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self.path}: the effects store is not open")

    def _open(self) -> None:
        if self._given is not None:
            with translated(self.path):
                create_inbox(self._given, self.path)
            return
        with translated(self.path):
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        writer = connect(self.path)
        try:
            with translated(self.path):
                writer.execute("PRAGMA journal_mode=WAL")
                create_inbox(writer, self.path)
                # From here on a wait for another process is taken to the thread (see `begin`).
                writer.execute("PRAGMA busy_timeout=0")
            self._reader = connect(self.path)
        except BaseException:
            writer.close()
            raise
        self._writer = writer
        self._watch = FileWatch(self.path)
        self._watch.begin()
        if self.threaded:
            assert self._beside is not None
            self._checkpointer = Checkpointer(self.path)
            self._checkpointer.start()
            self._commits = Committer(self._beside, self._checkpointer)

    def _let_go(self) -> None:
        line, self._line = self._line, deque()
        for _, turn in line:
            if not turn.done() and not self._is_abandoned:
                turn.set_exception(self._not_open())
        writer, self._writer = self._writer, None
        reader, self._reader = self._reader, None
        if writer is not None and writer.in_transaction:
            writer.execute("ROLLBACK")
        if self._given is None:
            for connection in (reader, writer):
                if connection is not None:
                    connection.close()
        if self._checkpointer is not None:
            self._checkpointer.close()
            self._checkpointer = None
        if self._beside is not None:
            self._beside.close(wait=False)
            self._beside = self._commits = None
