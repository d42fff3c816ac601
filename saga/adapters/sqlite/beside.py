"""A thread for what waits for the disk, so that the event loop does not.

An executor would do the same at several times the cost; here one queue leads in and the loop's own
leads out.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

T = TypeVar("T")
Then = Callable[[Any, BaseException | None], None]

BEGIN_S_MAX: Final = 0.002
"""The loop waits no longer for a thread to begin: it may have no processor."""


class _Order(NamedTuple):
    act: Callable[[], Any]
    then: Then
    loop: asyncio.AbstractEventLoop


class Beside:
    """One thread, which does one thing after another."""

    def __init__(self, name: str) -> None:
        self._orders: Final[queue.SimpleQueue[_Order | None]] = queue.SimpleQueue()
        self._has_begun: Final = threading.Lock()
        """Released by the thread as it begins an order, for whoever waits for that."""
        self._thread: Final = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Begin to take orders."""
        self._thread.start()

    def call(self, act: Callable[[], Any], then: Then, loop: asyncio.AbstractEventLoop) -> None:
        """Do *act*, then call *then* on the loop with its result, or with None and what it
        raised.
        """
        self._orders.put(_Order(act, then, loop))

    def begin(self, act: Callable[[], Any], then: Then, loop: asyncio.AbstractEventLoop) -> None:
        """As `call`, and return when *act* has begun, which is to wait for the disk at once.

        The loop's thread has the interpreter until it has nothing to do. Without waiting here, what
        is meant to go on beside the loop would only begin when the loop has come to rest.
        """
        self._has_begun.acquire(blocking=False)
        self.call(act, then, loop)
        self._has_begun.acquire(timeout=BEGIN_S_MAX)

    def run(self, act: Callable[[], T]) -> asyncio.Future[T]:
        """Do *act*; a future of its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self.call(act, partial(settle, future), loop)
        return future

    def close(self, *, wait: bool) -> None:
        """End the thread once it has done what was ordered."""
        self._orders.put(None)
        if wait:
            self._thread.join()

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            result, error = None, None
            if self._has_begun.locked():
                self._has_begun.release()
            try:
                result = order.act()
            except BaseException as raised:  # noqa: BLE001 - handed to whoever gave the order
                error = raised
            try:
                order.loop.call_soon_threadsafe(order.then, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del order, result, error  # waiting for the next must not keep this one's alive


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """End *future* with the result or the error, unless whoever waited for it has given up."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
