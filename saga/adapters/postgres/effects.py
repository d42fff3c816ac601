"""The effects store in a PostgreSQL database: a connection for each handler that uses its tables.

What a handler wrote and its inbox row are committed by themselves, on its own connection, several
at once: the server makes them durable together. Rows without writes, as of handlers that only call
another system, gather meanwhile and go out as one statement. A commit whose answer was lost is
found out about: the session is ended, so that nothing of it can still happen, and the inbox tells
whether it happened.

Handlers of different sagas run side by side, in the isolation that the database gives them
(`read committed`, unless its address or user says otherwise): a handler that reads and then writes
the same row does so in one statement, or locks it. A handler that lost to a deadlock, or waited too
long for a lock, is called again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg.adapt import Buffer, Loader, Transformer
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
from typing_extensions import override

from saga.adapters.postgres.database import (
    COMMIT,
    Address,
    CommitUnknown,
    PostgresDatabase,
    is_of_the_server,
    unavailable,
)
from saga.adapters.postgres.inbox import (
    INBOX,
    Key,
    fits,
    is_taken,
    key_of,
    selecting,
    to_row,
    writing,
)
from saga.adapters.postgres.pipeline import (
    Call,
    Session,
    call_of,
    exchange,
)
from saga.adapters.postgres.schema import prepare
from saga.adapters.postgres.sql import Statement, bound, parsed
from saga.errors import StoreUnavailable, TransactionEnded
from saga.ports.effects_store import (
    BEGINNING,
    RAW_TOO_EARLY,
    Database,
    EffectsStore,
    InboxRow,
    InboxWrite,
    SqlRow,
    SqlValue,
    ThreadDatabase,
    Unit,
)

HANDLERS_MAX: Final = 12
ROWS_COMMITS_MAX: Final = 2
"""Connections for rows alone and for questions; while both write, rows gather."""
GROUP_UNITS_MAX: Final = 512
GROUP_TRIES_MAX: Final = 8
IDLE_IN_UNIT_TIMEOUT_S: Final = 20
"""How long a handler may keep others waiting by doing something else inside its transaction."""

_SESSION: Final = (
    "SELECT set_config('application_name', 'saga effects', false), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_IN_UNIT_TIMEOUT_S}s', false)"
)
# Only the service's own transaction has the outer savepoint.
_BEGIN: Final = (Call(b"BEGIN"), Call(b"SAVEPOINT saga_unit"))
_BACK_TO_BEGIN: Final = Call(b"ROLLBACK TO SAVEPOINT saga_unit")
_RELEASE_UNIT: Final = call_of("RELEASE SAVEPOINT saga_unit")
_SAVE: Final = Call(b"SAVEPOINT saga_statement")
_RELEASE: Final = Call(b"RELEASE SAVEPOINT saga_statement")
_BACK: Final = Call(b"ROLLBACK TO SAVEPOINT saga_statement")
_NOT_INSIDE: Final = frozenset({"3B001", "25P01", "25P02"})
"""There is no such savepoint, no transaction at all, or one that has failed."""
_OF_THE_STATEMENT: Final = frozenset({"42501", "42P01", "3F000"})
"""What the server says of the statement: the handler's tables are not ours to advise on."""
_PREPARED_IN_VAIN: Final = frozenset({"0A000", "26000"})
_WRITING: Final = (b"INSERT", b"UPDATE", b"DELETE", b"MERGE")

T = TypeVar("T")


class EndedUnit(NamedTuple):
    """A unit that has ended, and the inbox rows it wants kept."""

    unit: PostgresUnit
    writes: Sequence[InboxWrite]

    @property
    def keys(self) -> list[Key]:
        """The service and idempotency key of each row."""
        return [key_of(write.row) for write in self.writes]


class _Group:
    """Units that end with rows alone, and wait for one commit."""

    def __init__(self) -> None:
        self.units: list[EndedUnit] = []
        self.done: asyncio.Future[Collection[Unit]] = asyncio.get_running_loop().create_future()


