"""Events onto their topics: `Publisher` for asyncio programs, `SyncPublisher` for all others.

A blocking program has one thread with an event loop and one connection for all of its threads. It
begins with the first event, so that a publisher may be a global; a forked process begins its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures.thread import ThreadPoolExecutor  # noqa: F401  # see the end of the file
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack
from weakref import WeakSet

from saga.adapters.clocks import SystemClock
from saga.contracts import Event
from saga.core.durations import SECOND_US, duration_us
from saga.core.retry import Retry
from saga.errors import BusUnavailable, TopicMissing
from saga.ports import Bus, Record, TopicSpec
from saga.publishing.writer import EventWriter, PublishOptions, WrittenEvent
from saga.retrying import Backoff, retried
from saga.settings import Settings

if TYPE_CHECKING:
    from saga.adapters.opening import OpenedBus

T = TypeVar("T")

TIMEOUT: Final = timedelta(seconds=30)
BUS_AWAY: Final = Retry(attempts=None, initial="100ms", factor=2.0, cap="2s", jitter=0.5)
GRACE_S: Final = 5.0
"""How much longer than the loop itself a caller waits for what the loop has to say."""
CLOSE_S: Final = 10.0

_publishers: WeakSet[SyncPublisher] = WeakSet()
_left_behind: list[object] = []
"""What a parent process uses: closing it in a child could end it for both."""


class Publisher:
    """Publishes events from a program that is not the saga service itself.

    ```python
    async with Publisher(source="/checkout") as publisher:
        await publisher.publish(OrderPlaced(order_id="o-1", amount=10))
    ```

    A call returns once its events are durable; while the bus is away it tries again with the same
    bytes and ids. Only calls made one after another keep their order for each key.

    Args:
        source: who says so, as a URI reference; `ce_source` of every record.
        timeout: how long one call goes on trying.
        settings: as in the environment, for example `bus="kafka://localhost:9092"`.

    Raises:
        SettingsError: a setting is unknown or illegal.
    """

    def __init__(
        self, *, source: str | None = None, timeout: timedelta | str = TIMEOUT, **settings: Any
    ) -> None:
        self._settings = Settings.read(**settings)
        self._writer = EventWriter.of(self._settings, source)
        self.timeout_s = duration_us(timeout) / SECOND_US
        self._opened: OpenedBus | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the bus, unless it is open; Kafka is connected to with the first event only.

        Raises:
            StoreUnavailable: the file of the local bus cannot be opened.
        """
        from saga.adapters.opening import open_bus  # events are defined without adapters

        if self._opened is None:
            self._opened = open_bus(self._settings)

    async def close(self) -> None:
        """Let go of the bus; no other call may be under way."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    def left_to_parent(self) -> object:
        """What a forked child must neither use nor close; the next `open` opens its own."""
        opened, self._opened = self._opened, None
        return opened

    async def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """Publish one event, and return its message id; *options* are those of `PublishOptions`.

        A program that may publish the same event again gives it a *message_id* of its own.

        Raises:
            MessageError: the event has no key, or its readers could not read it.
            TopicMissing: its topic does not exist.
            MessageTooLarge: its topic takes no record of this size.
            BusUnavailable: it may not have been published; try again with the same id.
        """
        written = self.write(event, **options)
        await self.send([written])
        return written.message_id

    async def publish_all(self, events: Iterable[Event]) -> list[str]:
        """Publish many events at once, in order for each key, and return their message ids.

        All are checked before the first is published; those that need options go through `write`.

        Raises:
            MessageError, TopicMissing, MessageTooLarge, BusUnavailable: some may be published.
        """
        written = [self.write(event) for event in events]
        await self.send(written)
        return [event.message_id for event in written]

    def write(self, event: Event, **options: Unpack[PublishOptions]) -> WrittenEvent:
        """The record of *event*, for `send`: now, later, or again.

        Raises:
            MessageError: the event has no key, or its readers could not read it.
        """
        return self._writer.record(event, **options)

    async def send(self, written: Sequence[WrittenEvent]) -> None:
        """Publish what was written, in order for each key; trying again does no harm.

        Raises:
            TopicMissing, MessageTooLarge, BusUnavailable: some may be published.
        """
        if self._opened is None:
            raise RuntimeError("the publisher is not open: use it with `async with`")
        bus, backoff = self._opened.bus, Backoff("publisher", SystemClock(), BUS_AWAY)
        records = [event.record for event in written]
        try:
            async with asyncio.timeout(self.timeout_s):
                await retried("the bus is away", lambda: backoff, self._publish, bus, records)
        except TimeoutError as error:
            reason = backoff.last_error or "no answer"
            raise BusUnavailable(f"not published within {self.timeout_s:g} s: {reason}") from error

    async def _publish(self, bus: Bus, records: Sequence[Record]) -> None:
        settings = self._settings
        try:
            await bus.publish(records)
        except TopicMissing:
            if not settings.bus.startswith("local:"):
                raise
            # Nobody else prepares the embedded bus; the records come again with the next try.
            topics = dict.fromkeys(record.topic for record in records)
            partitions, retention_s = settings.partitions, settings.retention_s
            await bus.create_topics([TopicSpec(each, partitions, retention_s) for each in topics])
            await bus.publish(records)


class SyncPublisher:
    """Publishes events from any thread, and returns when they are durable.

    ```python
    publisher = SyncPublisher(source="/shop")

    def place_order(request):
        publisher.publish(OrderPlaced(order_id="o-1", amount=10))
    ```

    It promises and takes what `Publisher` does, and closes when the process ends, or by `with`. Not
    for coroutines: it would hold up their event loop.
    """

    def __init__(
        self, *, source: str | None = None, timeout: timedelta | str = TIMEOUT, **settings: Any
    ) -> None:
        self._publisher = Publisher(source=source, timeout=timeout, **settings)
        self._lock = threading.Lock()
        self._running: _Loop | None = None
        _publishers.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """Publish one event, and return its message id; as `Publisher.publish`."""
        written = self.write(event, **options)
        self.send([written])
        return written.message_id

    def publish_all(self, events: Iterable[Event]) -> list[str]:
        """Publish many events at once, in order for each key, and return their message ids."""
        written = [self.write(event) for event in events]
        self.send(written)
        return [event.message_id for event in written]

    def write(self, event: Event, **options: Unpack[PublishOptions]) -> WrittenEvent:
        """The record of *event*, for `send`: now, later, or again."""
        return self._publisher.write(event, **options)

    def send(self, written: Sequence[WrittenEvent]) -> None:
        """Publish what was written, in order for each key; trying again does no harm."""
        publisher = self._publisher

        async def send() -> None:
            await publisher.open()
            await publisher.send(written)

        self._loop().call(send, timeout_s=publisher.timeout_s + GRACE_S)

    def close(self) -> None:
        """End the thread and let go of the bus; a later call begins anew."""
        with self._lock:
            running, self._running = self._running, None
        if running is None:
            return
        try:
            running.call(self._publisher.close, timeout_s=CLOSE_S)
        finally:
            running.end()

    def _loop(self) -> _Loop:
        with self._lock:
            if self._running is not None and not self._running.is_alive:
                _left_behind.append((self._running, self._publisher.left_to_parent()))
                self._running = None
            if self._running is None:
                self._running = _Loop()
            return self._running

    def _forked(self) -> None:
        """Begin anew in a child: threads are not inherited, and a lock may stay locked for ever."""
        _left_behind.append((self._running, self._publisher.left_to_parent()))
        self._lock = threading.Lock()
        self._running = None


class _Loop:
    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._run(),), name="saga-publisher", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def call(self, function: Callable[[], Coroutine[Any, Any, T]], *, timeout_s: float) -> T:
        """Call in the loop; raises `BusUnavailable` where *function* is late or the loop ended."""
        coroutine = function()
        try:
            future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError as error:
            coroutine.close()
            raise BusUnavailable("the publisher is closed") from error
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            if future.done():
                raise  # its own
            future.cancel()
            raise BusUnavailable(f"no answer within {timeout_s:g} s") from error

    @property
    def is_alive(self) -> bool:
        """Somebody may have cancelled all tasks of the loop."""
        return self._thread.is_alive()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(CLOSE_S)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._ready.set()
        await self._ended.wait()


def _close_all() -> None:
    for publisher in list(_publishers):
        with contextlib.suppress(BusUnavailable):
            # What was published is durable; no caller is left to be told.
            publisher.close()


def _begin_anew() -> None:
    for publisher in list(_publishers):
        publisher._forked()  # noqa: SLF001  # the hook of this class


# Connections are closed by threads of executors, and those are ended before anything that `atexit`
# knows. What is registered as they are, and after them, comes before them.
getattr(threading, "_register_atexit", atexit.register)(_close_all)

if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_begin_anew)
