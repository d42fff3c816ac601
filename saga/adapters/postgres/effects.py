"""The effects store in a PostgreSQL database: a connection for each handler that uses its tables.

What a handler wrote and its inbox row are committed on its own connection; inbox rows alone gather
and share commits. Handlers of different sagas run side by side, at the database's isolation level:
one that reads and then writes the same row does so in one statement, or locks it. One that loses to
a deadlock, or waits too long for a lock, is called again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.adapt import Buffer, Loader
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
from typing_extensions import override

from saga.adapters.postgres.database import (
    BEGIN,
    COMMIT,
    Address,
    NotCommitted,
    PostgresDatabase,
    is_of_the_server,
    is_refusal,
    unavailable,
)
from saga.adapters.postgres.inbox import INBOX, Inbox, Key, fits, key_of, keyed, selecting, to_row
from saga.adapters.postgres.pipeline import Call, Session, exchange, rows_of
from saga.adapters.postgres.schema import prepare
from saga.adapters.postgres.sql import Statement, bound, parsed
from saga.adapters.postgres.whose import INBOX_FACTS, settle_whose
from saga.adapters.rows import inbox_read
from saga.adapters.whose import Serves
from saga.core.texts import described
from saga.errors import StoreUnavailable, TransactionEnded
from saga.ports.bus import Record
from saga.ports.effects_store import (
    BEGINNING,
    RAW_TOO_EARLY,
    Database,
    EffectsStore,
    InboxWrite,
    Kept,
    NotKept,
    SqlRow,
    SqlValue,
    ThreadDatabase,
    Unit,
)

HANDLERS_MAX: Final = 12
ROWS_COMMITS_MAX: Final = 2
"""Connections for inbox rows alone and for reads; while all of them write, rows gather."""
GROUP_UNITS_MAX: Final = 512
GROUP_TRIES_MAX: Final = 8
IDLE_IN_UNIT_TIMEOUT_S: Final = 20
"""How long a handler's transaction may stand still, while others may wait for its locks."""

_SESSION: Final = (
    "SELECT set_config('application_name', 'saga effects', false), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_IN_UNIT_TIMEOUT_S}s', false)"
)
# The savepoint tells the service's own transaction from one that a handler has begun.
_SAVE: Final = Call(b"SAVEPOINT saga")
_RELEASE: Final = Call(b"RELEASE SAVEPOINT saga")
_BACK: Final = Call(b"ROLLBACK TO SAVEPOINT saga")
_NOT_INSIDE: Final = frozenset({"3B001", "25P01", "25P02"})
"""There is no such savepoint, no transaction at all, or one that has failed."""
_OF_THE_STATEMENT: Final = frozenset({"42501", "42P01", "3F000"})
"""What the server says of the statement: the handler's tables are not ours to advise on."""
_PREPARED_IN_VAIN: Final = frozenset({"0A000", "26000"})
_WRITING: Final = (b"INSERT", b"UPDATE", b"DELETE", b"MERGE")


class EndedUnit(NamedTuple):
    unit: PostgresUnit
    writes: Sequence[InboxWrite]

    @property
    def keys(self) -> list[Key]:
        return [key_of(write.row) for write in self.writes]

    def fits(self, stored: Kept[Key]) -> bool:
        return stored.damaged.keys().isdisjoint(self.keys) and all(
            fits(write, stored.get(key_of(write.row))) for write in self.writes
        )


