"""Runs an example in a process that kills itself: `python -m tests.examples.struck NAME COMMIT`.

Right behind the commit of that number, of those that hold turns, it is gone without a word.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from importlib import import_module
from itertools import count
from typing import Any

from saga.adapters.sqlite import SqliteEventStore


def strike_behind(commit: int) -> None:
    """Have the event store kill this process when it has recorded so many batches of turns."""
    append, numbers = SqliteEventStore.append, count(1)

    async def struck(self: SqliteEventStore, batch: Any, **options: Any) -> Any:
        appended = await append(self, batch, **options)
        if batch.histories and next(numbers) == commit:
            os.kill(os.getpid(), signal.SIGKILL)
        return appended

    SqliteEventStore.append = struck  # type: ignore[method-assign]


if __name__ == "__main__":
    strike_behind(int(sys.argv[2]))
    asyncio.run(import_module(f"examples.{sys.argv[1]}").main())
