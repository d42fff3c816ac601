"""One PostgreSQL database in this process: its connections, its transactions, its reads.

A transaction goes out as one pipeline, from BEGIN to COMMIT, and its answers are read together: one
way there and back, and a process that freezes hardly ever holds a lock meanwhile. Everything that
can go wrong with the server becomes `StoreUnavailable`, with a message that names the database and
says what to do; only where it is not known whether a transaction was committed, `InDoubt` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from saga.adapters.postgres import statements as sql
from saga.adapters.postgres.connections import Address, SagaDatastore
from saga.adapters.postgres.failures import is_of_the_server, translated, unavailable
from saga.adapters.postgres.pipeline import Answers, Backend, Call, Session, roll_back, transact
from saga.errors import StoreUnavailable

T = TypeVar("T")

CONNECTIONS_MAX: Final = 8
CONNECTION_WAIT_S: Final = 4.0
RECONNECT_S: Final = 4.0
ANSWER_TIMEOUT_S: Final = 20.0
READ_TRIES_MAX: Final = CONNECTIONS_MAX + 1
"""After a restart of the server each connection that was idle meanwhile fails once."""
POLL_S: Final = 0.005
SETTLED_WAIT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 5.0

_END: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE pid = %s AND backend_start::text = %s"
)
# In a transaction, and waiting for its client for longer than any client of ours takes. First who
# that is, and only then the end: conditions of one query are looked at in any order.
_END_FROZEN: Final = (
    "WITH frozen AS MATERIALIZED (SELECT pid FROM pg_stat_activity "
    "WHERE datname = current_database() AND usename = current_user "
    "AND application_name = current_setting('application_name') "
    "AND pid <> pg_backend_pid() AND wait_event = 'ClientRead' AND state <> 'idle' "
    "AND xact_start < clock_timestamp() - interval '3 seconds') "
    "SELECT pid FROM frozen WHERE pg_terminate_backend(pid)"
)


class InDoubt(Exception):
    """Raised when the connection failed before the answer: the transaction may be stored or not."""

    def __init__(self, backend: Backend, error: Exception) -> None:
        super().__init__(str(error))
        self.backend = backend
        self.error = error


class PostgresDatabase:
    """The database at an address; it connects when it is first used.

    Args:
        address: which one, and how to get there.
        connections_max: how many connections this process may have to it.
    """

    def __init__(self, address: Address, *, connections_max: int = CONNECTIONS_MAX) -> None:
        self.address = address
        self.name = address.name
        self.datastore = SagaDatastore(address)
        self._connections_max = connections_max
        self._pool: _Pool | None = None
        self._is_closed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* to its end even if the caller is cancelled: half a transaction says
        nothing.
        """
        return await asyncio.shield(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* beside others; `close` waits for its end."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def transact(self, calls: Sequence[Call]) -> Answers:
        """Make all *calls* in one transaction, and return what each answers.

        Raises:
            InDoubt: whether it was committed is not known.
            StoreUnavailable: there is no connection; nothing was recorded.
            psycopg.Error: the server refused it; nothing was recorded.
        """
        pool = await self._opened()
        connection = await self._connection(pool)
        try:
            return await self._transact(connection, calls)
        finally:
            await pool.putconn(connection)

    async def read(self, query: Callable[[Session], Awaitable[T]]) -> T:
        """Run *query*, which only reads, on a connection in autocommit mode.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """
        pool = await self._opened()
        for tries_left in reversed(range(READ_TRIES_MAX)):
            connection = await self._connection(pool)
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await query(connection)
            except TimeoutError as error:
                await connection.close()
                raise StoreUnavailable(f"{self.name}: it does not answer") from error
            except psycopg.Error as error:
                if not is_of_the_server(error):
                    raise
                if not (connection.broken and tries_left):
                    raise unavailable(self.name, error) from error
            finally:
                await pool.putconn(connection)
        raise AssertionError("the last try returns or raises")

    async def borrow(self) -> Session:
        """A connection in autocommit mode to begin a transaction on. It may turn out to be broken:
        the server may have been restarted while it was idle.

        Raises:
            StoreUnavailable: there is none to be had.
        """
        return await self._connection(await self._opened())

    async def give_back(self, session: Session, *, is_clean: bool) -> None:
        """Let others have a borrowed connection; one that is not *is_clean* is closed."""
        if not is_clean:
            await session.close()
        pool = self._pool
        if pool is None or pool.closed:
            await session.close()
        else:
            await pool.putconn(session)

    async def fetch(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows that *query* finds.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """

        async def work(connection: Session) -> list[Any]:
            cursor = await connection.execute(query, parameters, binary=True)
            return await cursor.fetchall()

        return await self.read(work)

    async def end(self, backend: Backend) -> None:
        """See that *backend* is gone, so that nothing which it was sent can happen any more.

        Raises:
            StoreUnavailable: that cannot be seen to now.
        """
        async with _patience(f"{self.name}: a session that was cut off does not end"):
            while await self.fetch(_END, backend):  # noqa: ASYNC110  # only the server knows
                await asyncio.sleep(POLL_S)

    async def end_frozen(self) -> int:
        """End sessions of ours whose process stands still in the middle of a transaction, and with
        them their locks; how many there were. Nothing of what they wrote is kept.
        """
        return len(await self.fetch(_END_FROZEN))

    async def settled(self, writers: str) -> int:
        """The last place in the log, once nothing can appear before it any more.

        *writers* asks for the transactions that have taken places, or are about to.

        Raises:
            StoreUnavailable: the database cannot be read, or one of them does not end.
        """
        rows = await self.fetch(sql.LAST_PLACE)
        if not rows:
            return 0
        waiting = set(await self.fetch(writers))
        async with _patience(f"{self.name}: a transaction that writes entries does not end"):
            while waiting:
                await asyncio.sleep(POLL_S)
                waiting.intersection_update(await self.fetch(writers))
        return int(rows[0][0])

    async def close(self) -> None:
        """Finish what was begun, and disconnect."""
        self._is_closed = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=ANSWER_TIMEOUT_S)
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=CLOSE_TIMEOUT_S)
        await asyncio.to_thread(self.datastore.close)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it, or nobody does

    async def _opened(self) -> _Pool:
        if self._is_closed:
            raise StoreUnavailable(f"{self.name}: it is closed")
        if self._pool is None:
            self._pool = _Pool(self.address, self._connections_max)
        if self._pool.closed:
            await self._pool.open()
        return self._pool

    async def _connection(self, pool: _Pool) -> Session:
        with translated(self.name):
            try:
                return await pool.getconn()
            except (PoolTimeout, PoolClosed) as error:
                raise unavailable(self.name, pool.failure or error) from error

    async def _transact(self, connection: Session, calls: Sequence[Call]) -> Answers:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await transact(connection, calls)
        except (psycopg.Error, OSError, TimeoutError) as error:
            if isinstance(error, psycopg.Error) and not connection.closed:
                await self._roll_back(connection)
                raise
            await connection.close()
            raise InDoubt(connection.backend, error) from error

    async def _roll_back(self, connection: Session) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await roll_back(connection)
        except (psycopg.Error, OSError, TimeoutError):
            await connection.close()


@asynccontextmanager
async def _patience(problem: str) -> AsyncIterator[None]:
    """Raises StoreUnavailable where what is waited for inside takes too long."""
    try:
        async with asyncio.timeout(SETTLED_WAIT_S):
            yield
    except TimeoutError as error:
        raise StoreUnavailable(problem) from error


class _Pool(AsyncConnectionPool[Session]):
    """psycopg's pool, which remembers why it could not connect."""

    def __init__(self, address: Address, connections_max: int) -> None:
        super().__init__(
            address.conninfo,
            connection_class=Session,
            kwargs=address.parameters,
            configure=address.configure,
            min_size=0,
            max_size=connections_max,
            open=False,
            timeout=CONNECTION_WAIT_S,
            # Short: while an attempt is under way with ever longer pauses, no other one is made.
            reconnect_timeout=RECONNECT_S,
            name=f"connections to {address.name}",
        )
        self.failure: psycopg.Error | None = None

    async def getconn(self, timeout: float | None = None) -> Session:
        """A connection. It waits in `asyncio.wait_for`, which on Python 3.11 loses a cancellation
        that arrives together with the connection: whoever was cancelled would go on, perhaps for
        ever.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        connection = await super().getconn(timeout)
        if task is not None and task.cancelling() > before:
            await self.putconn(connection)
            raise asyncio.CancelledError
        return connection

    async def _connect(self, timeout: float | None = None) -> Session:
        try:
            connection = await super()._connect(timeout)
        except psycopg.Error as error:
            self.failure = error
            raise
        self.failure = None
        return connection
