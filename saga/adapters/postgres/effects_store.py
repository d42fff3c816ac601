"""The effects store in a PostgreSQL database: a connection for each handler that uses its tables.

What a handler wrote and its inbox row are committed by themselves, on its own connection, several
at once: the server makes them durable together. Rows without writes, as of handlers that only
call somebody else, gather meanwhile and go out as one statement. A commit whose answer was lost is
found out about: the session is ended, so that nothing of it can still happen, and the inbox says
whether it happened.

Handlers of different sagas run side by side, in the isolation that the database gives them
(`read committed`, unless its address or user says otherwise): whoever reads and then writes the
same row says so in one statement, or locks it. What was lost to a deadlock or to a lock that was
waited for too long is done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg.pq import PipelineStatus

from saga.adapters.postgres.arrays import Texts
from saga.adapters.postgres.connections import Address
from saga.adapters.postgres.database import ANSWER_TIMEOUT_S, InDoubt, PostgresDatabase
from saga.adapters.postgres.effects_inbox import INBOX, SELECT, fits, is_taken, to_row, writing
from saga.adapters.postgres.effects_line import Line
from saga.adapters.postgres.effects_unit import UNIT_SAVEPOINT, PostgresUnit, tampered_with
from saga.adapters.postgres.failures import is_conflict_of_order, is_of_the_server, unavailable
from saga.adapters.postgres.pipeline import Backend, Call, Session, commit, roll_back
from saga.adapters.postgres.schema import prepare
from saga.errors import StoreUnavailable, TransactionEnded
from saga.ports.effects_store import InboxRow, InboxWrite, Unit

HANDLERS_MAX: Final = 12
ROWS_COMMITS_MAX: Final = 2
"""Connections for rows alone and for questions; while both write, rows gather."""
GROUP_UNITS_MAX: Final = 512
GROUP_TRIES_MAX: Final = 8

_RELEASE: Final = Call(f"RELEASE SAVEPOINT {UNIT_SAVEPOINT}", ())
_NOT_INSIDE: Final = frozenset({"3B001", "25P01", "25P02"})
"""There is no such savepoint, no transaction at all, or one that has failed."""

T = TypeVar("T")
Key = tuple[str, str]


class Settled(NamedTuple):
    """A unit that has ended, and the inbox rows it wants kept."""

    unit: PostgresUnit
    writes: Sequence[InboxWrite]


class PostgresEffectsStore:
    """See `saga.ports.effects_store.EffectsStore`.

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
        self._line = Line(handlers_max)
        self._inside: set[PostgresUnit] = set()
        self._group: list[Settled] = []
        self._kept: asyncio.Future[Collection[Unit]] | None = None
        self._is_commit_due = False
        self._commits: set[asyncio.Future[Collection[Unit]]] = set()

    @property
    def commits_max(self) -> int:
        """Each handler's, and those of rows alone."""
        return self.handlers_max + ROWS_COMMITS_MAX

    async def open(self) -> None:
        """Connect and make the inbox where there is none."""
        async with self._opening:
            if self._database is None:
                await asyncio.to_thread(prepare, self.address, INBOX, make=True)
                self._database = PostgresDatabase(
                    self.address, connections_max=self.handlers_max + ROWS_COMMITS_MAX
                )

    async def kept(self, service: str, keys: Sequence[str]) -> Mapping[str, InboxRow]:
        """The inbox rows of these idempotency keys."""
        found = await self._rows((service, key) for key in keys)
        return {key: row for (_, key), row in found.items()}

    def unit(self, *, alone: bool = False) -> PostgresUnit:
        """A new unit of work; one that is *alone* waits for others that are."""
        return PostgresUnit(self, alone=alone)

    async def close(self) -> None:
        """Commit what was to be kept and disconnect."""
        database = self._database
        if database is None or self._is_closing:
            return
        self._is_closing = True
        self._line.refuse(self._not_open())
        while unfinished := [kept for kept in (self._kept, *self._commits) if kept is not None]:
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
            await self._line.take()
            self._inside.add(unit)
        try:
            return await self._opened().borrow()
        except BaseException:
            self._let_next(unit)
            raise

    async def leave(self, unit: PostgresUnit) -> None:
        """Take a connection that is of no use from *unit*, but not its place in line."""
        session, unit.session = unit.session, None
        if session is not None:
            await self._opened().give_back(session, is_clean=False)

    def take_back(self, unit: PostgresUnit) -> None:
        """Undo what *unit* has written, once its statement in hand has ended."""
        if unit in self._inside:
            self._start(self._undo(unit))

    def settle(
        self, unit: PostgresUnit, writes: Sequence[InboxWrite]
    ) -> asyncio.Future[Collection[Unit]]:
        """Keep rows alone, together with others that wait."""
        if self._database is None or self._is_closing:
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(self._not_open())
            return refused
        if self._kept is None:
            self._kept = asyncio.get_running_loop().create_future()
        kept = self._kept
        self._group.append(Settled(unit, writes))
        self._call_commit()
        return kept

    def commit(
        self, unit: PostgresUnit, writes: Sequence[InboxWrite]
    ) -> asyncio.Future[Collection[Unit]]:
        """Keep what *unit* has written, and rows with it."""
        return self._start(self._commit(unit, writes))

    # A handler's own transaction.

    async def _undo(self, unit: PostgresUnit) -> None:
        async with unit.lock:
            try:
                if unit.session is not None:
                    await self._end(unit, unit.session, is_committed=False)
            finally:
                self._let_next(unit)

    async def _commit(self, unit: PostgresUnit, writes: Sequence[InboxWrite]) -> Collection[Unit]:
        async with unit.lock:
            session = unit.session
            assert session is not None, "only a unit that has written is committed by itself"
            try:
                return await self._try_commit(unit, session, writes)
            finally:
                self._let_next(unit)

    async def _try_commit(
        self, unit: PostgresUnit, session: Session, writes: Sequence[InboxWrite]
    ) -> Collection[Unit]:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await commit(session, [_RELEASE, *writing(writes)])
        except psycopg.Error as error:
            if not session.closed:
                await self._end(unit, session, is_committed=False)
                if is_taken(error):
                    return (unit,)
                raise self._refusal(error) from error
            failure: Exception = error
        except (OSError, TimeoutError) as error:
            failure = error
        else:
            await self._end(unit, session, is_committed=True)
            return ()
        await session.close()
        await self._end(unit, session, is_committed=False)
        return await self._settled(Settled(unit, writes), session.backend, failure)

    async def _end(self, unit: PostgresUnit, session: Session, *, is_committed: bool) -> None:
        """Give back the connection of *unit*, without any transaction."""
        unit.session = None
        is_clean = not session.closed and session.pgconn.pipeline_status == PipelineStatus.OFF
        if is_clean and not is_committed:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await roll_back(session)
            except (psycopg.Error, OSError, TimeoutError):
                is_clean = False
        if self._database is None:
            await session.close()
        else:
            await self._database.give_back(session, is_clean=is_clean)

    def _refusal(self, error: psycopg.Error) -> Exception:
        """Why what a handler has written was not committed. A handler's own tables may say no only
        at the end, as deferred constraints do.
        """
        if error.sqlstate in _NOT_INSIDE:
            return tampered_with()
        if is_of_the_server(error):
            return unavailable(self.name, error)
        return TransactionEnded(f"the database refused to commit what the handler wrote: {error}")

    async def _settled(
        self, settled: Settled, backend: Backend, error: Exception
    ) -> Collection[Unit]:
        """Find out whether a transaction was committed whose answer was lost.

        Raises:
            StoreUnavailable: that cannot be known now; the inbox will tell.
        """
        lost = unavailable(self.name, error)
        if not settled.writes:
            raise lost from error
        await self._opened().end(backend)
        return () if await self._has_landed([settled]) else (settled.unit,)

    # Rows alone, in groups.

    def _call_commit(self) -> None:
        # The call comes when the loop has run what is ready now, so that units which end one
        # after another share a commit.
        if not self._is_commit_due and len(self._commits) < ROWS_COMMITS_MAX:
            self._is_commit_due = True
            asyncio.get_running_loop().call_soon(self._commit_rows)

    def _commit_rows(self) -> None:
        self._is_commit_due = False
        group, kept = self._group, self._kept
        if kept is None:
            return
        self._group, self._kept = [], None
        self._commits.add(kept)
        self._start(self._keep_group(group, kept))

    async def _keep_group(
        self, group: Sequence[Settled], kept: asyncio.Future[Collection[Unit]]
    ) -> None:
        moved: set[Unit] = set()
        try:
            while group:
                distinct, group = _apart(group)
                moved |= await self._keep_rows(distinct)
        except BaseException as error:
            kept.set_exception(error)
            raise
        else:
            kept.set_result(moved)
        finally:
            self._commits.discard(kept)
            if self._kept is not None:
                self._call_commit()

    async def _keep_rows(self, group: Sequence[Settled]) -> set[Unit]:
        """Keep the rows of *group* in one transaction, but of those units that do not fit (any
        more).
        """
        moved: set[Unit] = set()
        failure: Exception | None = None
        for _ in range(GROUP_TRIES_MAX):
            calls = writing(write for settled in group for write in settled.writes)
            if not calls:
                return moved
            try:
                await self._opened().transact(calls)
            except InDoubt as doubt:
                failure = doubt.error
                await self._opened().end(doubt.backend)
                if await self._has_landed(group):
                    return moved
            except psycopg.Error as error:
                failure = error
                if is_taken(error):
                    there = await self._rows(_keys(group))
                    rejected = {one.unit for one in group if not _is_fit(one, there)}
                    moved |= rejected
                    group = [one for one in group if one.unit not in rejected]
                elif not is_conflict_of_order(error):
                    raise unavailable(self.name, error) from error
            else:
                return moved
        assert failure is not None
        raise unavailable(self.name, failure) from failure

    async def _has_landed(self, group: Sequence[Settled]) -> bool:
        there = await self._rows(_keys(group))
        return all(
            there.get((write.row.service, write.row.key)) == write.row
            for settled in group
            for write in settled.writes
        )

    async def _rows(self, keys: Iterable[Key]) -> dict[Key, InboxRow]:
        wanted = set(keys)
        services, ids = {service for service, _ in wanted}, [key for _, key in wanted]
        database = self._opened()
        found = map(to_row, await database.fetch(SELECT, (Texts(ids), Texts(services))))
        return {key: row for row in found if (key := (row.service, row.key)) in wanted}

    def _let_next(self, unit: PostgresUnit) -> None:
        if unit in self._inside:
            self._inside.discard(unit)
            self._line.give()

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


def _keys(group: Iterable[Settled]) -> list[Key]:
    return [(write.row.service, write.row.key) for one in group for write in one.writes]


def _is_fit(settled: Settled, there: Mapping[Key, InboxRow]) -> bool:
    return all(
        fits(write, there.get((write.row.service, write.row.key))) for write in settled.writes
    )


def _apart(group: Sequence[Settled]) -> tuple[list[Settled], list[Settled]]:
    """The first units of *group* that do not want the same keys, and those left for later."""
    taken: set[Key] = set()
    first: list[Settled] = []
    later: list[Settled] = []
    for settled in group:
        keys = _keys([settled])
        if len(first) < GROUP_UNITS_MAX and taken.isdisjoint(keys):
            taken.update(keys)
            first.append(settled)
        else:
            later.append(settled)
    return first, later