class PostgresEffectsStore(EffectsStore):
    """The effects store at *address*.

    Args:
        address: which database, and how to get there.
        handlers_max: how many handlers may use its tables at once; others wait in line.
    """

    def __init__(self, address: Address, *, handlers_max: int = HANDLERS_MAX) -> None:
        self.address = address
        self.name: Final = address.name
        self.handlers_max: Final = handlers_max
        self._database: PostgresDatabase | None = None
        self._is_closing = False
        self._opening = asyncio.Lock()
        self._places = _Places(handlers_max)
        self._inside: set[PostgresUnit] = set()
        self._group: _Group | None = None
        self._is_commit_due = False
        self._commits: set[asyncio.Future[Collection[Unit]]] = set()

    @property
    @override
    def commits_max(self) -> int:
        return self.handlers_max + ROWS_COMMITS_MAX

    @override
    async def open(self) -> None:
        async with self._opening:
            if self._database is None:
                await asyncio.to_thread(prepare, self.address, INBOX, make=True)
                self._database = PostgresDatabase(
                    self.address, connections_max=self.commits_max, configure=self._configure
                )

    @override
    async def kept(self, service: str, keys: Sequence[str]) -> Mapping[str, InboxRow]:
        rows = await self._rows((service, key) for key in keys)
        return {key: row for (_, key), row in rows.items()}

    @override
    def unit(self, *, alone: bool = False) -> PostgresUnit:
        return PostgresUnit(self, alone=alone)

    @override
    async def close(self) -> None:
        database = self._database
        if database is None or self._is_closing:
            return
        self._is_closing = True
        self._places.refuse(self._not_open())
        while unfinished := [*self._commits, *([] if self._group is None else [self._group.done])]:
            await asyncio.wait(unfinished)
        for unit in list(self._inside):
            if unit.session is not None and not unit.lock.locked():
                await unit.session.close()
        await database.close()
        self._database, self._is_closing = None, False

    # What units ask of it.

    async def enter(self, unit: PostgresUnit) -> Session:
        """A connection for *unit*, once there is one to spare.

        Raises:
            StoreUnavailable: there is none to be had.
        """
        self._opened()
        if unit not in self._inside:
            await self._places.take()
            self._inside.add(unit)
        try:
            return await self._opened().borrow()
        except BaseException:
            self._leave(unit)
            raise

    async def give_back(self, unit: PostgresUnit) -> None:
        """Take the connection from *unit*, but not its place in line."""
        session, unit.session = unit.session, None
        if session is None:
            return
        if self._database is None:
            await session.close()
        else:
            await self._database.give_back(session)

    def undo(self, unit: PostgresUnit) -> None:
        """Undo what *unit* has written, once its statement in hand has ended."""
        if unit in self._inside:
            self._start(self._undo(unit))

    def keep_rows(
        self, unit: PostgresUnit, writes: Sequence[InboxWrite]
    ) -> asyncio.Future[Collection[Unit]]:
        """Keep rows alone, together with others that wait."""
        if self._database is None or self._is_closing:
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(self._not_open())
            return refused
        if self._group is None:
            self._group = _Group()
        group = self._group
        group.units.append(EndedUnit(unit, writes))
        self._call_commit()
        return group.done

    def commit(
        self, unit: PostgresUnit, writes: Sequence[InboxWrite]
    ) -> asyncio.Future[Collection[Unit]]:
        """Keep what *unit* has written, and rows with it."""
        return self._start(self._commit(unit, writes))

    # A handler's own transaction.

    async def _undo(self, unit: PostgresUnit) -> None:
        async with unit.lock:
            try:
                await self.give_back(unit)
            finally:
                self._leave(unit)

    async def _commit(self, unit: PostgresUnit, writes: Sequence[InboxWrite]) -> Collection[Unit]:
        async with unit.lock:
            try:
                return await self._try_commit(unit, writes)
            finally:
                self._leave(unit)

    async def _try_commit(
        self, unit: PostgresUnit, writes: Sequence[InboxWrite]
    ) -> Collection[Unit]:
        session, database = unit.session, self._opened()
        assert session is not None, "only a unit that has written is committed by itself"
        try:
            await database.commit_on(session, [_RELEASE_UNIT, *writing(writes), COMMIT])
        except CommitUnknown as unknown:
            await self.give_back(unit)
            if not writes:  # the inbox will tell
                raise unavailable(self.name, unknown.error) from unknown
            ended = [EndedUnit(unit, writes)]
            is_kept = await database.settle(unknown, partial(self._has_landed, ended))
            return () if is_kept else (unit,)
        except psycopg.Error as error:
            await self.give_back(unit)
            if is_taken(error):
                return (unit,)
            raise self._refusal(error) from error
        await self.give_back(unit)
        return ()

    def _refusal(self, error: psycopg.Error) -> Exception:
        # A handler's own tables may refuse only at the end, as deferred constraints do.
        if error.sqlstate in _NOT_INSIDE:
            return _tampered_with()
        if is_of_the_server(error):
            return unavailable(self.name, error)
        return TransactionEnded(f"the database refused to commit what the handler wrote: {error}")

    # Rows alone, in groups.

    def _call_commit(self) -> None:
        # The call comes when the loop has run what is ready now, so that units which end one
        # after another share a commit.
        if not self._is_commit_due and len(self._commits) < ROWS_COMMITS_MAX:
            self._is_commit_due = True
            asyncio.get_running_loop().call_soon(self._commit_group)

    def _commit_group(self) -> None:
        self._is_commit_due = False
        group, self._group = self._group, None
        if group is not None:
            self._commits.add(group.done)
            self._start(self._keep_group(group))

    async def _keep_group(self, group: _Group) -> None:
        moved: set[Unit] = set()
        waiting: Sequence[EndedUnit] = group.units
        try:
            while waiting:
                distinct, waiting = _apart(waiting)
                moved |= await self._keep_rows(distinct)
        except BaseException as error:
            group.done.set_exception(error)
            raise
        else:
            group.done.set_result(moved)
        finally:
            self._commits.discard(group.done)
            if self._group is not None:
                self._call_commit()

    async def _keep_rows(self, units: Sequence[EndedUnit]) -> set[Unit]:
        """Keep the rows of *units* in one transaction, but of those that do not fit any more."""
        moved: set[Unit] = set()
        failure: psycopg.Error | None = None
        for _ in range(GROUP_TRIES_MAX):
            calls = writing(write for each in units for write in each.writes)
            if not calls:
                return moved
            try:
                await self._opened().commit(
                    lambda calls=calls: calls,  # type: ignore[misc]
                    has_landed=partial(self._has_landed, units),
                )
            except psycopg.Error as error:
                failure = error
                if not is_taken(error):
                    raise unavailable(self.name, error) from error
                stored = await self._rows(key for each in units for key in each.keys)
                moved |= {each.unit for each in units if not _fits(each, stored)}
                units = [each for each in units if each.unit not in moved]
            else:
                return moved
        assert failure is not None
        raise unavailable(self.name, failure) from failure

    async def _has_landed(self, units: Sequence[EndedUnit]) -> bool:
        stored = await self._rows(key for each in units for key in each.keys)
        return all(
            stored.get(key_of(write.row)) == write.row for each in units for write in each.writes
        )

    async def _rows(self, keys: Iterable[Key]) -> dict[Key, InboxRow]:
        rows = map(to_row, await self._opened().fetch(*selecting(set(keys))))
        return {key_of(row): row for row in rows}

    async def _configure(self, session: Session) -> None:
        await self.address.configure(session)
        await session.execute(_SESSION, prepare=False)
        session.adapters.register_loader("numeric", _Numeric)

    def _leave(self, unit: PostgresUnit) -> None:
        if unit in self._inside:
            self._inside.discard(unit)
            self._places.give()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        if self._database is None:
            return asyncio.ensure_future(work)
        return self._database.start(work)

    def _opened(self) -> PostgresDatabase:
        if self._database is None:
            raise self._not_open()
        return self._database

    def _not_open(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self.name}: the effects store is not open")


