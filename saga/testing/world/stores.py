"""The stores of a world: what outlives its processes, and watches what they do to it.

The database of the effect services is SQLite in memory, shared by all processes. A process that
crashes loses what it had not committed; a commit may be done and reported as failed.
"""

from __future__ import annotations

import sqlite3
from itertools import count
from typing import Any, Final

from typing_extensions import override

from saga.adapters.memory import MemoryEventStore
from saga.adapters.sqlite import SqliteDatabase, SqliteEffectsStore
from saga.core.durations import SECOND_US
from saga.core.events import TimerFired
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.intents import TimerPurpose
from saga.ports import Appended, Batch
from saga.testing.world.broker import SimulatedBus, WorldClock
from saga.testing.world.checks import armed_in
from saga.testing.world.faults import Fault
from saga.testing.world.process import Process, Surroundings


class WorldStore(MemoryEventStore):
    """Notes when entries were stored, but not where it publishes in its own transaction."""

    def __init__(self, surroundings: Surroundings, publish_through: SimulatedBus | None) -> None:
        super().__init__(publish_through=publish_through)
        self.stored_at: dict[tuple[SagaId, int], int] = {}
        self.problems: list[str] = []
        self._is_noting = publish_through is None
        self._surroundings = surroundings
        self._clock = WorldClock(surroundings)

    @override
    async def now(self) -> Instant:
        return self._clock.now()

    @override
    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        self._check_times(batch)
        appended = await super().append(batch, at=at)
        number = self._surroundings.next_number()
        touched = {timer.saga_id for timer in batch.timers_armed}
        touched |= {SagaId(timer_id.split("/", 1)[0]) for timer_id in batch.timers_cleared}
        for history in batch.histories:
            touched.add(history.saga_id)
            if self._is_noting:
                for entry in history.entries:
                    self.stored_at[entry.saga_id, entry.version] = number
        self._compare_timers(touched)
        return appended

    def deadline_of(self, intent_id: str) -> Instant | None:
        """Until when a reply to this attempt is waited for; None where there is no limit."""
        timer = self._timers.get(TimerId(f"{intent_id}/{TimerPurpose.DEADLINE}"))
        return None if timer is None else timer.due_at

    def _check_times(self, batch: Batch) -> None:
        """By the store's own clock nothing is dated ahead, and no timer is early."""
        now = self._clock.now()
        for history in batch.histories:
            for entry in history.entries:
                if entry.at > now:
                    ahead_s = (entry.at - now) / SECOND_US
                    self.problems.append(f"an entry of {entry.saga_id} is dated {ahead_s} s ahead")
                fired = entry.body
                if isinstance(fired, TimerFired) and (timer := self._timers.get(fired.timer_id)):
                    early_s = (timer.due_at - now) / SECOND_US
                    if early_s > 0:
                        self.problems.append(f"timer {fired.timer_id} fires {early_s} s early")

    def _compare_timers(self, saga_ids: set[SagaId]) -> None:
        """The due-index is a projection: it never differs from the histories."""
        indexed: dict[SagaId, set[TimerId]] = {}
        for timer in self._timers.values():
            indexed.setdefault(timer.saga_id, set()).add(timer.timer_id)
        for saga_id in sorted(saga_ids):
            armed, rows = armed_in(self.history(saga_id)), indexed.get(saga_id, set())
            if armed != rows:
                self.problems.append(
                    f"the due-index has {sorted(rows - armed)} too many and "
                    f"{sorted(armed - rows)} too few"
                )


_NUMBERS: Final = count(1)
_POINTS: Final = {"COMMIT": "inbox.commit", "BEGIN IMMEDIATE": "inbox.begin"}


class CrashingConnection(sqlite3.Connection):
    process: Process | None = None

    def execute(self, sql: str, /, *args: Any) -> sqlite3.Cursor:
        """Run a statement, unless something goes wrong."""
        process = self.process
        if process is None or sql == "ROLLBACK":
            return super().execute(sql, *args)
        if not process.is_alive:
            raise _io_error("the process is no more")
        point = _POINTS.get(sql)
        if point is None:
            return super().execute(sql, *args)
        process.surroundings.note(process.name, point)
        fault = process.surroundings.faults.at_call(point, can_fail=True)
        if fault is Fault.ERROR_AFTER and sql != "COMMIT":
            fault = Fault.ERROR_BEFORE  # a local database knows whether it began
        if fault is Fault.CRASH_BEFORE:
            process.crash(point)
        if fault in {Fault.CRASH_BEFORE, Fault.ERROR_BEFORE}:
            raise _io_error("made up, nothing was done")
        cursor = super().execute(sql, *args)
        if fault is Fault.CRASH_AFTER:
            process.crash(point)
        if fault in {Fault.CRASH_AFTER, Fault.ERROR_AFTER}:
            raise _io_error("made up, it was done all the same")
        return cursor


class EffectsDatabase:
    def __init__(self) -> None:
        self._address = f"file:saga-world-{next(_NUMBERS)}?mode=memory&cache=shared"
        self._anchor = sqlite3.connect(self._address, uri=True, isolation_level=None)

    def open_for(self, process: Process) -> SqliteEffectsStore:
        """The store of one process, over a connection of its own."""
        connection = sqlite3.connect(
            self._address, uri=True, isolation_level=None, timeout=0, factory=CrashingConnection
        )
        connection.process = process
        store = SqliteEffectsStore(SqliteDatabase("world", connection=connection))

        def go_down() -> None:
            store.abandon()
            if connection.in_transaction:
                connection.execute("ROLLBACK")

        process.on_crash.append(go_down)
        return store

    def fetch(self, sql: str, /, **params: Any) -> list[dict[str, Any]]:
        """What a query finds, read outside of all faults; parameters are written `:name`."""
        cursor = self._anchor.execute(sql, params)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def close(self) -> None:
        self._anchor.close()


def _io_error(message: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    error.sqlite_errorname = "SQLITE_IOERR"
    return error