class PostgresEffectsStore(EffectsStore):
    """At most *handlers_max* handlers use their tables at once; others wait in line.

    With *serves*, opening one of another environment or namespace raises StoreForeign.
    """

    def __init__(
        self,
        address: Address,
        *,
        handlers_max: int = HANDLERS_MAX,
        serves: Serves | None = None,
    ) -> None:
        self._serves = serves
        self.address = address
        self.name: Final = address.name
        self.handlers_max: Final = handlers_max
        self._database = PostgresDatabase(
            address, connections_max=self.commits_max, configure=self._configure
        )
        self._is_open = False
        self._opening = asyncio.Lock()
        self._inbox = Inbox()
        self._places = asyncio.Semaphore(handlers_max)
        self._inside: set[PostgresUnit] = set()
        self._rows_commits = asyncio.Semaphore(ROWS_COMMITS_MAX)
        self._group: list[EndedUnit] = []
        """Units that end with inbox rows alone."""
        self._group_kept: asyncio.Future[NotKept]

    @property
    @override
    def commits_max(self) -> int:
        return self.handlers_max + ROWS_COMMITS_MAX

    @override
    async def open(self) -> None:
        async with self._opening:
            if not self._is_open:
                await asyncio.to_thread(prepare, self.address, INBOX, make=True)
                if self._serves is not None:
                    whose = self.address, INBOX_FACTS, self._serves
                    await asyncio.to_thread(settle_whose, *whose)
                self._is_open = True

    @override
    async def kept(self, service: str, keys: Sequence[str]) -> Kept[str]:
        self._refuse_if_closed()
        rows = await self._rows((service, key) for key in keys)
        return Kept(
            {key: row for (_, key), row in rows.items()},
            {key: damage for (_, key), damage in rows.damaged.items()},
        )

    @override
    def unit(self, *, alone: bool = False) -> PostgresUnit:
        return PostgresUnit(self, alone=alone)

    @override
    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._places.release()  # those in line go on, one after another, and are refused
        await self._database.close()
        for unit in list(self._inside):
            if unit.session is not None and not unit.lock.locked():
                await unit.session.close()

    # What units ask of it.

    async def enter(self, unit: PostgresUnit) -> Session:
        """Wait in line for a connection; raises StoreUnavailable if there is none to be had."""
        self._refuse_if_closed()
        if unit not in self._inside:
            await self._places.acquire()
            self._inside.add(unit)
        try:
            self._refuse_if_closed()
            return await self._database.borrow()
        except BaseException:
            self._leave(unit)
            raise

    async def give_back(self, unit: PostgresUnit) -> None:
        """Give back the connection of *unit*, but not its place among the handlers."""
        session, unit.session = unit.session, None
        if session is not None:
            await self._database.give_back(session)

    def undo(self, unit: PostgresUnit) -> None:
        """Undo what *unit* has written, once its current statement has ended."""
        if unit in self._inside:
            self._database.start(self._undo(unit))

    def keep_rows(self, ended: EndedUnit) -> asyncio.Future[NotKept]:
        if not self._is_open:
            return self._refused()
        if not self._group:
            self._group_kept = asyncio.shield(self._database.start(self._keep_group()))
        self._group.append(ended)
        return self._group_kept

    def keep_all(self, ended: EndedUnit) -> asyncio.Future[NotKept]:
        if not self._is_open:
            return self._refused()
        return asyncio.shield(self._database.start(self._keep_all(ended)))

    # A handler's own transaction.

    async def _undo(self, unit: PostgresUnit) -> None:
        async with unit.lock:
            try:
                await self.give_back(unit)
            finally:
                self._leave(unit)

    async def _keep_all(self, ended: EndedUnit) -> NotKept:
        unit, writes = ended
        async with unit.lock:
            try:
                calls = [_RELEASE, *self._inbox.writing(writes), COMMIT]
                session, unit.session = unit.session, None
                assert session is not None, "only a unit that has written is committed by itself"
                await self._database.end(session, calls, partial(self._has_landed, writes))
            except NotCommitted as error:
                if not writes:  # only the inbox could have told
                    raise unavailable(self.name, error.__cause__ or error) from error
                return NotKept([unit])
            except psycopg.Error as error:
                if self._inbox.is_taken(error):
                    return NotKept([unit])
                raise self._refusal(error) from error
            finally:
                await self.give_back(unit)
                self._leave(unit)
        self._inbox.written(writes)
        return NotKept()

    def _refusal(self, error: psycopg.Error) -> Exception:
        # A handler's own tables may refuse only at the end, as deferred constraints do.
        if error.sqlstate in _NOT_INSIDE:
            return _tampered_with()
        if is_of_the_server(error):
            return unavailable(self.name, error)
        return TransactionEnded(f"the database refused to commit what the handler wrote: {error}")

    # Rows alone, in groups.

    async def _keep_group(self) -> NotKept:
        # Begins when a commit is free: units that end meanwhile share it.
        async with self._rows_commits:
            waiting, self._group = self._group, []
            not_kept = NotKept()
            while waiting:
                distinct, waiting = _apart(waiting)
                try:
                    not_kept |= await self._keep_rows(distinct)
                except Exception as error:
                    if not is_refusal(error):
                        raise
                    await self._keep_one_by_one(distinct, not_kept)
            return not_kept

    async def _keep_one_by_one(self, units: Sequence[EndedUnit], not_kept: NotKept) -> None:
        """The server refuses the row of one of them: the others are kept."""
        for each in units:
            try:
                not_kept |= await self._keep_rows([each])
            except Exception as error:
                if not is_refusal(error):
                    raise
                not_kept.refused[each.unit] = described(error)

    async def _keep_rows(self, units: Sequence[EndedUnit]) -> set[Unit]:
        """Keep rows in one transaction; returns the units whose rows do not fit any more."""
        moved: set[Unit] = set()
        for tries_left in reversed(range(GROUP_TRIES_MAX)):
            writes = [write for each in units for write in each.writes]
            if not writes:
                break
            try:
                await self._database.commit(
                    partial(self._inbox.writing, writes),
                    has_landed=partial(self._has_landed, writes),
                )
            except psycopg.Error as error:
                if not self._inbox.is_taken(error) and is_refusal(error):
                    raise
                if not (self._inbox.is_taken(error) and tries_left):
                    raise unavailable(self.name, error) from error
                stored = await self._rows(key for each in units for key in each.keys)
                moved |= {each.unit for each in units if not each.fits(stored)}
                units = [each for each in units if each.unit not in moved]
            else:
                self._inbox.written(writes)
                break
        return moved

    async def _has_landed(self, writes: Sequence[InboxWrite]) -> bool:
        self._inbox.forget()  # the server may be another one now, that has not all of it
        stored = await self._rows(key_of(write.row) for write in writes)
        return bool(writes) and all(stored.get(key_of(row)) == row for row, _ in writes)

    async def _rows(self, keys: Iterable[Key]) -> Kept[Key]:
        found = await self._database.fetch(selecting(set(keys)))
        return inbox_read(map(keyed, found), to_row)

    async def _configure(self, session: Session) -> None:
        await self.address.configure(session)
        await session.execute(_SESSION, prepare=False)
        session.adapters.register_loader("numeric", _Numeric)

    def _leave(self, unit: PostgresUnit) -> None:
        if unit in self._inside:
            self._inside.discard(unit)
            self._places.release()

    def _refuse_if_closed(self) -> None:
        if not self._is_open:
            raise self._not_open()

    def _refused(self) -> asyncio.Future[NotKept]:
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(self._not_open())
        return refused

    def _not_open(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self.name}: the effects store is not open")


