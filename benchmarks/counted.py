"""Counts what something costs here and in SQLite, so that it is the same on every machine."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from benchmarks.growth import instructions

T = TypeVar("T")


class Counted:
    """An event loop, and a *connection* whose steps are counted."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.loop = asyncio.new_event_loop()

    def run(self, act: Awaitable[T]) -> T:
        return self.loop.run_until_complete(_awaited(act))

    def cost(self, act: Callable[[], Awaitable[object]]) -> int:
        """Bytecode instructions that *act* takes, and steps of SQLite's own machine."""
        steps: list[None] = []
        self.connection.set_progress_handler(partial(steps.append, None), 1)
        try:
            return instructions(lambda: self.run(act())) + len(steps)
        finally:
            self.connection.set_progress_handler(None, 1)

    def close(self) -> None:
        self.loop.close()
        self.connection.close()


async def _awaited(act: Awaitable[T]) -> T:
    return await act
