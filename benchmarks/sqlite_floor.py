"""The floor: the same rows, hand-written into the same two files, without an engine.

A team could reach it that knows only this one saga, and nothing of contracts, replays, retries or
duplicates. Each hop commits once for all sagas in flight, with the same durable settings.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import orjson

from benchmarks.order import REFUSED_EVERY

STEPS = ("reserve", "charge", "ship")
_TABLES = (
    """CREATE TABLE events (
        id TEXT, version INTEGER, topic TEXT, state BLOB, PRIMARY KEY (id, version)
    )""",
    "CREATE TABLE positions (source TEXT PRIMARY KEY, offset INTEGER) WITHOUT ROWID",
    "CREATE TABLE sagas (id TEXT PRIMARY KEY, status TEXT, waiting_for TEXT, updated_at INTEGER)",
    "CREATE TABLE records (place INTEGER PRIMARY KEY, key BLOB, value BLOB, headers BLOB)",
    "CREATE TABLE inbox (key TEXT PRIMARY KEY, reply BLOB)",
)


@dataclass(slots=True)
class _Saga:
    id: str
    key: str
    stage: int
    is_refused: bool
    began_at: float


class Floor:
    def __init__(self, folder: Path) -> None:
        self._store = _open(folder / "floor.db")
        self._effects = _open(folder / "floor-effects.db")
        self._offset = 0

    def run(self, *, sagas: int, in_flight: int, first: int = 0) -> list[float]:
        """Run *sagas* from number *first* on, *in_flight* at a time; gives latencies in seconds."""
        latencies: list[float] = []
        waiting = iter(range(first, first + sagas))
        flying: list[_Saga] = []
        while True:
            started = list(_begin(waiting, in_flight - len(flying)))
            flying += started
            if not flying:
                return latencies
            self._publish_triggers(started)
            self._take_turns(flying)
            ended = [saga for saga in flying if saga.stage > _last_stage(saga)]
            flying = [saga for saga in flying if saga.stage <= _last_stage(saga)]
            now = time.perf_counter()
            latencies += [now - saga.began_at for saga in ended]
            self._handle_effects(flying)

    def close(self) -> None:
        self._store.close()
        self._effects.close()

    def _publish_triggers(self, sagas: list[_Saga]) -> None:
        if sagas:
            self._store.execute("BEGIN IMMEDIATE")
            self._store.executemany(
                "INSERT INTO records VALUES (?,?,?,?)", [self._record(saga) for saga in sagas]
            )
            self._store.execute("COMMIT")

    def _take_turns(self, sagas: list[_Saga]) -> None:
        at = time.time_ns() // 1000
        turns, index, records = [], [], []
        for saga in sagas:
            entries = [
                {"type": name, "step": saga.stage, "payload": {"key": saga.key}}
                for name in ("reply-received", "intent-issued")
            ]
            state = {"at": at, "cause": saga.id, "entries": entries, "version": 2 * saga.stage + 1}
            saga.stage += 1
            text = orjson.dumps(state, option=orjson.OPT_SORT_KEYS)
            turns.append((saga.id, saga.stage, "turn", text))
            index.append((saga.id, "running", f"reply to {saga.stage}", at))
            records.append(self._record(saga))
        store = self._store
        store.execute("BEGIN IMMEDIATE")
        store.executemany("INSERT INTO events VALUES (?,?,?,?)", turns)
        store.executemany("INSERT OR REPLACE INTO sagas VALUES (?,?,?,?)", index)
        store.executemany("INSERT INTO records VALUES (?,?,?,?)", records)
        store.execute("INSERT OR REPLACE INTO positions VALUES ('all', ?)", (self._offset,))
        store.execute("COMMIT")

    def _handle_effects(self, sagas: list[_Saga]) -> None:
        if not sagas:
            return
        rows, records = [], []
        for saga in sagas:
            reply = orjson.dumps({"key": saga.key, "stage": saga.stage})
            rows.append((f"{saga.id}/{saga.stage}", reply))
            records.append(self._record(saga))
        self._effects.execute("BEGIN IMMEDIATE")
        self._effects.executemany("INSERT INTO inbox VALUES (?,?)", rows)
        self._effects.execute("COMMIT")
        self._store.execute("BEGIN IMMEDIATE")
        self._store.executemany("INSERT INTO records VALUES (?,?,?,?)", records)
        self._store.execute("COMMIT")

    def _record(self, saga: _Saga) -> tuple[int, bytes, bytes, bytes]:
        self._offset += 1
        value = orjson.dumps({"order_id": saga.key, "amount": saga.stage})
        headers = f"ce_id={saga.id}/{saga.stage};ce_subject={saga.id}".encode()
        return self._offset, saga.key.encode(), value, headers


def _begin(waiting: Iterator[int], room: int) -> Iterator[_Saga]:
    for _ in range(room):
        number = next(waiting, None)
        if number is None:
            return
        key = f"order-{number}"
        is_refused = number % REFUSED_EVERY == 0
        yield _Saga(str(uuid5(NAMESPACE_URL, key)), key, 0, is_refused, time.perf_counter())


def _last_stage(saga: _Saga) -> int:
    """Three steps; a refused saga has two more, undoing the first two."""
    return len(STEPS) + (2 if saga.is_refused else 0)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    for table in _TABLES:
        connection.execute(table)
    return connection
