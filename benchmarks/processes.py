"""Processes that are measured from outside, as the one that measures sees them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.serving import READY
from saga.console.cli.output import NotSo
from saga.settings import Settings

START_S: Final = 60.0
STOP_S: Final = 20.0
FLOOR_TOPICS: Final = ("triggers", "intents", "replies", "outcomes")


def floor_topic(settings: Settings, name: str) -> str:
    return f"{settings.env}.{settings.namespace}.floor.{name}"


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
async def running(
    names: Sequence[str], arguments: Sequence[Any], folder: str | Path | None = None
) -> AsyncIterator[list[Process]]:
    """Processes of these *names*, ready; NotSo if one has ended.

    In a *folder* laid out for it, they run the engine that is there.
    """
    processes: list[Process] = []
    try:
        for name in names:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.child", name),
                orjson.dumps(arguments).decode(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=folder,
            )
            processes.append(Process(name, child))
        for process in processes:
            assert await process.line() == READY
        yield processes
    finally:
        await asyncio.gather(*(process.end() for process in processes))
