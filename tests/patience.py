"""How long a test waits: until what it waits for has happened.

A busy machine takes ten times as long as a quiet one, so no time says that something works. A limit
is there for what hangs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

HANG_S = 120.0
"""Longer than anything takes that does not hang."""
LOOK_S = 0.02


async def until(is_so: Callable[[], object | Awaitable[object]]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(HANG_S):
        while not (await so if isinstance(so := is_so(), Awaitable) else so):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)


def wait_until(
    is_so: Callable[[], object], *, or_else: Callable[[], str] = lambda: "it did not come about"
) -> None:
    """The same without an event loop; *or_else* says what is wrong."""
    ending_s = time.monotonic() + HANG_S
    while not is_so():
        assert time.monotonic() < ending_s, or_else()
        time.sleep(LOOK_S)