class PostgresUnit(Unit):
    """One handler's unit of work.

    It has a connection of its own from its first statement to its end, so that a handler which
    waits for something else holds up only those who want the same rows. Each statement stands in a
    savepoint: one that fails undoes nothing else. A statement and what has to go before it are one
    message.
    """

    __slots__ = (
        "_before",
        "_has_savepoint",
        "_is_broken",
        "_is_ended",
        "_store",
        "lock",
        "session",
    )

    def __init__(self, store: PostgresEffectsStore, *, alone: bool = False) -> None:
        self._store = store
        self._before: tuple[Call, ...] = _BEGIN
        if alone:
            key = store.address.lock_key("effects alone")
            self._before = (*_BEGIN, Call(b"SELECT pg_advisory_xact_lock(%d, %d)" % key))
        self._has_savepoint = False
        self._is_ended = False
        self.lock = asyncio.Lock()
        """Held while a statement is under way."""
        self.session: Session | None = None
        self._is_broken = False

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
    def keep(self, writes: Sequence[InboxWrite]) -> asyncio.Future[Collection[Unit]]:
        is_dropped, self._is_ended = self._is_ended, True
        session = self.session
        if session is None or is_dropped or self._is_broken:
            self._store.undo(self)
            return self._store.keep_rows(self, writes)
        if not (self.lock.locked() or session.closed or _is_inside(session)):
            self._store.undo(self)
            raise _tampered_with()
        return self._store.commit(self, writes)

    async def run(self, sql: str, params: dict[str, SqlValue]) -> tuple[int, list[SqlRow]]:
        """Run one statement of the handler: how many rows it wrote, and those it found."""
        statement = parsed(sql)
        async with self.lock:
            self._refuse_if_ended()
            if self._is_broken:
                raise StoreUnavailable(
                    f"{self._store.name}: the unit of work was lost; it begins anew"
                )
            try:
                result = await self._run(statement, params)
            except StoreUnavailable:
                self._is_broken = True
                raise
            except asyncio.CancelledError:
                self._is_broken = True  # how far the statement came is not known
                raise
            assert self.session is not None
            return _written_by(result), _rows_of(self.session, result)

    def raw(self) -> Session:
        """The connection.

        Raises:
            RuntimeError: the unit has none: it has run no statement yet, or has ended.
        """
        self._refuse_if_ended()
        if self.session is None:
            raise RuntimeError(RAW_TOO_EARLY)
        return self.session

    async def _run(self, statement: Statement, params: dict[str, SqlValue]) -> PGresult:
        session = self.session
        if session is None:
            return await self._begin(statement, params)
        if session.pgconn.transaction_status == TransactionStatus.IDLE:
            raise _tampered_with()
        before = (_RELEASE, _SAVE) if self._has_savepoint else (_SAVE,)
        self._has_savepoint = True
        return await self._ask(session, before, bound(statement, params, session), back=_BACK)

    async def _begin(self, statement: Statement, params: dict[str, SqlValue]) -> PGresult:
        # A connection that died while it was idle is replaced: nothing has happened on it.
        tries_left = self._store.handlers_max + 1
        while True:
            session = self.session = await self._store.enter(self)
            if self._is_ended:
                self._store.undo(self)
                self._refuse_if_ended()
            tries_left -= 1
            try:
                asked = bound(statement, params, session)
                return await self._ask(session, self._before, asked, back=_BACK_TO_BEGIN)
            except StoreUnavailable:
                if not (session.closed and tries_left):
                    raise
                await self._store.give_back(self)

    async def _ask(
        self, session: Session, before: Sequence[Call], asked: Call, *, back: Call
    ) -> PGresult:
        try:
            return (await exchange(session, [*before, asked]))[-1]
        except psycopg.Error as error:
            if session.closed:
                raise unavailable(self._store.name, error) from error
            if not _is_inside(session, failed=True):
                raise
            await self._go(session, back)
            if error.sqlstate in _PREPARED_IN_VAIN and session.forget(asked):
                return await self._ask(session, (), asked, back=back)
            if is_of_the_server(error) and error.sqlstate not in _OF_THE_STATEMENT:
                raise unavailable(self._store.name, error) from error
            raise

    async def _go(self, session: Session, back: Call) -> None:
        try:
            await exchange(session, [back])
        except psycopg.Error as error:
            raise unavailable(self._store.name, error) from error

    def _refuse_if_ended(self) -> None:
        if self._is_ended:
            raise RuntimeError("ctx.db was used after its handler had ended")


