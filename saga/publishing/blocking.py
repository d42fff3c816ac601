"""`SyncPublisher`: the same for programs without an event loop, such as Django or Flask.

One thread with an event loop and one connection serve all threads of a process. It begins with the
first event, so that a publisher may be a global of a module; a process that is forked off begins
its own. Every wait has an end.
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
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from weakref import WeakSet

from saga.contracts import Event
from saga.errors import BusUnavailable
from saga.publishing.publisher import TIMEOUT, Publisher
from saga.publishing.writer import WrittenEvent

T = TypeVar("T")

GRACE_S: Final = 5.0
"""How much longer than the loop itself a caller waits for what the loop has to say."""
CLOSE_S: Final = 10.0

_publishers: WeakSet[SyncPublisher] = WeakSet()
_left_behind: list[object] = []
"""What a parent process uses: closing it in a child could end it for both."""


class SyncPublisher:
    """Publishes events from any thread, and returns when they are durable.

    ```python
    publisher = SyncPublisher(source="/shop")

    def place_order(request):
        publisher.publish(OrderPlaced(order_id="o-1", amount=10))
    ```

    What `Publisher` promises holds here too, and it takes the same arguments. It closes by itself
    when the process ends; `with SyncPublisher() as publisher:` closes it earlier. Not for
    coroutines: it would hold up their event loop.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def publish(
        self,
        event: Event,
        *,
        key: str | None = None,
        message_id: str | None = None,
        causation_id: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
    ) -> str:
        """Publish one event, and return its message id. Arguments and errors are those of
        `Publisher.publish`.
        """
        written = self.write(
            event,
            key=key,
            message_id=message_id,
            causation_id=causation_id,
            correlation_id=correlation_id,
            traceparent=traceparent,
        )
        self.send([written])
        return written.message_id

    def publish_all(self, events: Iterable[Event]) -> list[str]:
        """Publish many events at once, in order for each key, and return their message ids."""
        written = [self.write(event) for event in events]
        self.send(written)
        return [one.message_id for one in written]

    def write(
        self,
        event: Event,
        *,
        key: str | None = None,
        message_id: str | None = None,
        causation_id: str | None = None,
        correlation_id: str | None = None,
        traceparent: str | None = None,
    ) -> WrittenEvent:
        """The record of *event*, for `send`: now, later, or again."""
        return self._publisher.write(
            event,
            key=key,
            message_id=message_id,
            causation_id=causation_id,
            correlation_id=correlation_id,
            traceparent=traceparent,
        )

    def send(self, written: Sequence[WrittenEvent]) -> None:
        """Publish what was written, in order for each key; trying again does no harm."""
        publisher = self._publisher

        async def send() -> None:
            await publisher.open()
            await publisher.send(written)

        self._loop().call(send, timeout_s=publisher.timeout_s + GRACE_S)

    def close(self) -> None:
        """Let go of the bus and end the thread; a later call begins anew."""
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
            if self._running is None:
                self._running = _Loop()
            return self._running

    def _forked(self) -> None:
        """Begin anew in a child process: threads are not inherited, and a lock may be held for
        ever.
        """
        _left_behind.append((self._running, self._publisher.left_to_parent()))
        self._lock = threading.Lock()
        self._running = None


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._run(),), name="saga-publisher", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def call(self, function: Callable[[], Coroutine[Any, Any, T]], *, timeout_s: float) -> T:
        """What *function* returns or raises.

        Raises:
            BusUnavailable: it did neither in time, or the loop is at its end.
        """
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

    def end(self) -> None:
        """Stop the loop and wait for its thread."""
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
            # What was published is durable; there is nobody left to tell.
            publisher.close()


def _begin_anew() -> None:
    for publisher in list(_publishers):
        publisher._forked()  # noqa: SLF001  # the hook of this class


# Connections are closed by threads of executors, and those are ended before anything that `atexit`
# knows. What is registered as they are, and after them, comes before them.
getattr(threading, "_register_atexit", atexit.register)(_close_all)

if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_begin_anew)
