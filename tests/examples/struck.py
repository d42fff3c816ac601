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
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from saga.adapters.postgres import PostgresEventStore
from saga.adapters.sqlite import SqliteEventStore
from saga.ports import EventStore

STORES: tuple[type[EventStore], ...] = (SqliteEventStore, PostgresEventStore)


@dataclass
class Commits:
    """Those of this process that hold turns, so far: how many, and how many turns."""

    number: int = 0
    turns: int = 0


def watch_commits(is_due: Callable[[Commits], bool]) -> Commits:
    """Have the event store kill this process right behind the first commit that *is_due*."""
    commits = Commits()
    for store in STORES:
        _strike(store, commits, is_due)
    return commits


def _strike(store: Any, commits: Commits, is_due: Callable[[Commits], bool]) -> None:
    append = store.append

    async def struck(self: EventStore, batch: Any, **options: Any) -> Any:
        appended = await append(self, batch, **options)
        if batch.histories:
            commits.number += 1
            commits.turns += sum(len(history.turns) for history in batch.histories)
            if is_due(commits):
                os.kill(os.getpid(), signal.SIGKILL)
        return appended

    store.append = struck


if __name__ == "__main__":
    commit = int(sys.argv[2])
    watch_commits(lambda commits: commits.number == commit)
    program = sys.argv[1]
    if program.endswith(".py"):
        sys.path.insert(0, str(Path(program).parent))  # as `python FILE` does
        runpy.run_path(program, run_name="__main__")
    else:
        asyncio.run(import_module(program).main())
