"""What a saga costs at the level of the files: `python -m benchmarks.storage [--finished N]`.

The adapters write what an order of three steps leaves: records, turns, index rows, positions, inbox
rows and, with --deadlines, timers. 64 sagas are in flight, and each hop of all of them is a commit
of records, one of turns and one of inbox rows. No engine runs.
It prints microseconds of processor, pages of the write-ahead logs and kilobytes of the files, all a
saga; with N finished sagas in the files before, also how much that changes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple
from unittest.mock import patch
from uuid import NAMESPACE_URL, uuid5

from saga.adapters.clocks import SystemClock
from saga.adapters.sqlite import LocalBus, SqliteDatabase, SqliteEffectsStore, SqliteEventStore
from saga.adapters.sqlite import commits as checkpointing
from saga.core.events import Json, Message, ReplyOutcome, ReplyReceived, SagaStarted
from saga.core.history import Entry, turn_of
from saga.core.identity import Direction, Instant, IntentId, MessageId, SagaId, StepId, TimerId
from saga.core.identity import saga_id as saga_id_of
from saga.core.intents import (
    IntentIssued,
    SagaCompleted,
    TimerArmed,
    TimerCancelled,
    TimerPurpose,
)
from saga.core.status import SagaStatus, StepKind
from saga.ports import Batch, DueTimer, HistoryAppend, Record, SagaSummary, Source, TopicSpec
from saga.ports.effects_store import InboxRow, InboxWrite

IN_FLIGHT: Final = 64
STEPS: Final = ("reserve", "pay", "ship")
TOPICS: Final = (
    "dev.shop.evt.order-placed.v1",
    "dev.shop.rep",
    "dev.shop.int",
    "dev.shop.evt.done",
)
PARTITIONS: Final = 3
PAGE_AND_HEADER_BYTES: Final = 4_096 + 24
AT: Final = Instant(1_700_000_000_000_000)


class Cost(NamedTuple):
    cpu_us: float
    wal_pages: float
    kilobytes: float


class Files:
    """Both files in *folder*, opened as an orchestrator and a service open them."""

    def __init__(self, folder: Path, *, has_deadlines: bool) -> None:
        self._paths = (folder / "saga.db", folder / "effects.db")
        self._has_deadlines = has_deadlines
        self._offset = 0

    async def open(self) -> None:
        store_path, effects_path = self._paths
        self._database = SqliteDatabase(store_path)
        self._bus = LocalBus(self._database, clock=SystemClock())
        self._store = SqliteEventStore(self._database, publish_through=self._bus)
        self._effects = SqliteEffectsStore(str(effects_path))
        await self._effects.open()
        await self._bus.create_topics([TopicSpec(topic, PARTITIONS) for topic in TOPICS])

    async def close(self) -> None:
        """Close them, which moves all that is in the logs into the files."""
        await self._effects.close()
        await self._bus.close()
        await self._database.close()

    async def run(self, numbers: Sequence[int]) -> float:
        """Run these sagas, some at a time; the seconds of processor that writing took."""
        cpu_s = 0.0
        for first in range(0, len(numbers), IN_FLIGHT):
            own = numbers[first : first + IN_FLIGHT]
            sagas = [Order(number, has_deadlines=self._has_deadlines) for number in own]
            for hop in range(len(STEPS) + 1):
                arriving = [saga.arriving(hop) for saga in sagas]
                self._offset += len(sagas)
                batch = batch_of(sagas, hop, self._offset)
                rows = [saga.inbox_row(hop) for saga in sagas] if hop < len(STEPS) else []
                began_s = time.process_time()
                await self._bus.publish(arriving)
                await self._store.append(batch, at=AT)
                kept = [self._effects.unit().keep((InboxWrite(row),)) for row in rows]
                if kept:
                    await asyncio.gather(*kept)
                cpu_s += time.process_time() - began_s
        return cpu_s

    @property
    def log_pages(self) -> float:
        """Pages in the logs of both files."""
        logs = (Path(f"{path}-wal") for path in self._paths)
        return sum(log.stat().st_size for log in logs if log.exists()) / PAGE_AND_HEADER_BYTES

    @property
    def kilobytes(self) -> float:
        return sum(path.stat().st_size for path in self._paths if path.exists()) / 1_000


class Order:
    """A saga of three steps, and what it leaves hop by hop."""

    def __init__(self, number: int, *, has_deadlines: bool) -> None:
        self.has_deadlines = has_deadlines
        self.key = f"order-{number}"
        self.saga_id: SagaId = saga_id_of("shop-order", self.key)
        self.trigger_id = str(uuid5(NAMESPACE_URL, self.key))

    def arriving(self, hop: int) -> Record:
        if hop == 0:
            return self._record(TOPICS[0], self.trigger_id, '{"amount":12,"order_id":"%s"}')
        cause = f"{self.saga_id}/{STEPS[hop - 1]}/do/1/reply"
        return self._record(TOPICS[1], cause, '{"receipt":"for %s"}')

    def turn(self, hop: int) -> list[Entry]:
        """What the saga makes of it: the next step with its deadline, or its end."""
        bodies: list[object] = [self._fact(hop)]
        if hop and self.has_deadlines:
            bodies.append(TimerCancelled(timer_id=self.timer_id(hop - 1)))
        if hop < len(STEPS):
            step = StepId(STEPS[hop])
            payload = Json(f'{{"amount":12,"order_id":"{self.key}"}}')
            contract = f"shop.int.{step}.v1"
            bodies.append(
                IntentIssued(
                    step=step,
                    direction=Direction.DO,
                    attempt=1,
                    kind=StepKind.COMPENSATABLE,
                    contract=contract,
                    payload=payload,
                )
            )
            if self.has_deadlines:
                bodies.append(self._deadline(hop))
        else:
            outcome = Message("shop.evt.done.v1", Json(f'{{"order_id":"{self.key}"}}'))
            bodies.append(SagaCompleted(outcome=outcome))
        cause = MessageId(self.trigger_id if hop == 0 else f"{self.saga_id}/{STEPS[hop - 1]}/reply")
        first = 1 + sum(self._entries_of(earlier) for earlier in range(hop))
        return [
            Entry(self.saga_id, version, AT, cause, body)  # type: ignore[arg-type]  # bodies of all kinds
            for version, body in enumerate(bodies, first)
        ]

    def leaving(self, hop: int) -> Record:
        if hop < len(STEPS):
            intent_id = f"{self.saga_id}/{STEPS[hop]}/do/1"
            return self._record(TOPICS[2], intent_id, '{"amount":12,"order_id":"%s"}')
        return self._record(TOPICS[3], f"{self.saga_id}/outcome", '{"order_id":"%s"}')

    def inbox_row(self, hop: int) -> InboxRow:
        key = f"{self.saga_id}/{STEPS[hop]}/do"
        payload = Json(f'{{"receipt":"for {self.key}"}}')
        contract = f"shop.evt.{STEPS[hop]}ed.v1"
        digest = self.saga_id.encode()[:16]
        return InboxRow(
            STEPS[hop], key, 1, ReplyOutcome.DONE, contract, payload, None, None, digest, AT
        )

    def timer_id(self, hop: int) -> TimerId:
        return TimerId(f"{self.saga_id}/{STEPS[hop]}/do/1/deadline")

    def summary(self, hop: int) -> SagaSummary:
        is_running = hop < len(STEPS)
        return SagaSummary(
            saga_id=self.saga_id,
            definition="shop-order",
            definition_version=1,
            key=self.key,
            status=SagaStatus.RUNNING if is_running else SagaStatus.COMPLETED,
            started_at=AT,
            updated_at=Instant(AT + hop),
            waiting_for=f"reply to {STEPS[hop]}" if is_running else None,
            reason=None,
            version=sum(self._entries_of(earlier) for earlier in range(hop + 1)),
        )

    def _fact(self, hop: int) -> SagaStarted | ReplyReceived:
        if hop == 0:
            payload = Json(f'{{"amount":12,"order_id":"{self.key}"}}')
            return SagaStarted(
                definition="shop-order",
                definition_version=1,
                fingerprint="82b876890c6f6fd5",
                key=self.key,
                trigger=Message("shop.evt.order-placed.v1", payload),
            )
        reply = Message(f"shop.evt.{STEPS[hop - 1]}ed.v1", Json(f'{{"receipt":"for {self.key}"}}'))
        intent_id = IntentId(f"{self.saga_id}/{STEPS[hop - 1]}/do/1")
        return ReplyReceived(intent_id=intent_id, outcome=ReplyOutcome.DONE, reply=reply)

    def _deadline(self, hop: int) -> TimerArmed:
        return TimerArmed(
            timer_id=self.timer_id(hop),
            due_at=Instant(AT + 30_000_000),
            purpose=TimerPurpose.DEADLINE,
            target=f"{STEPS[hop]}/do",
        )

    def _entries_of(self, hop: int) -> int:
        return 2 + self.has_deadlines * ((hop > 0) + (hop < len(STEPS)))

    def _record(self, topic: str, message_id: str, value: str) -> Record:
        headers = {
            "ce_specversion": "1.0",
            "ce_id": message_id,
            "ce_source": "/dev/saga/sagas/shop-order",
            "ce_type": topic,
            "ce_time": "2026-11-29T11:59:31.331110Z",
            "content-type": "application/json",
            "ce_subject": self.saga_id,
            "ce_correlationid": self.saga_id,
            "ce_causationid": self.trigger_id,
        }
        encoded = tuple((name, text.encode()) for name, text in headers.items())
        return Record(topic, self.key.encode(), (value % self.key).encode(), encoded)


def batch_of(sagas: Sequence[Order], hop: int, offset: int) -> Batch:
    timed = [saga for saga in sagas if saga.has_deadlines]
    return Batch(
        histories=[HistoryAppend(saga.saga_id, hop, [turn_of(saga.turn(hop))]) for saga in sagas],
        positions={Source(TOPICS[min(hop, 1)], number): offset for number in range(PARTITIONS)},
        timers_armed=[
            DueTimer(saga.timer_id(hop), saga.saga_id, AT) for saga in timed if hop < len(STEPS)
        ],
        timers_cleared=[saga.timer_id(hop - 1) for saga in timed if hop],
        summaries=[saga.summary(hop) for saga in sagas],
        outgoing=[saga.leaving(hop) for saga in sagas],
    )


async def measure(
    folder: Path, *, sagas: int, finished: int, has_deadlines: bool
) -> list[tuple[int, Cost]]:
    files = Files(folder, has_deadlines=has_deadlines)
    costs = [(0, await _cost(files, range(sagas)))]
    if finished:
        await files.open()
        await files.run(range(sagas, finished))
        await files.close()
        costs.append((finished, await _cost(files, range(finished, finished + sagas))))
    return costs


async def _cost(files: Files, numbers: range) -> Cost:
    kilobytes = files.kilobytes
    # Without checkpoints the logs tell how many pages were written.
    with patch.multiple(checkpointing, COMMITS_FIRST=1 << 40, IDLE_S=3_600.0):
        await files.open()
        pages = files.log_pages
        cpu_s = await files.run(numbers)
        pages = files.log_pages - pages
        await files.close()
    grown = files.kilobytes - kilobytes
    return Cost(cpu_s * 1e6 / len(numbers), pages / len(numbers), grown / len(numbers))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__)
    parser.add_argument("--sagas", type=int, default=4_096, help="that are measured")
    parser.add_argument("--finished", type=int, default=0, help="that are in the files before")
    parser.add_argument("--deadlines", action="store_true", help="each step has one")
    parser.add_argument("--in", dest="folder", type=Path, help="where the files go")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder) as folder:
        costs = asyncio.run(
            measure(
                Path(folder),
                sagas=arguments.sagas,
                finished=arguments.finished,
                has_deadlines=arguments.deadlines,
            )
        )
    for before, cost in costs:
        sys.stdout.write(
            f"{before:>9,} finished before: {cost.cpu_us:6.1f} µs of processor, "
            f"{cost.wal_pages:5.2f} pages of log, {cost.kilobytes:5.2f} kB a saga\n"
        )


if __name__ == "__main__":
    main()
