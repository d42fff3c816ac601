"""What a handler and the saga that waits for it tell each other before the answer.

Nothing here is kept: a notice that is lost leaves a handler that works on in vain, and a lost word
of progress a deadline that passes. The inbox sees to the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from typing_extensions import override

CANCELLED_KNOWN_MAX: Final = 10_000
NOTE_CHARS_MAX: Final = 1_000

log = logging.getLogger(__name__)

Tell = Callable[[str, str | None], Coroutine[Any, Any, None]]
"""Makes what publishes progress on an intent in work, by its id, with a note."""


class CancelledIntents:
    """Ids of the intents for whose answers nobody waits any more, the last ones to be told of."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, intent_id: str) -> None:
        self._ids[intent_id] = None
        if len(self._ids) > CANCELLED_KNOWN_MAX:
            self._ids.popitem(last=False)

    def __contains__(self, intent_id: object) -> bool:
        return intent_id in self._ids


class Link:
    """The way between a handler and the saga that waits for it. This one is nobody's: for tests."""

    def is_cancelled(self, intent_id: str) -> bool:
        del intent_id
        return False

    def progress(self, intent_id: str, note: str | None) -> Awaitable[None] | None:
        del intent_id, note
        return nothing()


class AsyncLink(Link):
    """That of `async` handlers, who await their progress."""

    def __init__(self, cancelled: CancelledIntents, tell: Tell) -> None:
        self._cancelled = cancelled
        self._tell = tell

    @override
    def is_cancelled(self, intent_id: str) -> bool:
        return intent_id in self._cancelled

    @override
    def progress(self, intent_id: str, note: str | None) -> Awaitable[None] | None:
        return self._tell(intent_id, note)


class ThreadLink(AsyncLink):
    """That of handlers in threads, for whom it is a plain call."""

    def __init__(
        self, cancelled: CancelledIntents, tell: Tell, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(cancelled, tell)
        self._loop = loop

    @override
    def progress(self, intent_id: str, note: str | None) -> None:
        # Made now: the handler may have ended when it runs.
        asyncio.run_coroutine_threadsafe(self._tell(intent_id, note), self._loop)


async def nothing() -> None:
    """Nobody listens."""
