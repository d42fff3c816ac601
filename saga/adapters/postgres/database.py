"""One PostgreSQL database in this process: its connections, its transactions, its reads.

A transaction goes out as one message, from BEGIN to COMMIT: a process that freezes hardly ever
holds a lock. If the answer to a commit is lost, its session is ended, so that nothing of it can
still happen, and then the tables tell whether it did. No name and no error contains a password.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from struct import unpack
from typing import Any, Final, Self, TypeVar
from zlib import crc32

import psycopg
from psycopg import BaseConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row
from psycopg.sql import SQL
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout
from typing_extensions import override

from saga.adapters.clocks import SystemClock
from saga.adapters.postgres.pipeline import (
    Backend,
    Call,
    Session,
    call_of,
    exchange,
    rows_of,
    text,
)
from saga.adapters.versions import check_version
from saga.core.retry import Retry
from saga.errors import SettingsError, StoreUnavailable
from saga.retrying import Backoff, retried

T = TypeVar("T")

SCHEMA: Final = "public"
CONNECT_TIMEOUT_S: Final = 5
LOCK_TIMEOUT_S: Final = 4
"""Longer than the server's deadlock_timeout, so that a deadlock is found out as one."""
IDLE_IN_TRANSACTION_TIMEOUT_S: Final = 5
CONNECTIONS_MAX: Final = 8
CONNECTION_WAIT_S: Final = 4.0
RECONNECT_S: Final = 4.0
ANSWER_TIMEOUT_S: Final = 20.0
COMMIT_TRIES_MAX: Final = 8
SETTLE_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.005
TURNS_TRIED: Final = 5
"""How often a pooler is asked whether it shares out its sessions: others may be in the way."""
CLOSE_TIMEOUT_S: Final = 5.0
OTHER_FIRST: Final = Retry(attempts=None, initial="10ms", cap="100ms", jitter=1.0)
"""For a transaction that another one was in the way of."""

BEGIN: Final = call_of("BEGIN")
COMMIT: Final = call_of("COMMIT")
ROLLBACK: Final = call_of("ROLLBACK")

_TO_CONNECT: Final = {
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "application_name": "saga",
    # A server that went away without a word is noticed within some twenty seconds.
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_SESSION: Final = SQL(
    "SELECT pg_backend_pid(), current_setting('server_encoding'), "
    "(SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()), "
    "set_config('search_path', quote_ident({schema}), false), "
    "set_config('lock_timeout', {lock_timeout}, false), "
    "set_config('idle_in_transaction_session_timeout', {idle_timeout}, false), "
    "CASE WHEN current_setting('synchronous_commit') = 'off' "
    "THEN set_config('synchronous_commit', 'on', false) END, "
    # Statements are the same few all day, their rows are found by key, and statistics of tables
    # that grow from nothing are behind: without these a plan that reads whole tables would stay.
    "set_config('plan_cache_mode', 'force_generic_plan', false), "
    "set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)"
)
_END: Final = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE pid = %s::bigint AND backend_start::text = %s"
)
# Sessions whose transaction waits for its client for longer than any client of ours takes. They are
# found first and then ended, as the conditions of one query are evaluated in any order.
_END_FROZEN: Final = (
    "WITH frozen AS MATERIALIZED (SELECT pid FROM pg_stat_activity "
    "WHERE datname = current_database() AND usename = current_user "
    "AND application_name = current_setting('application_name') "
    "AND pid <> pg_backend_pid() AND wait_event = 'ClientRead' AND state <> 'idle' "
    "AND xact_start < clock_timestamp() - interval '3 seconds') "
    "SELECT pid FROM frozen WHERE pg_terminate_backend(pid)"
)


class NotCommitted(Exception):
    """Raised when the connection failed, and nothing of the transaction can still happen."""