class PostgresUnit(Unit):
    """Has its own connection from its first statement on; a failed statement undoes no other."""

    __slots__ = ("_begin", "_is_broken", "_is_ended", "_store", "lock", "session")

    def __init__(self, store: PostgresEffectsStore, *, alone: bool = False) -> None:
        self._store = store
        key = store.address.lock_key("effects alone")
        wait = [Call(b"SELECT pg_advisory_xact_lock(%d, %d)" % key)] if alone else []
        self._begin = [BEGIN, _SAVE, *wait]
        self._is_ended = False
        self._is_broken = False
        self.lock = asyncio.Lock()
        """Held while a statement is under way."""
        self.session: Session | None = None

    @property
    @override
    def db(self) -> PostgresHandlerDatabase:
        return PostgresHandlerDatabase(self)

    @property
    @override
    def thread_db(self) -> PostgresThreadDatabase:
        # Taken on the event loop, used in the thread.
        return PostgresThreadDatabase(self, asyncio.get_running_loop())

    @property
    @override
    def is_broken(self) -> bool:
        return self._is_broken

    @override
    def drop(self) -> None:
        self._is_ended = True
        self._store.undo(self)

    @override
    def keep(
        self, writes: Sequence[InboxWrite], answer: Record | None = None
    ) -> asyncio.Future[NotKept]:
        is_dropped, self._is_ended = self._is_ended, True
        session = self.session
        if session is None or is_dropped or self._is_broken:
            self._store.undo(self)
            return self._store.keep_rows(EndedUnit(self, writes))
        is_inside = session.pgconn.transaction_status == TransactionStatus.INTRANS
        if not (self.lock.locked() or session.closed or is_inside):
            self._store.undo(self)
            raise _tampered_with()
        return self._store.keep_all(EndedUnit(self, writes))

    async def run(self, sql: str, params: dict[str, SqlValue]) -> tuple[int, list[SqlRow]]:
        """Returns how many rows the statement wrote, and those it found."""
        statement = parsed(sql)
        async with self.lock:
            self._refuse_if_ended()
            if self._is_broken:
                problem = f"{self._store.name}: the unit of work was lost; it begins anew"
                raise StoreUnavailable(problem)
            try:
                session, result = await self._run(statement, params)
            except (StoreUnavailable, asyncio.CancelledError):
                self._is_broken = True  # how far a cancelled statement came is not known
                raise
            return _written_by(result), _dicts_of(session, result)

    def raw(self) -> Session:
        """Raises RuntimeError if the unit has run no statement yet, or has ended."""
        self._refuse_if_ended()
        if self.session is None:
            raise RuntimeError(RAW_TOO_EARLY)
        return self.session

    async def _run(
        self, statement: Statement, params: dict[str, SqlValue]
    ) -> tuple[Session, PGresult]:
        if session := self.session:
            if session.pgconn.transaction_status == TransactionStatus.IDLE:
                raise _tampered_with()
            return session, await self._ask(
                session, (_RELEASE, _SAVE), bound(statement, params, session)
            )
        # A connection that died while it was idle is replaced: nothing has happened on it.
        for tries_left in reversed(range(self._store.handlers_max + 1)):
            session = self.session = await self._store.enter(self)
            if self._is_ended:
                self._store.undo(self)
                self._refuse_if_ended()
            try:
                return session, await self._ask(
                    session, self._begin, bound(statement, params, session)
                )
            except StoreUnavailable:
                if not (session.closed and tries_left):
                    raise
                await self._store.give_back(self)
        raise AssertionError("the last try returns or raises")

    async def _ask(self, session: Session, before: Sequence[Call], asked: Call) -> PGresult:
        name = self._store.name
        try:
            return (await exchange(session, [*before, asked]))[-1]
        except psycopg.Error as error:
            if session.closed:
                raise unavailable(name, error) from error
            if session.pgconn.transaction_status == TransactionStatus.IDLE:
                raise
            try:
                await exchange(session, [_BACK])
            except psycopg.Error as lost:
                is_there = lost.sqlstate not in _NOT_INSIDE
                raise (unavailable(name, lost) if is_there else _tampered_with()) from lost
            if error.sqlstate in _PREPARED_IN_VAIN and session.forget(asked):
                return await self._ask(session, (), asked)
            if is_of_the_server(error) and error.sqlstate not in _OF_THE_STATEMENT:
                raise unavailable(name, error) from error
            raise

    def _refuse_if_ended(self) -> None:
        if self._is_ended:
            raise RuntimeError("ctx.db was used after its handler had ended")


