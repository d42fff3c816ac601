"""Publishing into the local bus: what several publish at about the same time is one insert.

A service that answers many callers publishes many single records. All that are waiting for the
writer's next transaction go into it as one job, whoever published them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from saga.adapters.sqlite.beside import settle
from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.failures import as_bus_error
from saga.adapters.sqlite.jobs import Preview
from saga.adapters.sqlite.record_log import Placed, Prepared

RECORDS_TOGETHER_MAX: Final = 1_000


class Together:
    """Records that wait for the next transaction, and who waits for them to be durable."""

    __slots__ = ("prepared", "task", "waiting")

    def __init__(self) -> None:
        self.prepared: list[Prepared] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.task: asyncio.Task[None]

    def end(self, error: Exception | None) -> None:
        """Tell all who still wait."""
        for waiting in self.waiting:
            settle(waiting, None, error)


class Publishing:
    """The way of published records to the writer of *database*.

    Args:
        append: writes records as a part of a job.
        committed: told of those that are durable, in commit order.
    """

    def __init__(
        self,
        database: SqliteDatabase,
        *,
        append: Callable[[sqlite3.Cursor, Sequence[Prepared]], Placed],
        committed: Callable[[Placed], None],
    ) -> None:
        self._database = database
        self._append = append
        self._committed = committed
        self._together: Together | None = None
        self.preview: Preview | None = None
        """Who may see records before they are durable."""

    async def write(self, prepared: Sequence[Prepared]) -> None:
        """Return once these are durable; if it raises, none of them is.

        Raises:
            BusUnavailable: the file cannot be written now.
        """
        together = self._together
        if together is None or len(together.prepared) >= RECORDS_TOGETHER_MAX:
            together = self._together = Together()
            together.task = asyncio.create_task(self._write(together))
        together.prepared += prepared
        # A future each: whoever stops waiting does not take the others' records along.
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        together.waiting.append(waiting)
        with as_bus_error():
            await waiting

    async def _write(self, together: Together) -> None:
        def work(cursor: sqlite3.Cursor) -> Placed:
            self._seal(together)
            return self._append(cursor, together.prepared)

        failure: Exception | None = None
        try:
            await self._database.write(work, committed=self._committed, preview=self.preview)
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            failure = error
        finally:
            self._seal(together)
        together.end(failure)

    def _seal(self, together: Together) -> None:
        """What is published from now on is not part of it: it may run again, or has failed."""
        if self._together is together:
            self._together = None