class Address:
    """Which database, and how to get there.

    Args:
        conninfo: a URL `postgresql://USER[:PASSWORD]@HOST[:PORT]/DB[?OPTIONS]` or libpq's own form.
        password: asked at each connect, where the address has none.
        setting: named in the error where the address is wrong.

    Raises:
        SettingsError: the address cannot be read, or the driver's version is not known; when
            connecting, a pooler stands there that shares out its sessions.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        password: Callable[[], str] | None = None,
        setting: str = "SAGA_STORE",
    ) -> None:
        check_version("psycopg", setting=setting)
        try:
            given = conninfo_to_dict(conninfo)
        except psycopg.Error:
            # Without libpq's own words, which quote parts of the address and so of the password.
            expected = "postgresql://USER[:PASSWORD]@HOST[:PORT]/DB[?OPTIONS]"
            raise SettingsError(setting, f"cannot be read; expected {expected}") from None
        self.name = _name(given)
        self._setting = setting
        self._has_sessions = False
        """Whether a pooler was found to leave each client its session."""
        self._password = password if given.get("password") is None else None
        self.conninfo = make_conninfo("", **{**_TO_CONNECT, **given, "client_encoding": "UTF8"})
        self.session = _SESSION.format(
            schema=SCHEMA,
            lock_timeout=f"{LOCK_TIMEOUT_S}s",
            idle_timeout=f"{IDLE_IN_TRANSACTION_TIMEOUT_S}s",
        )

    def __repr__(self) -> str:
        return f"Address({self.name!r})"

    def lock_key(self, purpose: str) -> tuple[int, int]:
        """The advisory lock for *purpose*."""
        checksums = (crc32(each.encode()).to_bytes(4) for each in (f"saga {purpose}", SCHEMA))
        first, second = unpack(">2i", b"".join(checksums))
        return first, second

    def parameters(self) -> dict[str, Any]:
        """Parameters of `connect` beside `conninfo`."""
        secret = {} if self._password is None else {"password": self._password()}
        return {"autocommit": True, **secret}

    def connect(self) -> Connection[tuple[Any, ...]]:
        """A connection in autocommit mode that blocks its thread."""
        connection = psycopg.connect(self.conninfo, row_factory=tuple_row, **self.parameters())
        try:
            backend = _checked(connection.execute(self.session).fetchone())
            if not self._is_to_itself(connection, backend):
                self._refuse_turns()
        except BaseException:
            connection.close()
            raise
        return connection

    async def connect_async(self) -> Session:
        """A connection in autocommit mode for the event loop."""
        session = await Session.connect(self.conninfo, row_factory=tuple_row, **self.parameters())
        try:
            await self.configure(session)
        except BaseException:
            await session.close()
            raise
        return session

    async def configure(self, session: Session) -> None:
        cursor = await session.execute(self.session, prepare=False)
        backend = _checked(await cursor.fetchone())
        if not self._is_to_itself(session, backend):
            await asyncio.to_thread(self._refuse_turns)
        session.reset(backend)

    def _is_to_itself(self, connection: BaseConnection[Any], backend: Backend) -> bool:
        """Whether the server's process is the one that a connection was told of: no pooler's."""
        return self._has_sessions or connection.info.backend_pid == backend.pid

    def _refuse_turns(self) -> None:
        """Raise SettingsError where a pooler gives each transaction whatever session is free."""
        with self._bare() as one, self._bare() as two:
            if any(_take_turns(one, two) for _ in range(TURNS_TRIED)):
                raise SettingsError(self._setting, f"{self.name}: {_POOLED}")
        self._has_sessions = True

    def _bare(self) -> Connection[tuple[Any, ...]]:
        return psycopg.connect(
            self.conninfo, row_factory=tuple_row, prepare_threshold=None, **self.parameters()
        )


class PostgresDatabase:
    """Connects when it is first used; all methods raise StoreUnavailable where it cannot be used.

    Args:
        connections_max: of this process.
        configure: gives a new connection its settings; those of the address by default.
    """

    def __init__(
        self,
        address: Address,
        *,
        connections_max: int = CONNECTIONS_MAX,
        configure: Callable[[Session], Awaitable[None]] | None = None,
    ) -> None:
        self.address = address
        self.name = address.name
        self.connections_max = connections_max
        self._configure = configure or address.configure
        self._token = secrets.token_hex(2)
        """Tells this process from others in the log, and its pauses from theirs."""
        self._pool: _Pool | None = None
        self._is_closed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* to its end even if the caller is cancelled."""
        return await asyncio.shield(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* beside others; `close` waits for its end."""
        task = asyncio.ensure_future(work)  # it outlives its caller, so no group can hold it
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def commit(
        self, calls: Callable[[], Sequence[Call]], *, has_landed: Callable[[], Awaitable[bool]]
    ) -> list[PGresult] | None:
        """Make all calls in one transaction; their answers, or None if only those were lost.

        *calls* may be asked more than once: conflicts and commits that got lost are tried again.

        Raises:
            StoreUnavailable: nothing was committed, unless the error says that this is not known.
            psycopg.Error: the server refused it; nothing was committed.
        """
        backoff = Backoff(f"{self.name} ({self._token})", SystemClock(), OTHER_FIRST)
        failure: BaseException | None = None
        for _ in range(COMMIT_TRIES_MAX):
            transaction = [BEGIN, *calls(), COMMIT]
            try:
                return await self.end(await self.borrow(), transaction, has_landed)
            except NotCommitted as error:
                failure = error.__cause__
            except psycopg.Error as error:
                if error.sqlstate not in _CONFLICTS_OF_ORDER:
                    raise
                failure = error
                await backoff.pause("another transaction was first", error)
        assert failure is not None
        raise unavailable(self.name, failure) from failure

    async def end(
        self, session: Session, calls: Sequence[Call], has_landed: Callable[[], Awaitable[bool]]
    ) -> list[PGresult] | None:
        """Send the *calls* that end the transaction, and give back *session*; answers as `commit`.

        Raises:
            NotCommitted: the connection failed, and *has_landed* denies it.
            StoreUnavailable: the connection failed, and whether it was committed is not known.
            psycopg.Error: the server refused it; nothing was committed.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await exchange(session, calls)
        except (psycopg.Error, OSError, TimeoutError) as error:
            if isinstance(error, psycopg.Error) and not session.closed:
                raise
            await session.close()
            failure = error
        finally:
            await self.give_back(session)
        if not await self._is_committed(session.backend, has_landed):
            raise NotCommitted from failure
        return None

    async def fetch(self, query: str | Call, *parameters: bytes | int) -> list[Any]:
        call = query if isinstance(query, Call) else call_of(query, *parameters)
        # After a restart of the server each connection that was idle meanwhile fails once.
        for tries_left in reversed(range(self.connections_max + 1)):
            session = await self.borrow()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    [result] = await exchange(session, [call])
                    return rows_of(session, result)
            except TimeoutError as error:
                await session.close()
                raise StoreUnavailable(f"{self.name}: it does not answer") from error
            except psycopg.Error as error:
                if not is_of_the_server(error):
                    raise
                if not (session.broken and tries_left):
                    raise unavailable(self.name, error) from error
            finally:
                await self.give_back(session)
        raise AssertionError("the last try returns or raises")

    async def borrow(self) -> Session:
        """A connection in autocommit mode, which may have died while it was idle."""
        if self._is_closed:
            raise StoreUnavailable(f"{self.name}: it is closed")
        pool = self._pool = self._pool or _Pool(self.address, self.connections_max, self._configure)
        with translated(self.name):
            if pool.closed:
                await pool.open()
            try:
                return await pool.getconn()
            except (PoolTimeout, PoolClosed) as error:
                raise unavailable(self.name, pool.failure or error) from error

    async def give_back(self, session: Session) -> None:
        """Rolls back what is open."""
        if session.closed or session.pgconn.pipeline_status != PipelineStatus.OFF:
            await session.close()
        elif session.pgconn.transaction_status != TransactionStatus.IDLE:
            await self._roll_back(session)
        if self._pool is None or self._pool.closed:
            await session.close()
        else:
            await self._pool.putconn(session)

    async def end_frozen(self) -> None:
        """End sessions of ours that stand still in a transaction; nothing of it is kept."""
        await self.fetch(_END_FROZEN)

    async def ended(self, transactions: str) -> None:
        """Wait for the end of all that the query *transactions* finds now."""
        waiting = set(await self.fetch(transactions))
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                while waiting:
                    await asyncio.sleep(POLL_S)
                    waiting.intersection_update(await self.fetch(transactions))
        except TimeoutError as error:
            problem = f"{self.name}: a transaction that writes turns does not end"
            raise StoreUnavailable(problem) from error

    async def close(self) -> None:
        """Finish what was begun, and disconnect."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=ANSWER_TIMEOUT_S)
        self._is_closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=CLOSE_TIMEOUT_S)

    async def _is_committed(
        self, backend: Backend, has_landed: Callable[[], Awaitable[bool]]
    ) -> bool:
        # Ask only once the session is gone: then nothing that it was sent can still happen.
        async def ask() -> bool:
            if (False,) in await self.fetch(_END, backend.pid, text(backend.started)):
                raise StoreUnavailable(f"{self.name}: a session that was cut off does not end")
            return await has_landed()

        backoff = Backoff(f"{self.name} ({self._token})", SystemClock())
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                what = "whether a commit arrived is not known yet"
                return await retried(what, lambda: backoff, ask)
        except TimeoutError as error:
            problem = backoff.last_error or f"{self.name}: it does not answer"
            raise StoreUnavailable(f"{problem}; whether it was recorded is not known") from error

    async def _roll_back(self, session: Session) -> None:
        # psycopg's own way would forget all that is prepared.
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await exchange(session, [ROLLBACK])
        except (psycopg.Error, OSError, TimeoutError):
            await session.close()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller has it, if it still waits


class _Pool(AsyncConnectionPool[Session]):
    """psycopg's pool, which remembers why it could not connect."""

    def __init__(
        self,
        address: Address,
        connections_max: int,
        configure: Callable[[Session], Awaitable[None]],
    ) -> None:
        self.failure: psycopg.Error | None = None
        super().__init__(
            address.conninfo,
            connection_class=self._session_class(),
            kwargs=address.parameters,
            configure=configure,
            min_size=0,
            max_size=connections_max,
            open=False,
            timeout=CONNECTION_WAIT_S,
            # Short: while an attempt is under way with ever longer pauses, no other one is made.
            reconnect_timeout=RECONNECT_S,
            name=f"connections to {address.name}",
        )

    @override
    async def getconn(self, timeout: float | None = None) -> Session:
        # The pool waits in `asyncio.wait_for`, which on Python 3.11 loses a cancellation that
        # arrives together with the connection: who was cancelled would go on, perhaps for ever.
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        session = await super().getconn(timeout)
        if task is not None and task.cancelling() > before:
            await self.putconn(session)
            raise asyncio.CancelledError
        return session

    def _session_class(self) -> type[Session]:
        pool = self

        class PooledSession(Session):
            @classmethod
            @override
            async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
                try:
                    session = await super().connect(conninfo, **kwargs)
                except psycopg.Error as error:
                    pool.failure = error
                    raise
                pool.failure = None
                return session

        return PooledSession


# Errors of the driver.

_ADVICE: Final = {
    "08": "it cannot be reached: see that it runs and the address is right, work then goes on",
    "25006": "it takes no writes: name the primary, not a standby "
    "(target_session_attrs=read-write finds it)",
    "28": "it does not let us in: check the user in its address, the password there or in "
    "SAGA_STORE_PASSWORD, and pg_hba.conf",
    "3D000": "there is no such database: make it with `createdb`, or name another one",
    "3F000": "there is no such schema: make it, or name another one",
    "42501": "this user may not do that: grant it the rights on the schema, or make it the owner",
    "42P01": "the tables are not there: run `saga store migrate`",
    "53100": "its disk is full: make room, work goes on by itself",
    "53300": "it has no connection left: raise max_connections, or run fewer processes",
    "53": "it is out of resources: work goes on by itself once there are some",
    "55P03": "another session holds a lock: wait for it, or end that session",
    "57014": "it took too long",
    "57P01": "it is being shut down: work goes on by itself once it is back",
    "57P02": "it has crashed: work goes on by itself once it is back",
    "57P05": "it ended a session that stood still: another one is made",
    "57P03": "it is starting or stopping: work goes on by itself once it is back",
    "58": "its disk reports an error: check it, and the server's log",
    "XX": "it reports damage: look into the server's log, restore from a backup where needed",
    "40": "it could not order what several wrote at once: try again",
    "25P03": "it ended a transaction that stood still: try again",
}
_WHILE_CONNECTING: Final = {
    "password authentication failed": "28",
    "no password supplied": "28",
    "no pg_hba.conf entry": "28",
    "does not exist": "3D000",
    "too many clients": "53300",
    "connection slots": "53300",
    "the database system is starting up": "57P03",
    "the database system is shutting down": "57P03",
}
_ENCODING_ADVICE: Final = "it cannot keep all text"
_POOLED: Final = (
    "a pooler answers there that shares out its sessions by transaction, and saga needs sessions "
    "of its own, for locks, notifications and prepared statements: name the server itself, or a "
    "pool with pool_mode=session"
)
_TLS: Final = ("certificate", "SSL", "sslmode")
_TLS_ADVICE: Final = (
    "it cannot be spoken to as sslmode and sslrootcert in the address ask for: see that the "
    "certificate is signed by that authority, names this host and is valid, and that the server "
    "has ssl=on"
)
_FOR_SOMEBODY: Final = {
    *(_ADVICE[state] for state in ("28", "3D000", "3F000", "42501", "42P01")),
    _TLS_ADVICE,
    _ENCODING_ADVICE,
}
"""What no waiting mends."""
_CONFLICTS_OF_ORDER: Final = frozenset({"40001", "40P01"})


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Raise StoreUnavailable where the database cannot be used."""
    try:
        yield
    except psycopg.Error as error:
        if not is_of_the_server(error):
            raise
        raise unavailable(name, error) from error
    except OSError as error:
        raise StoreUnavailable(f"{name}: {error.strerror or error}") from error


def is_of_the_server(error: BaseException) -> bool:
    """Whether *error* is about the database at this moment, and not about a wrong statement."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is not None:
        return _advice(error.sqlstate) is not None
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def is_refusal(error: BaseException) -> bool:
    """Whether the server can keep everything but what it was given: no outage mends that."""
    if isinstance(error, OverflowError | UnicodeError | struct.error):
        return True
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in {"22", "23", "54"}


def unavailable(name: str, error: BaseException) -> StoreUnavailable:
    words = " ".join(str(error).split())
    state = getattr(error, "sqlstate", None)
    # An error without a state comes from libpq, while connecting.
    advice = _advice(state) if state else _advice_while_connecting(words)
    failure = StoreUnavailable(f"{name}: {advice} ({words})" if advice else f"{name}: {words}")
    failure.passes = advice not in _FOR_SOMEBODY
    return failure


def _advice(sqlstate: str) -> str | None:
    return _ADVICE.get(sqlstate) or _ADVICE.get(sqlstate[:2])


def _advice_while_connecting(error: str) -> str | None:
    # libpq gives only text; what is not in English is advised on as if no server had answered.
    for words, state in _WHILE_CONNECTING.items():
        if words in error and not ("certificate" in error and state == "3D000"):
            return _advice(state)
    if "has the encoding" in error:
        return _ENCODING_ADVICE
    if any(word in error for word in _TLS):
        return _TLS_ADVICE
    return _advice("08")


def _checked(row: tuple[Any, ...] | None) -> Backend:
    assert row is not None
    pid, encoding, started, *_ = row
    if encoding != "UTF8":
        # An error of the driver's kind, so that it is translated like all others.
        raise psycopg.OperationalError(
            f"the database has the encoding {encoding}, which cannot keep all text: "
            "make one with `createdb --encoding UTF8 --template template0`"
        )
    return Backend(pid, started)


def _take_turns(one: Connection[Any], two: Connection[Any]) -> bool:
    """Whether two clients of a pooler were given one session, or one client two."""
    try:
        first = _backend_pid(one)
        with two.transaction():
            second = _backend_pid(two)
            return second == first or _backend_pid(one) != first
    except psycopg.errors.ProtocolViolation:
        return True  # no transactions at all


def _backend_pid(connection: Connection[Any]) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def _name(given: dict[str, Any]) -> str:
    host = given.get("host") or given.get("hostaddr") or ""
    port = f":{given['port']}" if given.get("port") else ""
    user = f"{given['user']}@" if given.get("user") else ""
    return f"postgresql://{user}{host}{port}/{given.get('dbname') or ''}"
