"""Runs an example in a process that kills itself: `python -m tests.examples.struck MODULE COMMIT`.

MODULE has a `main`, or is the path of a file that runs by itself.

Right behind the commit of that number, of those that hold turns, it is gone without a word. There
is no commit 0: with that number it runs to its end.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from saga.adapters.postgres import PostgresEventStore
from saga.adapters.sqlite import SqliteEventStore
from saga.ports import EventStore

STORES: tuple[type[EventStore], ...] = (SqliteEventStore, PostgresEventStore)


def strike_behind(commit: int) -> None:
    """Have the event store kill this process when it has recorded so many batches of turns."""
    numbers = count(1)
    for store in STORES:
        _strike(store, numbers, commit)


def _strike(store: Any, numbers: Iterator[int], commit: int) -> None:
    append = store.append

    async def struck(self: EventStore, batch: Any, **options: Any) -> Any:
        appended = await append(self, batch, **options)
        if batch.histories and next(numbers) == commit:
            os.kill(os.getpid(), signal.SIGKILL)
        return appended

    store.append = struck


if __name__ == "__main__":
    strike_behind(int(sys.argv[2]))
    program = sys.argv[1]
    if program.endswith(".py"):
        sys.path.insert(0, str(Path(program).parent))  # as `python FILE` does
        runpy.run_path(program, run_name="__main__")
    else:
        asyncio.run(import_module(program).main())
