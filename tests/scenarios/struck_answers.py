"""Orders whose answers are in one file with their rows, in a process that kills itself on the way.

`python -m tests.scenarios.struck_answers FOLDER POINT` serves them until it has come to POINT. The
handlers write nothing by themselves.
"""

# ruff: noqa: SLF001 - it strikes between the steps, behind the ports

from __future__ import annotations

import asyncio
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

from saga.adapters.sqlite import SqliteEffectsStore
from saga.adapters.sqlite.answers import AnswersInBus
from saga.adapters.sqlite.bus import LocalConsumer


def strike() -> None:
    """End this process, without a word to anybody."""
    os.kill(os.getpid(), signal.SIGKILL)


def handled() -> None:
    """The handler has ended, and nothing is written."""
    AnswersInBus.keep = _struck  # type: ignore[method-assign]


def written() -> None:
    """The rows and their answers are in the file, and not committed."""
    write = AnswersInBus._write

    def struck(*args: Any) -> None:
        if write(*args):
            strike()

    AnswersInBus._write = struck  # type: ignore[assignment,method-assign]


def committed() -> None:
    """And nobody has been told."""
    SqliteEffectsStore.release = _struck  # type: ignore[method-assign]


def told() -> None:
    """The service knows, and is about to fetch again; how far it has read is not recorded."""
    release, fetch = SqliteEffectsStore.release, LocalConsumer.fetch

    async def struck(self: LocalConsumer, **options: Any) -> Any:
        return strike() if "effects" in self.group else await fetch(self, **options)

    def released(*args: Any) -> None:
        release(*args)
        LocalConsumer.fetch = struck  # type: ignore[method-assign]

    SqliteEffectsStore.release = released  # type: ignore[method-assign]


def _struck(*_: Any) -> Any:
    strike()


POINTS = {each.__name__: each for each in (handled, written, committed, told)}


async def serve(folder: Path) -> None:
    from tests.scenarios.test_answers_in_one_file import Shop, never  # which imports this

    shop = Shop(never)
    shop.numbers = count(os.getpid() * 1_000)  # another process answers otherwise
    async with shop.service(folder) as running:
        await running.wait()


if __name__ == "__main__":
    POINTS[sys.argv[2]]()
    asyncio.run(serve(Path(sys.argv[1])))
