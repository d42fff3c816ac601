"""`Outbox`: events that are published if, and only if, the program's own transaction commits.

One relay leads, by a lock of its session, and removes events after they are published: a crash in
between repeats the same bytes under the same ids. A relay that is frozen or cut off loses its lead.
Events that are too large are put apart with the reason; a missing topic holds up its own alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Coroutine, Sequence
from datetime import timedelta
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Protocol, Unpack

from saga.adapters.clocks import SystemClock
from saga.adapters.headers import encode_headers
from saga.contracts import Event
from saga.core.durations import SECOND_US, duration_us
from saga.errors import BusUnavailable, MessageTooLarge, StoreUnavailable, TopicMissing
from saga.publishing.publisher import Publisher
from saga.publishing.writer import EventWriter, PublishOptions, WrittenEvent
from saga.retrying import Backoff
from saga.settings import Settings

if TYPE_CHECKING:
    from saga.adapters.postgres.outbox import OutboxRow, OutboxSession

BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 8 * 1_048_576
POLL: Final = timedelta(milliseconds=100)
STAY_S: Final = 4.0
"""How often a leading relay says that it lives, whatever else it waits for."""
TAKE_OVER_S: Final = 0.5
"""How often a relay that does not lead asks whether it may."""
MISSING_S: Final = 5.0
"""How long the events of a missing topic wait before it is looked for again."""
_IDLE: Final = 0
"""`PQTRANS_IDLE` of libpq: connected, and in no transaction."""

log = logging.getLogger(__name__)


class Connection(Protocol):
    """A connection or cursor of psycopg, or a cursor of Django's."""

    def execute(self, query: Any, params: Any, /) -> Any: ...


class AsyncConnection(Protocol):
    """An async psycopg connection or cursor."""

    def execute(self, query: Any, params: Any, /) -> Awaitable[Any]: ...


class Outbox:
    """Adds events to the table `saga_outbox` in the database of the program's own PostgreSQL.

    ```python
    outbox = Outbox(source="/shop")

    with psycopg.connect(...) as connection, connection.transaction():
        connection.execute("INSERT INTO orders VALUES (%s)", [order_id])
        outbox.add(connection, OrderPlaced(order_id=order_id, amount=10))
    ```

    `saga outbox migrate` makes the table; `saga outbox relay` publishes from it at least once, with
    the same id and bytes, in order for each key where one transaction followed the other.

    Args:
        source: who says so, as a URI reference; `ce_source` of every record.
        schema: where the table is; by default where the connection finds it.
        settings: as in the environment; *env* and *namespace* name the topics.

    Raises:
        SettingsError: a setting is unknown or illegal.
    """

    def __init__(
        self, *, source: str | None = None, schema: str | None = None, **settings: Any
    ) -> None:
        self._writer = EventWriter.of(Settings.read(**settings), source)
        quoted = "" if schema is None else '"{}".'.format(schema.replace('"', '""'))
        self._insert = (
            f"INSERT INTO {quoted}saga_outbox (message_id, topic, key, value, headers) "  # noqa: S608  # quoted
            "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (message_id) DO NOTHING"
        )

    def add(self, connection: Connection, event: Event, **options: Unpack[PublishOptions]) -> str:
        """Add *event* within the transaction of *connection*, and return its message id.

        *options* are those of `Publisher.publish`; a message id that waits is not added again.

        Raises:
            MessageError: the event has no key, or its readers could not read it.
            RuntimeError: there is no transaction, or *connection* is an async one.
        """
        written = self._writer.record(event, **options)
        _check_transaction(connection)
        executed = connection.execute(self._insert, _row(written))
        if isawaitable(executed):
            if hasattr(executed, "close"):
                executed.close()
            raise RuntimeError("the connection is async: use `await outbox.add_async(…)`")
        return written.message_id

    async def add_async(
        self, connection: AsyncConnection, event: Event, **options: Unpack[PublishOptions]
    ) -> str:
        """As `add`, on an async connection.

        Raises:
            MessageError: the event has no key, or its readers could not read it.
            RuntimeError: there is no transaction.
        """
        written = self._writer.record(event, **options)
        _check_transaction(connection)
        await connection.execute(self._insert, _row(written))
        return written.message_id


