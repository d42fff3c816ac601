"""Processes that are measured from outside, and how they are asked for their CPU time.

A process says `ready`, answers each line on its standard input with its CPU seconds so far, and
drains when the input ends: so it also ends when the measuring process is killed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson

from benchmarks.order import app
from saga.console.cli.output import NotSo
from saga.console.cli.serving import run_fast, tune_gc
from saga.settings import Settings
from saga.wiring import build_service

START_S: Final = 60.0
STOP_S: Final = 20.0
READY: Final = b"ready\n"
FLOOR_TOPICS: Final = ("triggers", "intents", "replies", "outcomes")

Stop = Callable[[], Awaitable[None]]
Start = Callable[[dict[str, str]], Awaitable[Stop]]


async def orchestrator(settings: dict[str, str]) -> Stop:
    return await _started(settings, "orchestrator")


async def effects(settings: dict[str, str]) -> Stop:
    return await _started(settings, "effects")


async def _started(settings: dict[str, str], role: str) -> Stop:
    service = build_service(app, Settings.read({}, **settings), roles=[role])
    await service.start()
    return service.stop


def floor_topic(settings: Settings, name: str) -> str:
    return f"{settings.env}.{settings.namespace}.floor.{name}"


def serve(start: Start, settings: dict[str, str]) -> None:
    """Be such a process until the standard input ends."""
    run_fast(_serve(start, settings))


async def _serve(start: Start, settings: dict[str, str]) -> None:
    stop = await start(settings)
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


class Process:
    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    async def cpu_s(self) -> float:
        """CPU seconds used so far; NotSo if it has ended."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(b"\n")
        return float(orjson.loads(await self.line()))

    async def line(self) -> bytes:
        """The next line of its output; NotSo if it has ended."""
        stdout = self._process.stdout
        assert stdout is not None
        async with asyncio.timeout(START_S):
            line = await stdout.readline()
        if not line:
            raise NotSo(f"the {self.name} has ended with {await self._process.wait()}")
        return line

    async def end(self) -> None:
        """Let it drain; kill it if that takes too long."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def running(names: Sequence[str], settings: dict[str, Any]) -> AsyncIterator[list[Process]]:
    """Processes of these *names*, ready; NotSo if one has ended."""
    processes: list[Process] = []
    try:
        for name in names:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.child", name),
                orjson.dumps([settings]).decode(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            processes.append(Process(name, child))
        for process in processes:
            assert await process.line() == READY
        yield processes
    finally:
        await asyncio.gather(*(process.end() for process in processes))
