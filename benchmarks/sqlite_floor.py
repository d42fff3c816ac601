"""The floor: the same rows, hand-written into two files by a loop, without an engine.

A team could reach it that knows only this one saga, and nothing of contracts, replays, retries or
duplicates. All sagas go from hop to hop together, and each hop commits what the hop before it has
published, on its own: at 1 in flight that is more commits than the engine needs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks.rows import File, Rows, Saga
from benchmarks.weights import LIGHT, Weights


class Floor:
    def __init__(self, folder: Path, weights: Weights = LIGHT) -> None:
        self._store = File(folder / "floor.db")
        self._effects = File(folder / "floor-effects.db")
        self._rows = Rows(weights)

    def run(self, numbers: range, in_flight: int) -> list[float]:
        """Run the sagas of these *numbers*, *in_flight* at a time; gives latencies in seconds."""
        latencies: list[float] = []
        waiting = map(Saga.of, numbers)
        flying: list[Saga] = []
        while started := self._start(waiting, in_flight - len(flying)) + flying:
            flying = started
            self._take_turns(flying)
            now = time.perf_counter()
            latencies += [now - saga.began_at for saga in flying if saga.has_ended]
            flying = [saga for saga in flying if not saga.has_ended]
            self._handle_effects(flying)
        return latencies

    def close(self) -> None:
        self._store.close()
        self._effects.close()

    def _start(self, waiting: Iterator[Saga], room: int) -> list[Saga]:
        """Publish the triggers of the next ones."""
        sagas = list(islice(waiting, room))
        if sagas:
            self._store.begin()
            self._store.insert_records([self._rows.record(saga) for saga in sagas])
            self._store.commit()
        return sagas

    def _take_turns(self, sagas: list[Saga]) -> None:
        """Store what the sagas decide, and publish it."""
        at = time.time_ns() // 1000
        turns, index, records = [], [], []
        for saga in sagas:
            saga.stage += 1
            turns.append(self._rows.turn(saga, at))
            index.append(self._rows.index(saga, at))
            records.append(self._rows.record(saga))
        self._store.begin()
        self._store.insert_turns(turns, index, self._rows.offset)
        self._store.insert_records(records)
        self._store.commit()

    def _handle_effects(self, sagas: list[Saga]) -> None:
        """Store what the services have done, then publish their replies."""
        if not sagas:
            return
        self._effects.begin()
        self._effects.insert_inbox([self._rows.inbox(saga) for saga in sagas])
        self._effects.commit()
        self._store.begin()
        self._store.insert_records([self._rows.record(saga) for saga in sagas])
        self._store.commit()
