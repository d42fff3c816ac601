"""The stores of a world: what outlives its processes, and watches what they do to it.

The database of the effect services is SQLite in memory, shared by all processes. A process that
crashes loses what it had not committed; a commit may be done and reported as failed. Where bus and
store are one file, that file has an inbox too, and publishes answers as it commits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any, Final, cast

from typing_extensions import override

from saga.adapters.memory import MemoryEventStore
from saga.adapters.sqlite import LocalBus, SqliteDatabase, SqliteEffectsStore
from saga.adapters.sqlite.inbox import COMPONENT, MIGRATIONS
from saga.core.durations import SECOND_US
from saga.core.events import TimerFired
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.intents import TimerMoved, TimerPurpose
from saga.core.status import SagaStatus
from saga.ports import Appended, Batch, Record
from saga.ports.store import DefinitionPause
from saga.runtime.unit_of_work import POSTPONED_S_MAX
from saga.testing.world.acting import armed_in
from saga.testing.world.broker import SimulatedBus, WorldClock
from saga.testing.world.faults import Fault
from saga.testing.world.hearing import Reading
from saga.testing.world.process import Process, Surroundings


class WorldStore(MemoryEventStore):
    """Notes when entries were stored, but not where it publishes in its own transaction."""

    def __init__(self, surroundings: Surroundings, publish_through: SimulatedBus | None) -> None:
        super().__init__(publish_through=publish_through)
        self.stored_at: dict[tuple[SagaId, int], int] = {}
        self.reading = Reading()
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
        self.reading.note(number, batch)
        touched = {timer.saga_id for timer in batch.timers_armed}
        touched |= {off.found.saga_id for off in batch.timers_put_off}
        touched |= {SagaId(timer_id.split("/", 1)[0]) for timer_id in batch.timers_cleared}
        for history in batch.histories:
            touched.add(history.saga_id)
            if self._is_noting:
                for entry in history.entries:
                    self.stored_at[entry.saga_id, entry.version] = number
        self._compare_timers(touched)
        self._compare_moved(batch)
        self._compare_put_off(batch)
        return appended

    @property
    def pause_rows(self) -> Sequence[DefinitionPause]:
        """The definitions that were ever paused."""
        return list(self._pauses.values())

    def deadline_of(self, intent_id: str) -> Instant | None:
        """Until when a reply to this attempt is waited for; None where there is no limit."""
        timer = self._timers.get(TimerId(f"{intent_id}/{TimerPurpose.DEADLINE}"))
        return None if timer is None else timer.due_at

    def _check_times(self, batch: Batch) -> None:
        """By the store's own clock nothing is dated ahead, and no timer is early."""
        now = self._clock.now()
        moved: dict[TimerId, Instant] = {}
        for history in batch.histories:
            for entry in history.entries:
                if entry.at > now:
                    ahead_s = (entry.at - now) / SECOND_US
                    self.problems.append(f"an entry of {entry.saga_id} is dated {ahead_s} s ahead")
                body = entry.body
                if isinstance(body, TimerMoved):
                    moved[body.timer_id] = body.due_at
                elif isinstance(body, TimerFired) and (timer := self._timers.get(body.timer_id)):
                    due_at = moved.get(body.timer_id, timer.due_at)
                    if due_at > now and self._is_early(entry.saga_id, body.timer_id, now):
                        early_s = (due_at - now) / SECOND_US
                        self.problems.append(f"timer {body.timer_id} fires {early_s} s early")

    def _is_early(self, saga: SagaId, timer_id: TimerId, now: Instant) -> bool:
        """By its history: in the index it may be postponed by who could not take its turn."""
        armed = armed_in(self.history(saga)).get(timer_id)
        return armed is None or armed.due_at > now

    def _compare_timers(self, saga_ids: set[SagaId]) -> None:
        """The due-index is a projection: it never differs from the histories."""
        indexed: dict[SagaId, set[TimerId]] = {}
        for timer in self._timers.values():
            indexed.setdefault(timer.saga_id, set()).add(timer.timer_id)
        for saga_id in sorted(saga_ids):
            armed, rows = armed_in(self.history(saga_id)).keys(), indexed.get(saga_id, set())
            if armed != rows:
                self.problems.append(
                    f"the due-index has {sorted(rows - armed)} too many and "
                    f"{sorted(armed - rows)} too few"
                )

    def _compare_moved(self, batch: Batch) -> None:
        """A timer that was moved is due in the index when its history says; parked sagas wait."""
        moves = [
            entry.body.timer_id
            for history in batch.histories
            for entry in history.entries
            if isinstance(entry.body, TimerMoved)
        ]
        for timer_id in moves:
            saga_id = SagaId(timer_id.split("/", 1)[0])
            armed = armed_in(self.history(saga_id)).get(timer_id)
            if armed is None or self.summaries[saga_id].status is SagaStatus.PARKED:
                continue
            if (due_at := self._timers[timer_id].due_at) != armed.due_at:
                self.problems.append(
                    f"timer {timer_id} was moved to {armed.due_at}, and the due-index has {due_at}"
                )

    def _compare_put_off(self, batch: Batch) -> None:
        """A timer that does not fire when it is found is not kept back beyond its time for long."""
        postponed_until = self._clock.now() + POSTPONED_S_MAX * SECOND_US
        for found in (off.found for off in batch.timers_put_off):
            armed = armed_in(self.history(found.saga_id)).get(found.timer_id)
            timer = self._timers.get(found.timer_id)
            if armed and timer and timer.due_at > max(armed.due_at, postponed_until):
                self.problems.append(
                    f"timer {found.timer_id} is due at {armed.due_at}, and was put off until "
                    f"{timer.due_at}"
                )