class OutboxRelay:
    """Publishes from an outbox until it is stopped; any number may run, one of them leads.

    A relay that is frozen, or that the network has lost, leads no more after half a minute (in time
    with PostgreSQL 14 or newer). A pooler that shares out its sessions by transaction is refused.

    Args:
        outbox: the database, `postgresql://…`; `SAGA_OUTBOX` by default.
        poll: how long it waits where nothing was there.
        settings: as in the environment, for example `bus="kafka://localhost:9092"`.

    Raises:
        SettingsError: a setting is unknown or illegal, or no outbox is named.
    """

    def __init__(
        self, *, outbox: str | None = None, poll: timedelta | str = POLL, **settings: Any
    ) -> None:
        from saga.adapters.opening import outbox_address  # events are defined without adapters

        self._address = outbox_address(Settings.read(outbox=outbox, **settings))
        self._publisher = Publisher(outbox=outbox, **settings)
        self._poll_s = duration_us(poll) / SECOND_US
        self._stopping = asyncio.Event()
        self._missing: dict[str, float] = {}
        self._has_begun = False
        self._backoff = Backoff("outbox relay", SystemClock())
        self.counts: Counter[str] = Counter()
        """`published` and `refused` since the start."""

    def stop(self) -> None:
        """Let `run` return after the batch in hand."""
        self._stopping.set()

    async def run(self, *, until_empty: bool = False) -> None:
        """Waits out a database and a bus that are away, at its start as well.

        Args:
            until_empty: return when nothing waits that could be published.

        Raises:
            SettingsError: bus or database cannot be opened as the settings say.
            StoreUnavailable, BusUnavailable: it has not begun, and no waiting helps.
        """
        async with self._publisher:
            while not self._stopping.is_set():
                try:
                    if await self._session(until_empty=until_empty):
                        return
                except (StoreUnavailable, BusUnavailable) as error:
                    if not (error.passes or self._has_begun):
                        raise
                    await self._unless_stopped(self._backoff.pause("the outbox waits", error))

    async def _session(self, *, until_empty: bool) -> bool:
        """Whether the work is done, and not only the session."""
        from saga.adapters.postgres.outbox import OutboxSession

        session = await OutboxSession.open(self._address)
        try:
            while not self._stopping.is_set() and not await session.lead():
                if until_empty and (await session.status()).waiting == 0:
                    return True
                await self._unless_stopped(asyncio.sleep(TAKE_OVER_S))
            # A bare task: it is cancelled before this returns.
            staying = asyncio.create_task(_stay(session), name="outbox relay stays")
            try:
                await self._lead(session, until_empty=until_empty)
            finally:
                staying.cancel()
                await asyncio.wait([staying])
        finally:
            await session.close()
        return True

    async def _lead(self, session: OutboxSession, *, until_empty: bool) -> None:
        while not self._stopping.is_set():
            if not await self._batch(session):
                if until_empty:
                    return
                await self._unless_stopped(asyncio.sleep(self._poll_s))

    async def _batch(self, session: OutboxSession) -> bool:
        """Publish and remove one batch; False where there is none."""
        now = asyncio.get_running_loop().time()
        self._missing = {topic: until for topic, until in self._missing.items() if until > now}
        rows, damaged = await session.waiting(
            limit=BATCH_ROWS, bytes_max=BATCH_BYTES, without=tuple(self._missing)
        )
        self._has_begun = True
        for each in damaged:
            await self._refuse(session, each.outbox_id, each.message_id, each.problem)
        if not rows:
            return bool(damaged)
        try:
            await self._publish(rows)
        except TopicMissing as error:
            self._miss(error)
        except MessageTooLarge:
            await self._one_by_one(session, rows)
        else:
            await self._remove(session, rows)
        return True

    async def _one_by_one(self, session: OutboxSession, rows: Sequence[OutboxRow]) -> None:
        for row in rows:
            try:
                await self._publish([row])
            except MessageTooLarge as error:
                await self._refuse(session, row.outbox_id, row.message_id, str(error))
            except TopicMissing as error:
                self._miss(error)
                return  # what follows in this topic must not overtake it
            else:
                await self._remove(session, [row])

    async def _refuse(
        self, session: OutboxSession, outbox_id: int, message_id: str, problem: str
    ) -> None:
        """Set an event aside, whether the bus refuses it or its row cannot be read."""
        log.warning(
            "event %s cannot be published: %s",
            message_id,
            problem,
            extra={"message_id": message_id, "reason": problem},
        )
        await session.refuse(outbox_id, problem)
        self.counts["refused"] += 1

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        await self._publisher.send([WrittenEvent(row.record, row.message_id) for row in rows])
        self._backoff.reset()

    async def _remove(self, session: OutboxSession, rows: Sequence[OutboxRow]) -> None:
        await session.remove([row.outbox_id for row in rows])
        self.counts["published"] += len(rows)

    def _miss(self, missing: TopicMissing) -> None:
        log.warning(
            "events wait for a topic: %s",
            missing,
            extra={"topic": missing.topic, "reason": str(missing)},
        )
        self._missing[missing.topic] = asyncio.get_running_loop().time() + MISSING_S

    async def _unless_stopped(self, pause: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.create_task(pause), asyncio.create_task(self._stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()


async def _stay(session: OutboxSession) -> None:
    """Speak up while a batch is published, which may take longer than a session may be silent.

    Whoever works with the session next sees what ends this.
    """
    with contextlib.suppress(StoreUnavailable):
        while True:
            await asyncio.sleep(STAY_S)
            await session.stay()


def _row(written: WrittenEvent) -> tuple[str, str, bytes | None, bytes | None, str]:
    record = written.record
    headers = encode_headers(record.headers).decode()
    return written.message_id, record.topic, record.key, record.value, headers


def _check_transaction(given: object) -> None:
    """Refuse a connection on which each statement would be a transaction of its own."""
    connection = getattr(given, "connection", given)
    info = getattr(connection, "info", None)
    status = getattr(info, "transaction_status", None)
    if status == _IDLE and getattr(connection, "autocommit", False):
        raise RuntimeError(
            "the connection commits each statement by itself: add events inside a transaction "
            "(`with connection.transaction():`, Django's `atomic()`)"
        )