class PostgresHandlerDatabase(Database):
    """The handler's tables on the event loop."""

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
    """The handler's tables in a thread."""

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


class _Places:
    """So many places, in the order in which they are asked for."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give()
            raise

    def give(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def refuse(self, error: Exception) -> None:
        """Send all away who wait."""
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_exception(error)


class _Numeric(Loader):
    """A numeric without decimals is an `int`, as a sum of integers is; any other a `Decimal`."""

    @override
    def load(self, data: Buffer) -> int | Decimal:
        text = bytes(data).decode()
        return int(text) if text.removeprefix("-").isdecimal() else Decimal(text)


def _rows_of(session: Session, result: PGresult) -> list[SqlRow]:
    if not result.nfields:
        return []
    names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
    loading = Transformer(session)
    loading.set_pgresult(result)
    rows: list[tuple[Any, ...]] = loading.load_rows(0, result.ntuples, tuple)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _written_by(result: PGresult) -> int:
    status = result.command_status or b""
    return (result.command_tuples or 0) if status.startswith(_WRITING) else 0


def _tampered_with() -> TransactionEnded:
    return TransactionEnded(
        "the handler has ended the transaction of its unit of work (through db.raw): nothing says"
        " how much it has written"
    )


def _is_inside(session: Session, *, failed: bool = False) -> bool:
    inside = {TransactionStatus.INTRANS} | ({TransactionStatus.INERROR} if failed else set())
    return session.pgconn.transaction_status in inside


def _fits(ended: EndedUnit, stored: Mapping[Key, InboxRow]) -> bool:
    return all(fits(write, stored.get(key_of(write.row))) for write in ended.writes)


def _apart(units: Sequence[EndedUnit]) -> tuple[list[EndedUnit], list[EndedUnit]]:
    """The first of *units* that do not want the same keys, and those left for later."""
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