_NUMBERS: Final = count(1)
_POINTS: Final = {"COMMIT": "commit", "BEGIN IMMEDIATE": "begin"}
# An effect that has written nothing by itself is carried out with its inbox row.
_CARRY_OUT: Final = """CREATE TRIGGER saga_world_{0} AFTER {0} ON saga_inbox
    WHEN new.outcome = 'done' AND new.digest IS NOT NULL
    BEGIN INSERT INTO saga_world_ledger
        SELECT world_number(), saga_id, substr(step, 1, slash - 1), substr(step, slash + 1), intent
        FROM (SELECT saga_id, new.step AS step, instr(new.step, '/') AS slash,
            saga_id || '/' || new.step || '/' || new.attempt AS intent
            FROM saga_inbox_sagas WHERE number = new.saga)
        WHERE saga_id <> 'fact'
        AND NOT EXISTS (SELECT 1 FROM saga_world_ledger WHERE intent_id = intent);
    END"""
_LEDGER: Final = (
    """CREATE TABLE saga_world_ledger (number INTEGER NOT NULL, saga_id TEXT NOT NULL,
        step TEXT NOT NULL, direction TEXT NOT NULL, intent_id TEXT NOT NULL)""",
    _CARRY_OUT.format("INSERT"),
    _CARRY_OUT.format("UPDATE"),
)
_KEPT: Final = """SELECT service, saga_id || '/' || step AS key, attempt, undone, digest
    FROM saga_inbox JOIN saga_inbox_sagas ON number = saga"""


class CrashingConnection(sqlite3.Connection):
    process: Process | None = None
    of: str = ""
    """What its database is of."""
    publish: Callable[[Sequence[Record]], None] | None = None
    outgoing: Sequence[Record] = ()
    """What its transaction is to publish."""

    def execute(self, sql: str, /, *args: Any) -> sqlite3.Cursor:
        """Run a statement, unless something goes wrong."""
        process = self.process
        if process is None or sql == "ROLLBACK":
            return super().execute(sql, *args)
        if not process.is_alive:
            raise _io_error("the process is no more")
        if sql not in _POINTS:
            return super().execute(sql, *args)
        point = f"{self.of}.{_POINTS[sql]}"
        process.surroundings.note(process.name, point)
        fault = process.surroundings.faults.at_call(point, can_fail=True)
        if fault is Fault.ERROR_AFTER and sql != "COMMIT":
            fault = Fault.ERROR_BEFORE  # a local database knows whether it began
        if fault is Fault.CRASH_BEFORE:
            process.crash(point)
        if fault in {Fault.CRASH_BEFORE, Fault.ERROR_BEFORE}:
            raise _io_error("made up, nothing was done")
        cursor = super().execute(sql, *args)
        outgoing, self.outgoing = self.outgoing, ()
        if sql == "COMMIT" and outgoing and self.publish is not None:
            self.publish(outgoing)
        if fault is Fault.CRASH_AFTER:
            process.crash(point)
        if fault in {Fault.CRASH_AFTER, Fault.ERROR_AFTER}:
            raise _io_error("made up, it was done all the same")
        return cursor


