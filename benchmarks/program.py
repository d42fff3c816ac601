"""The same saga as a plain asyncio program, with none of the engine's features.

A coroutine is the saga. Customers, an orchestrator and effect services share a loop and hand
records to each other in memory. Records have the engine's headers, turns say what an auditor would
ask, and rows are as large as the engine's. There are no contracts, no validation, no replay, no
retries, no timers and no duplicates, and a crash loses what is under way.

It commits together what the engine commits together: a record with the turn on it. An inbox row is
committed with the turn on its reply as well, or before it to a file of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar
from uuid import NAMESPACE_URL, uuid4, uuid5

import orjson

from benchmarks.order import REFUSED_EVERY
from benchmarks.rows import INTEGER_DIGITS, TURN_TOPIC, File, Inbox, Index, RecordRow, Turn
from benchmarks.weights import Weights

T = TypeVar("T")
Json = dict[str, Any]
Handler = Callable[[Json], Awaitable[Json]]

TRIGGERS: Final = "triggers"
REPLIES: Final = "replies"
REFUSALS: Final = "refusals"
OUTCOMES: Final = "outcomes"
UNDOES: Final = {"reserve": "release", "charge": "refund"}


class Refused(Exception):
    pass


@dataclass(slots=True)
class Do:
    """Awaited by a saga, it is a step, and gives the reply."""

    step: str
    payload: Json

    def __await__(self) -> Generator[Do, Json, Json]:
        return (yield self)


async def order(placed: Json) -> Json:
    key, undos = placed["order_id"], []
    try:
        for step in ("reserve", "charge"):
            await Do(step, {"order_id": key, "amount": placed["amount"]})
            undos.append(UNDOES[step])
        ship = Do("ship", {"order_id": key, "is_shippable": placed["is_shippable"]})
        shipped = await ship
    except Refused as refused:
        for undo in reversed(undos):
            await Do(undo, {"order_id": key})
        return {"order_id": key, "reason": str(refused)}
    return {"order_id": key, "parcel": shipped["parcel"]}


async def _reserve(intent: Json) -> Json:
    return {"reservation": f"{intent['amount']} for {intent['order_id']}"}


async def _charge(intent: Json) -> Json:
    return {"receipt": f"{intent['amount']} from {intent['order_id']}"}


async def _ship(intent: Json) -> Json:
    if not intent["is_shippable"]:
        raise Refused("nobody delivers there")
    return {"parcel": f"parcel-{intent['order_id']}"}


async def _undo(intent: Json) -> Json:
    return {"undone": intent["order_id"]}


HANDLERS: Final[dict[str, Handler]] = {
    "reserve": _reserve,
    "charge": _charge,
    "ship": _ship,
    "refund": _undo,
    "release": _undo,
}


class Record(NamedTuple):
    topic: str
    key: str
    value: bytes
    headers: dict[str, str]
    inbox: Inbox | None = None
    """To be stored with it."""


@dataclass(slots=True)
class Saga:
    id: str
    key: str
    run: Generator[Do, Json, Json]
    turns: int = 0


class Waiting(Generic[T]):
    """What waits for a loop, which takes all of it at a time."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._has_come = asyncio.Event()

    def put(self, items: list[T]) -> None:
        if items:
            self._items += items
            self._has_come.set()

    async def take(self) -> list[T]:
        await self._has_come.wait()
        self._has_come.clear()
        items, self._items = self._items, []
        return items


