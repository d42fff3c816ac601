"""The workers of a demo: `saga run` in processes of their own, to be killed and started again."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from saga.settings import PREFIX, Settings

DRAIN_S: Final = 15.0
LOG_LINES_SHOWN: Final = 5


class Worker:
    """One child process, which also ends when this process is gone. It logs to *log_file*."""

    def __init__(self, settings: Settings, *, roles: Sequence[str], log_file: Path) -> None:
        self._settings = settings
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self.roles = tuple(roles)
        self.name = log_file.stem

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start it; in a session of its own, so that Ctrl-C reaches it through us."""
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "saga", "run", "--with-parent"),
                *("--roles", ",".join(self.roles)),
                env=_environment(self._settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def kill(self) -> None:
        """Kill it as a crash would (-9), and start it again."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.kill()
        await process.wait()
        await self.start()

    def end_now(self) -> None:
        """Kill it for good; nothing that was stored is lost."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """Let it drain; kill it if that takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(DRAIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def log_tail(self) -> list[str]:
        """The last lines of its log, below its name."""
        lines = self._log_file.read_text("utf-8", "replace").splitlines()
        return [f"{self.name}:", *lines[-LOG_LINES_SHOWN:]]


class Workers:
    """All workers of a demo."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = tuple(workers)
        self._next_to_kill: list[Worker] = []
        self.kills = 0

    @property
    def ended(self) -> Worker | None:
        """A worker that has ended by itself."""
        return next((worker for worker in self._workers if worker.returncode is not None), None)

    async def start(self) -> None:
        for worker in self._workers:
            await worker.start()

    async def kill(self) -> None:
        """Kill one of them, whichever; but all kinds in turn."""
        if not self._next_to_kill:
            self._next_to_kill = self._one_of_each_kind()
        await self._next_to_kill.pop().kill()
        self.kills += 1

    def end_now(self) -> None:
        for worker in self._workers:
            worker.end_now()

    async def stop(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    def log_tails(self) -> list[str]:
        return [line for worker in self._workers for line in worker.log_tail()]

    def _one_of_each_kind(self) -> list[Worker]:
        kinds: dict[tuple[str, ...], list[Worker]] = {}
        for worker in self._workers:
            kinds.setdefault(worker.roles, []).append(worker)
        chosen = [random.choice(alike) for alike in kinds.values()]  # noqa: S311  # no secret
        random.shuffle(chosen)
        return chosen


def _environment(settings: Settings) -> dict[str, str]:
    # Not on the command line: everybody can read that, and an address may have a password.
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    given = settings.model_dump(include=settings.model_fields_set | {"effects_store"})
    plain = {name: _plain(value) for name, value in given.items() if value is not None}
    return others | {PREFIX + name.upper(): value for name, value in plain.items()}


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