class MemoryFile:
    """A database with an inbox, and a ledger of the effects whose rows it has."""

    def __init__(self, of: str, number: Callable[[], int]) -> None:
        self._of = of
        self._number = number
        self._address = f"file:saga-world-{next(_NUMBERS)}?mode=memory&cache=shared"
        self._anchor = self._connected(sqlite3.Connection)
        SqliteDatabase(of, connection=self._anchor).migrate(COMPONENT, MIGRATIONS)
        for statement in _LEDGER:
            self._anchor.execute(statement)

    def open_for(
        self, process: Process, publish: Callable[[Sequence[Record]], None] | None = None
    ) -> tuple[SqliteDatabase, CrashingConnection]:
        """One process's own connection, which may publish as it commits."""
        connection = self._connected(CrashingConnection)
        connection.of, connection.process, connection.publish = self._of, process, publish
        database = SqliteDatabase(self._of, connection=connection)

        def go_down() -> None:
            database.abandon()
            if connection.in_transaction:
                connection.execute("ROLLBACK")

        process.on_crash.append(go_down)
        return database, connection

    def fetch(self, sql: str, /, **params: Any) -> list[dict[str, Any]]:
        """What a query finds, read outside of all faults; parameters are written `:name`."""
        cursor = self._anchor.execute(sql, params)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def close(self) -> None:
        self._anchor.close()

    def _connected(self, factory: type[sqlite3.Connection]) -> Any:
        connection = sqlite3.connect(
            self._address, uri=True, isolation_level=None, timeout=0, factory=factory
        )
        connection.create_function("world_number", 0, self._number)
        return connection


class EffectsDatabase(MemoryFile):
    """The effects store of all processes; with *bus*, answers are in a file with that."""

    def __init__(self, number: Callable[[], int], bus: SimulatedBus | None = None) -> None:
        super().__init__("inbox", number)
        self._bus = bus
        self._beside = None if bus is None else MemoryFile("answers", number)
        self._answered: set[str] = set()

    def store_for(self, process: Process, losing: Losing) -> SqliteEffectsStore:
        """The store of one process, over connections of its own; *losing* as of `ProcessBus`."""
        database, _ = self.open_for(process)
        bus, beside = self._bus, self._beside
        if bus is None or beside is None:
            return SqliteEffectsStore(database)

        def publish(records: Sequence[Record]) -> None:
            self._answered.update(map(_cause, records))
            bus.append(losing(records))

        def append(_: sqlite3.Cursor, placed: Sequence[Record]) -> list[Any]:
            connection.outgoing = placed
            return []

        also, connection = beside.open_for(process, publish)
        through = SimpleNamespace(
            database=also,
            place=list,
            append=append,
            delivery=SimpleNamespace(deliver=lambda _: None),
            early_readers=None,
        )
        return SqliteEffectsStore(database, beside=also, publish_through=cast("LocalBus", through))

    def problems(self) -> Iterator[str]:
        """What is wrong with both inboxes: each key has one newest row, and that its answer."""
        if self._beside is None:
            return
        seen = {_age(row) for row in self.fetch(_KEPT)}
        for row in self._beside.fetch(_KEPT):
            if _age(row) in seen:
                yield f"{row['key']} has two rows of attempt {row['attempt']}"
            intent_id = f"{row['key']}/{row['attempt']}"
            is_answer = row["digest"] is not None and not row["undone"]
            if is_answer and intent_id not in self._answered:
                yield f"{intent_id} has a row, and its answer was not published with it"

    def ledger(self, sql: str) -> list[dict[str, Any]]:
        """What *sql* finds in both files, in order."""
        beside = [] if self._beside is None else self._beside.fetch(sql)
        return sorted(self.fetch(sql) + beside, key=lambda row: row["number"])

    def close(self) -> None:
        super().close()
        if self._beside is not None:
            self._beside.close()


Losing = Callable[[Sequence[Record]], Sequence[Record]]


def _age(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["service"], row["key"], row["attempt"], row["undone"]


def _cause(record: Record) -> str:
    """The intent that *record* answers."""
    [cause] = [value or b"" for name, value in record.headers if name == "ce_causationid"]
    return cause.decode()


def _io_error(message: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    error.sqlite_errorname = "SQLITE_IOERR"
    return error
