"""What a measurement writes: its commits, and what its files have grown by. It is not timed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.timing import WARM_UP_SAGAS, Measured


def writing(
    measure: Callable[..., Measured], folder: str, sagas: int, in_flight: int, *more: Any
) -> Measured:
    """What *measure* commits and writes a saga, in all files of *folder*."""
    commits = 0
    connect = sqlite3.connect

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement.startswith("COMMIT")

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(count)
        return connection

    with patch("sqlite3.connect", connected):
        measure(folder, sagas, in_flight, *more)
    sagas += min(sagas, WARM_UP_SAGAS)
    size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"commits": commits / sagas, "kilobytes": size / 1_000 / sagas}
