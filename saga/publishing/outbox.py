"""`Outbox`: events that are published if, and only if, the program's own transaction commits.

Publishing inside a transaction says things that may never have happened; publishing after it may be
lost to a crash. So the event is written beside the program's own rows, and a relay publishes it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any, Final, Protocol

from saga.adapters.clocks import SystemClock
from saga.adapters.headers import encode_headers
from saga.contracts import Event
from saga.publishing.writer import EventWriter, WrittenEvent
from saga.settings import Settings

_IDLE: Final = 0
"""`PQTRANS_IDLE` of libpq: connected, and in no transaction."""


class Connection(Protocol):
    """A psycopg connection or cursor, or a cursor of Django's."""

    def execute(self, query: Any, params: Any, /) -> Any:
        """Run a statement."""
        ...


class AsyncConnection(Protocol):
    """An async psycopg connection or cursor."""

    def execute(self, query: Any, params: Any, /) -> Awaitable[Any]:
        """Run a statement."""
        ...


class Outbox:
    """Adds events to the table `saga_outbox` in the database of the program's own PostgreSQL.

    ```python
    outbox = Outbox(source="/shop")

    with psycopg.connect(...) as connection, connection.transaction():
        connection.execute("INSERT INTO orders VALUES (%s)", [order_id])
        outbox.add(connection, OrderPlaced(order_id=order_id, amount=10))
    ```

    `saga outbox migrate` makes the table (`--sql` prints how), `saga outbox relay` publishes from
    it: at least once, always with the same id and bytes, in order for each key where transactions
    followed one another.

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
        read = Settings.read(**settings)
        self._writer = EventWriter(
            read.topic_names,
            clock=SystemClock(),
            source=source or f"/{read.env}/{read.namespace}/publisher",
            bytes_max=read.record_bytes,
        )
        quoted = "" if schema is None else '"{}".'.format(schema.replace('"', '""'))
        self._insert = (
            f"INSERT INTO {quoted}saga_outbox (message_id, topic, key, value, headers) "  # noqa: S608  # quoted
            "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (message_id) DO NOTHING"
        )

    def add(
        self,
        connection: Connection,
        event: Event,
        *,
        key: str | None = None,
        message_id: str | None = None,
        causation_id: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
    ) -> str:
        """Add *event* within the transaction of *connection*, and return its message id.

        Arguments are those of `Publisher.publish`. A message id that waits already is a repeat, and
        nothing is added.

        Raises:
            MessageError: the event has no key, or its readers could not read it.
            RuntimeError: there is no transaction, or *connection* is an async one.
        """
        written = self._writer.write(
            event,
            key=key,
            message_id=message_id,
            causation_id=causation_id,
            correlation_id=correlation_id,
            traceparent=traceparent,
        )
        _check_transaction(connection)
        executed = connection.execute(self._insert, _row(written))
        if isawaitable(executed):
            if hasattr(executed, "close"):
                executed.close()
            raise RuntimeError("the connection is async: use `await outbox.add_async(…)`")
        return written.message_id

    async def add_async(
        self,
        connection: AsyncConnection,
        event: Event,
        *,
        key: str | None = None,
        message_id: str | None = None,
        causation_id: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
    ) -> str:
        """The same on an async connection.

        Raises:
            MessageError: the event has no key, or its readers could not read it.
            RuntimeError: there is no transaction.
        """
        written = self._writer.write(
            event,
            key=key,
            message_id=message_id,
            causation_id=causation_id,
            correlation_id=correlation_id,
            traceparent=traceparent,
        )
        _check_transaction(connection)
        await connection.execute(self._insert, _row(written))
        return written.message_id


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
