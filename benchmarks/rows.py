"""What is written without an engine: the rows of one order, and the two files that take them.

Rows have what a durable program cannot do without: what happened and what was decided, an index of
sagas, positions, records with a few headers, an inbox. With the engine's weights each is as large
as the engine's own.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, uuid5

import orjson

from benchmarks.order import REFUSED_EVERY
from benchmarks.weights import Weights

STEPS: Final = ("reserve", "charge", "ship")
UNDONE: Final = ("refund", "release")
TURN_TOPIC: Final = "turn"
RUNNING: Final = "running"
INTEGER_DIGITS: Final = 16
"""Of a time in microseconds."""

Turn = tuple[str, int, str, bytes]
Index = tuple[str, str, str, int]
RecordRow = tuple[int, bytes, bytes, bytes]
Inbox = tuple[str, bytes]

_TABLES: Final = (
    """CREATE TABLE events (
        id TEXT, version INTEGER, topic TEXT, state BLOB, PRIMARY KEY (id, version)
    )""",
    "CREATE TABLE positions (source TEXT PRIMARY KEY, offset INTEGER) WITHOUT ROWID",
    "CREATE TABLE sagas (id TEXT PRIMARY KEY, status TEXT, waiting_for TEXT, updated_at INTEGER)",
    "CREATE TABLE records (place INTEGER PRIMARY KEY, key BLOB, value BLOB, headers BLOB)",
    "CREATE TABLE inbox (key TEXT PRIMARY KEY, reply BLOB)",
)


@dataclass(slots=True)
class Saga:
    id: str
    key: str
    stage: int
    is_refused: bool
    began_at: float

    @classmethod
    def of(cls, number: int) -> Saga:
        key = f"order-{number}"
        is_refused = number % REFUSED_EVERY == 0
        return cls(str(uuid5(NAMESPACE_URL, key)), key, 0, is_refused, time.perf_counter())

    @property
    def has_ended(self) -> bool:
        """After three steps; a refused saga has two more, undoing the first two."""
        return self.stage > len(STEPS) + (len(UNDONE) if self.is_refused else 0)


class Rows:
    """Makes the rows of a saga at its stage."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.offset = 0

    def turn(self, saga: Saga, at: int) -> Turn:
        """What made it come to the stage, and what it does there."""
        entries = [
            {"type": name, "step": saga.stage - 1, "payload": {"key": saga.key}}
            for name in ("reply-received", "intent-issued")
        ]
        state = {"at": at, "cause": saga.id, "entries": entries, "version": 2 * saga.stage - 1}
        text = orjson.dumps(state, option=orjson.OPT_SORT_KEYS)
        size = self._weights.turn - len(saga.id) - len(TURN_TOPIC) - 1
        return saga.id, saga.stage, TURN_TOPIC, text.ljust(size)

    def index(self, saga: Saga, at: int) -> Index:
        size = self._weights.index - len(saga.id) - len(RUNNING) - INTEGER_DIGITS
        return saga.id, RUNNING, f"reply to {saga.stage}".ljust(size), at

    def record(self, saga: Saga) -> RecordRow:
        self.offset += 1
        key = saga.key.encode()
        value = orjson.dumps({"order_id": saga.key, "amount": saga.stage})
        headers = f"ce_id={saga.id}/{saga.stage};ce_subject={saga.id}".encode()
        size = self._weights.record - len(key) - len(value) - len(str(self.offset))
        return self.offset, key, value, headers.ljust(size)

    def inbox(self, saga: Saga) -> Inbox:
        key = f"{saga.id}/{saga.stage}"
        reply = orjson.dumps({"key": saga.key, "stage": saga.stage})
        return key, reply.ljust(self._weights.inbox - len(key))


class File:
    """A file that is as durable as the engine's."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        for table in _TABLES:
            self._connection.execute(table)

    def close(self) -> None:
        self._connection.close()

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def insert_records(self, rows: Iterable[RecordRow]) -> None:
        self._connection.executemany("INSERT INTO records VALUES (?,?,?,?)", rows)

    def insert_inbox(self, rows: Iterable[Inbox]) -> None:
        self._connection.executemany("INSERT INTO inbox VALUES (?,?)", rows)

    def insert_turns(self, turns: Sequence[Turn], index: Sequence[Index], offset: int) -> None:
        """With the position up to which records have had theirs."""
        execute = self._connection.execute
        self._connection.executemany("INSERT INTO events VALUES (?,?,?,?)", turns)
        self._connection.executemany("INSERT OR REPLACE INTO sagas VALUES (?,?,?,?)", index)
        execute("INSERT OR REPLACE INTO positions VALUES ('all', ?)", (offset,))
