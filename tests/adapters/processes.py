"""Worker processes for tests: started, listened to, killed."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def worker(path: Path, mode: str, *arguments: str) -> AsyncIterator[Process]:
    """A worker on *path*, killed at the end if it still runs."""
    command = (sys.executable, "-m", "tests.adapters.worker", str(path), mode, *arguments)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)
    try:
        assert await line(process) == "ready"
        yield process
    finally:
        await kill(process)


async def line(process: Process) -> str:
    """The next thing the worker tells."""
    assert process.stdout is not None
    async with asyncio.timeout(HANG_S):
        return (await process.stdout.readline()).decode().strip()


async def kill(process: Process) -> list[str]:
    """Kill -9, and what it had told until then."""
    if process.returncode is None:
        process.kill()
    assert process.stdout is not None
    rest = (await process.stdout.read()).decode().splitlines()
    await process.wait()
    return rest
