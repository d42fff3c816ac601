"""Sees when a database's file, or its log, is no longer the one that was opened.

SQLite goes on writing to a file that was deleted or replaced, and what it commits there is lost.
"""

from __future__ import annotations

import os

from saga.errors import StoreUnavailable


class FileWatch:
    """Remembers which files *path* and its log are, from `begin` on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._wal = f"{path}-wal"
        self._files: tuple[int, ...] | None = None

    def begin(self) -> None:
        """These are the files from now on."""
        self._files = self._look()

    def check(self) -> None:
        """See that they still are.

        Raises:
            StoreUnavailable: they are others now, or gone.
        """
        if self._look() != self._files:
            raise StoreUnavailable(
                f"{self._path}: the file or its -wal was replaced or deleted while it was open: "
                "put it back, or start again"
            )

    def _look(self) -> tuple[int, ...] | None:
        try:
            # Once a commit: as `Path.stat` it takes three times as long.
            main, wal = os.stat(self._path), os.stat(self._wal)  # noqa: PTH116
        except OSError:
            return None
        return main.st_dev, main.st_ino, wal.st_ino