class Program:
    def __init__(self, folder: Path, weights: Weights, *, has_own_inbox: bool) -> None:
        self._store = File(folder / "program.db")
        self._effects = File(folder / "program-effects.db") if has_own_inbox else None
        self._weights = weights
        self._offset = 0
        self._sagas: dict[str, Saga] = {}
        self._inbound = Waiting[Record]()
        self._intents = Waiting[Record]()
        self._stored: dict[str, asyncio.Future[None]] = {}
        self._outcomes: dict[str, asyncio.Future[Record]] = {}

    async def run(self, numbers: range, in_flight: int) -> list[float]:
        """Run the orders of these *numbers*, *in_flight* at a time; gives latencies in seconds."""
        waiting = iter(numbers)
        latencies: list[float] = []

        async def customer() -> None:
            for number in waiting:
                began_at = time.perf_counter()
                await (await self._publish(number))
                latencies.append(time.perf_counter() - began_at)

        async with asyncio.TaskGroup() as roles:
            running = [roles.create_task(role()) for role in (self._orchestrate, self._serve)]
            async with asyncio.TaskGroup() as customers:
                for _ in range(in_flight):
                    customers.create_task(customer())
            for role in running:
                role.cancel()
        return latencies

    def close(self) -> None:
        self._store.close()
        if self._effects is not None:
            self._effects.close()

    async def _publish(self, number: int) -> Awaitable[Record]:
        """Publish the trigger of an order; returns what gives its outcome, once that is stored."""
        key, is_shippable = f"order-{number}", number % REFUSED_EVERY != 0
        placed = {"order_id": key, "amount": 100 + number, "is_shippable": is_shippable}
        saga_id, message_id = str(uuid5(NAMESPACE_URL, key)), str(uuid4())
        cause = {"ce_subject": saga_id, "ce_id": message_id}
        stored = self._stored[message_id] = asyncio.get_running_loop().create_future()
        outcome = self._outcomes[saga_id] = asyncio.get_running_loop().create_future()
        self._inbound.put([_record(TRIGGERS, key, placed, message_id, cause)])
        await stored
        return outcome

    async def _orchestrate(self) -> None:
        while True:
            records = await self._inbound.take()
            at = time.time_ns() // 1000
            turns: list[Turn] = []
            index: list[Index] = []
            intents: list[Record] = []
            ends: list[Record] = []
            for record in records:
                saga = self._saga(record)
                decided, entry = self._decide(saga, record)
                (intents if decided.topic in HANDLERS else ends).append(decided)
                turns.append(self._turn_row(saga, record, entry, at))
                index.append(self._index_row(saga, decided, at))
            self._store.begin()
            self._store.insert_records(map(self._record_row, records))
            self._store.insert_inbox([each.inbox for each in records if each.inbox is not None])
            self._store.insert_turns(turns, index, self._offset)
            self._store.insert_records(map(self._record_row, [*intents, *ends]))
            self._store.commit()
            for record in records:
                if record.topic == TRIGGERS:
                    self._stored.pop(record.headers["ce_id"]).set_result(None)
            self._intents.put(intents)
            for end in ends:
                self._outcomes.pop(end.headers["ce_subject"]).set_result(end)

    def _saga(self, record: Record) -> Saga:
        saga_id = record.headers["ce_subject"]
        saga = self._sagas.get(saga_id)
        if saga is None:
            run = order(orjson.loads(record.value)).__await__()
            saga = self._sagas[saga_id] = Saga(saga_id, record.key, run)
        saga.turns += 1
        return saga

    def _decide(self, saga: Saga, record: Record) -> tuple[Record, Json]:
        """What the saga wants after *record*: to be published, and as an entry."""
        try:
            match record.topic:
                case "triggers":
                    do = next(saga.run)
                case "replies":
                    do = saga.run.send(orjson.loads(record.value))
                case _:
                    do = saga.run.throw(Refused(orjson.loads(record.value)["reason"]))
        except StopIteration as ended:
            outcome: Json = ended.value
            del self._sagas[saga.id]
            entry = {"type": "saga-completed", "outcome": outcome}
            return _record(OUTCOMES, saga.key, outcome, f"{saga.id}/outcome", record.headers), entry
        message_id = f"{saga.id}/{do.step}/do/1"
        issued = {"type": "intent-issued", "step": do.step, "attempt": 1, "direction": "do"}
        what = {"contract": f"bench.int.{do.step}.v1", "kind": "step", "payload": do.payload}
        return _record(do.step, saga.key, do.payload, message_id, record.headers), issued | what

    async def _serve(self) -> None:
        while True:
            intents = await self._intents.take()
            async with asyncio.TaskGroup() as group:  # one that waits holds up no other
                tasks = [group.create_task(self._handle(intent)) for intent in intents]
            replies = [task.result() for task in tasks]
            if self._effects is not None:
                self._effects.begin()
                self._effects.insert_inbox([each.inbox for each in replies if each.inbox])
                self._effects.commit()
                replies = [each._replace(inbox=None) for each in replies]
            self._inbound.put(replies)

    async def _handle(self, intent: Record) -> Record:
        topic = REPLIES
        try:
            answer = await HANDLERS[intent.topic](orjson.loads(intent.value))
        except Refused as refused:
            topic, answer = REFUSALS, {"reason": str(refused)}
        intent_id = intent.headers["ce_id"]
        reply = _record(topic, intent.key, answer, f"{intent_id}/reply", intent.headers)
        size = self._weights.inbox - len(intent_id)
        return reply._replace(inbox=(intent_id, reply.value.ljust(size)))

    def _turn_row(self, saga: Saga, record: Record, entry: Json, at: int) -> Turn:
        cause, payload = record.headers["ce_id"], orjson.Fragment(record.value)
        fact = {"type": "reply-received", "intent_id": record.headers["ce_causationid"]}
        reply = {"outcome": record.topic, "reply": {"contract": record.topic, "payload": payload}}
        state = {"at": at, "cause": cause, "entries": [fact | reply, entry], "version": saga.turns}
        text = orjson.dumps(state, option=orjson.OPT_SORT_KEYS)
        size = self._weights.turn - len(saga.id) - len(TURN_TOPIC) - 1
        return saga.id, saga.turns, TURN_TOPIC, text.ljust(size)

    def _index_row(self, saga: Saga, decided: Record, at: int) -> Index:
        size = self._weights.index - len(saga.id) - len(saga.key) - INTEGER_DIGITS
        return saga.id, saga.key, decided.topic.ljust(size), at

    def _record_row(self, record: Record) -> RecordRow:
        self._offset += 1
        key = record.key.encode()
        # The others follow from these, or stand in the turn.
        headers = f"{record.topic} {record.headers['ce_time']} {record.headers['ce_id']}".encode()
        size = self._weights.record - len(key) - len(record.value) - len(str(self._offset))
        return self._offset, key, record.value, headers.ljust(size)


def _record(
    topic: str, key: str, payload: Json, message_id: str, cause: Mapping[str, str]
) -> Record:
    """A record about the same saga as that with the headers *cause*, which has led to it."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": message_id,
        "ce_source": "/bench/program",
        "ce_type": topic,
        "ce_time": datetime.now(UTC).isoformat(),
        "content-type": "application/json",
        "ce_subject": cause["ce_subject"],
        "ce_correlationid": cause["ce_subject"],
        "ce_causationid": cause["ce_id"],
    }
    return Record(topic, key, orjson.dumps(payload), headers)
