"""A process that is measured from outside: how it says that it is ready, and what it has used.

It says `ready`, answers each line on its standard input with its CPU seconds so far, and drains
when the input ends: so it also ends when the measuring process is killed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from benchmarks.timing import run_fast, tune_gc

READY: Final = b"ready\n"

Stop = Callable[[], Awaitable[None]]
Start = Callable[..., Awaitable[Stop]]


def serve(start: Start, *arguments: Any) -> None:
    """Be such a process until the standard input ends."""
    run_fast(_serve(start, *arguments))


async def _serve(start: Start, *arguments: Any) -> None:
    stop = await start(*arguments)
    tune_gc()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    _tell(READY)
    while await lines.readline():
        _tell(orjson.dumps(time.process_time()) + b"\n")
    await stop()


def _tell(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