class PostgresHandlerDatabase(Database):
    __slots__ = ("_unit",)

    def __init__(self, unit: PostgresUnit) -> None:
        self._unit = unit

    @override
    async def execute(self, sql: str, /, **params: SqlValue) -> int:
        written, _ = await self._unit.run(sql, params)
        return written

    @override
    async def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        _, rows = await self._unit.run(sql, params)
        return rows

    @property
    @override
    def raw(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        return self._unit.raw()


class PostgresThreadDatabase(ThreadDatabase):
    __slots__ = ("_loop", "_unit")

    def __init__(self, unit: PostgresUnit, loop: asyncio.AbstractEventLoop) -> None:
        self._unit = unit
        self._loop = loop

    @override
    def execute(self, sql: str, /, **params: SqlValue) -> int:
        written, _ = self._run(sql, params)
        return written

    @override
    def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        _, rows = self._run(sql, params)
        return rows

    @property
    @override
    def raw(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._unit.session is None:
            self.fetch(BEGINNING)
        return _ThreadConnection(self._unit.raw().pgconn)

    def _run(self, sql: str, params: dict[str, SqlValue]) -> tuple[int, list[SqlRow]]:
        return asyncio.run_coroutine_threadsafe(self._unit.run(sql, params), self._loop).result()


class _ThreadConnection(psycopg.Connection[tuple[Any, ...]]):
    """Another view of a connection, which is closed elsewhere."""

    def __del__(self, *_: Any) -> None:
        """Leave it open, without a word."""


class _Numeric(Loader):
    """A numeric without decimals is an `int`, as a sum of integers is; any other a `Decimal`."""

    @override
    def load(self, data: Buffer) -> int | Decimal:
        text = bytes(data).decode()
        return int(text) if text.removeprefix("-").isdecimal() else Decimal(text)


def _dicts_of(session: Session, result: PGresult) -> list[SqlRow]:
    names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
    return [dict(zip(names, row, strict=True)) for row in rows_of(session, result)]


def _written_by(result: PGresult) -> int:
    status = result.command_status or b""
    return (result.command_tuples or 0) if status.startswith(_WRITING) else 0


def _tampered_with() -> TransactionEnded:
    return TransactionEnded(
        "the handler has ended the transaction of its unit of work (through db.raw): nothing says"
        " how much it has written"
    )


def _apart(units: Sequence[EndedUnit]) -> tuple[list[EndedUnit], list[EndedUnit]]:
    """Units that share no key and fit into one commit, and those left for later."""
    taken: set[Key] = set()
    first: list[EndedUnit] = []
    later: list[EndedUnit] = []
    for each in units:
        if len(first) < GROUP_UNITS_MAX and taken.isdisjoint(each.keys):
            taken.update(each.keys)
            first.append(each)
        else:
            later.append(each)
    return first, later
