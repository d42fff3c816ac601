"""How many bytes the engine writes for each record, turn, index row and inbox row.

They are read out of files that it has written in the same run, so that rows of the same size are
written beside it, whatever its formats are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saga.console.cli.output import NotSo


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of one row; 0: what a row has by itself."""

    record: int = 0
    turn: int = 0
    index: int = 0
    inbox: int = 0


LIGHT: Final = Weights()
_TABLES: Final = {
    "record": ("bus_batches", "sum(records)"),
    "turn": ("stored_events", "count(*)"),
    "index": ("saga_index", "count(*)"),
    "inbox": ("saga_inbox", "count(*)"),
}


def weigh(folder: Path) -> Weights:
    """Those of the files that an engine has left in *folder*; NotSo if a table is not there."""
    weights: dict[str, int] = {}
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            weights.update(_weights(connection))
    if missing := set(_TABLES) - set(weights):
        raise NotSo(f"{folder}: the engine's rows are not found: {', '.join(sorted(missing))}")
    return Weights(**weights)


def _weights(connection: sqlite3.Connection) -> Iterator[tuple[str, int]]:
    for name, (table, rows) in _TABLES.items():
        columns = [each[1] for each in connection.execute(f"PRAGMA table_info({table})")]
        # The length of a number is that of its digits, which is about what it takes.
        content = " + ".join(f"coalesce(length(CAST({each} AS BLOB)), 0)" for each in columns)
        if columns:
            query = f"SELECT CAST(ceil(sum({content}) * 1.0 / {rows}) AS INTEGER) FROM {table}"  # noqa: S608
            (weight,) = connection.execute(query).fetchone()
            if weight is not None:
                yield name, weight
