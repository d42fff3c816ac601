"""
The worker of a demo: `saga run` in a process of its own, which can be killed and started again.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from saga.settings import Settings

DRAIN_S: Final = 15.0
LINES_TOLD: Final = 5


class Worker:
    """
    A child process. Its log goes into *log_file*; if we end without telling, it ends as well.
    """

    def __init__(self, settings: Settings, *, log_file: Path) -> None:
        self._settings = settings
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self.kills = 0

    @property
    def returncode(self) -> int | None:
        """
        What it ended with; None while it runs.
        """
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """
        Start it; in a session of its own, so that Ctrl-C reaches it through us.
        """
        settings = self._settings
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "saga", "run", "--with-parent"),
                *("--app", settings.app),
                *("--bus", settings.bus),
                *("--store", settings.store),
                *("--effects-store", settings.effects_address),
                *("--env", settings.env),
                *("--namespace", settings.namespace),
                *("--log", settings.log),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def kill(self) -> None:
        """
        Kill it as a crash would (-9), and start it again.
        """
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.kill()
        await process.wait()
        self.kills += 1
        await self.start()

    def end_now(self) -> None:
        """
        Kill it, whatever it has in hand; nothing that was stored is lost.
        """
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """
        Let it drain; kill it if that takes too long.
        """
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

    def last_words(self) -> str:
        """
        The end of its log.
        """
        lines = self._log_file.read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-LINES_TOLD:])
