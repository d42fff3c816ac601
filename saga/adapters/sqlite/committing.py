"""Commits: on the loop's own thread while the disk is quick, beside it otherwise.

A change of threads and back costs as much as a commit to a quick disk: half the time of a saga that
runs alone. A slow disk is waited for beside the loop, and so is one that has once held up the loop,
for a while. Checkpoints are never made on the loop.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from saga.adapters.sqlite.beside import Beside
from saga.adapters.sqlite.checkpoints import Checkpointer

QUICK_S: Final = 0.000_5
"""Where the last commit took less, the next one may be made on the loop's thread."""
HELD_UP_S: Final = 0.010
"""A commit that took longer on the loop's thread has held up everybody else there."""
WARY_S: Final = 10.0
"""So long after that all commits are made beside the loop."""


class Committer:
    """Commits the transactions of one file, one at a time."""

    def __init__(self, beside: Beside, checkpointer: Checkpointer) -> None:
        self._beside = beside
        self._checkpointer = checkpointer
        self._took_s = 0.0
        self._is_wary_until_s = 0.0

    def commit(
        self,
        connection: sqlite3.Connection,
        then: Callable[[BaseException | None], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Commit, then call *then* on the loop with what the commit raised; never before it
        returns.
        """
        if not self._is_quick():
            act = partial(self._commit_beside, connection)
            self._beside.begin(act, lambda _, error: then(error), loop)
            return
        raised: Exception | None = None
        try:
            self._commit(connection)
        except Exception as error:  # noqa: BLE001 - handed to whoever asked for the commit
            raised = error
        if self._took_s > HELD_UP_S:
            self._is_wary_until_s = time.monotonic() + WARY_S
        loop.call_soon(then, raised)

    def _is_quick(self) -> bool:
        if self._took_s >= QUICK_S or self._checkpointer.is_rest_wanted:
            return False
        return time.monotonic() >= self._is_wary_until_s

    def _commit(self, connection: sqlite3.Connection) -> None:
        began_s = time.monotonic()
        try:
            connection.execute("COMMIT")
        finally:
            self._took_s = time.monotonic() - began_s
        self._checkpointer.committed()

    def _commit_beside(self, connection: sqlite3.Connection) -> None:
        self._commit(connection)
        if self._checkpointer.is_rest_wanted:
            self._checkpointer.copy_rest(connection)
