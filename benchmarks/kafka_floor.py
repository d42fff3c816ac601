"""The floor on Kafka and PostgreSQL: the same rows and records, hand-written, without an engine.

An asyncio program already, it is both floor and plain program there. With the engine's weights its
records and rows are as large as the engine's.

A team could reach it that knows only this one saga, and nothing of contracts, replays, retries or
duplicates. States live in memory and a crash would lose records: no engine may do that, and it
costs the floor nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson
import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.processes import floor_topic
from benchmarks.serving import Stop
from benchmarks.weights import Weights
from saga.adapters.rows import tracking_name
from saga.ports import Source
from saga.settings import Settings

STEPS: Final = ("reserve", "charge", "ship")
UNDONE: Final = ("refund", "release")
FETCH_MS: Final = 200
FETCH_RECORDS_MAX: Final = 1_000
TABLES: Final = (
    (
        "CREATE TABLE IF NOT EXISTS floor_turns (id uuid, version bigint, topic text, "
        "state bytea, place bigserial UNIQUE, PRIMARY KEY (id, version))"
    ),
    "CREATE TABLE IF NOT EXISTS floor_positions (source text PRIMARY KEY, place bigint)",
    (
        "CREATE TABLE IF NOT EXISTS floor_sagas (id uuid PRIMARY KEY, key text, status text, "
        "waiting_for text, updated_at bigint)"
    ),
    "CREATE TABLE IF NOT EXISTS floor_inbox (key text PRIMARY KEY, reply bytea)",
)
_TURNS: Final = (
    "INSERT INTO floor_turns (id, version, topic, state) "
    "SELECT * FROM unnest(%b::uuid[], %b::bigint[], %b::text[], %b::bytea[])"
)
_SAGAS: Final = (
    "INSERT INTO floor_sagas SELECT * FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[], "
    "%b::bigint[]) ON CONFLICT (id) DO UPDATE SET status = excluded.status, "
    "waiting_for = excluded.waiting_for, updated_at = excluded.updated_at"
)
_POSITIONS: Final = (
    "INSERT INTO floor_positions SELECT * FROM unnest(%b::text[], %b::bigint[]) "
    "ON CONFLICT (source) DO UPDATE SET place = excluded.place"
)
_INBOX: Final = "INSERT INTO floor_inbox SELECT * FROM unnest(%b::text[], %b::bytea[])"

ROW_BYTES: Final = 28
"""Of a row in PostgreSQL, beside what is in its columns."""
ID_AND_TIME_BYTES: Final = 24
FILLING: Final = "filling"

_Index = tuple[UUID, str, str, str, int]
Statement = tuple[str, tuple[list[Any], ...]]
Outgoing = tuple[str, bytes, bytes, list[tuple[str, bytes]]]
Handle = Callable[[Sequence[Any]], tuple[list[Statement], list[Outgoing]]]


@dataclass(slots=True)
class _Saga:
    id: UUID
    stage: int = 0
    is_refused: bool = False


class Orchestrating:
    def __init__(self, settings: Settings, weights: Weights) -> None:
        self._weights = weights
        self._intents = floor_topic(settings, "intents")
        self._outcomes = floor_topic(settings, "outcomes")
        self._sagas: dict[bytes, _Saga] = {}

    def handle(self, records: Sequence[Any]) -> tuple[list[Statement], list[Outgoing]]:
        at = time.time_ns() // 1000
        turns: list[tuple[UUID, int, str, bytes]] = []
        index: dict[UUID, _Index] = {}
        positions: dict[str, int] = {}
        outgoing: list[Outgoing] = []
        for record in records:
            positions[tracking_name(Source(record.topic, record.partition))] = record.offset
            saga = self._sagas.get(record.key)
            if saga is None:
                saga = self._sagas[record.key] = _Saga(uuid5(NAMESPACE_URL, record.key.decode()))
            payload = orjson.loads(record.value)
            saga.is_refused = saga.is_refused or "refused" in payload
            step = self._next(saga)
            entries = [
                {"type": name, "step": step, "payload": payload}
                for name in ("reply-received", "intent-issued" if step else "saga-completed")
            ]
            version = 2 * saga.stage + 1
            state = {"at": at, "cause": str(saga.id), "entries": entries, "version": version}
            text = orjson.dumps(state, option=orjson.OPT_SORT_KEYS)
            turns.append((saga.id, saga.stage + 1, "turn", text.ljust(self._weights.turn)))
            index[saga.id] = self._index_row(saga, record.key.decode(), step, at)
            outgoing.append(self._record(saga, record.key, step))
            saga.stage += 1
            if step is None:
                del self._sagas[record.key]
        return [
            (_TURNS, _columns(turns)),
            (_SAGAS, _columns(list(index.values()))),
            (_POSITIONS, (list(positions), list(positions.values()))),
        ], outgoing

    def _next(self, saga: _Saga) -> str | None:
        steps = (*STEPS, *UNDONE) if saga.is_refused else STEPS
        return steps[saga.stage] if saga.stage < len(steps) else None

    def _index_row(self, saga: _Saga, key: str, step: str | None, at: int) -> _Index:
        status = "running" if step else "completed"
        size = self._weights.index - ROW_BYTES - ID_AND_TIME_BYTES - len(key) - len(status)
        return saga.id, key, status, f"reply to {step}".ljust(size), at

    def _record(self, saga: _Saga, key: bytes, step: str | None) -> Outgoing:
        topic = self._outcomes if step is None else self._intents
        value = orjson.dumps({"order_id": key.decode(), "amount": saga.stage, "step": step})
        size = self._weights.record - len(key) - len(value)
        return topic, key, value, _headers(f"{saga.id}/{step}/do/1", str(saga.id), size)


class Serving:
    def __init__(self, settings: Settings, weights: Weights) -> None:
        self._weights = weights
        self._replies = floor_topic(settings, "replies")

    def handle(self, records: Sequence[Any]) -> tuple[list[Statement], list[Outgoing]]:
        rows: list[tuple[str, bytes]] = []
        outgoing: list[Outgoing] = []
        for record in records:
            headers = dict(record.headers)
            intent = orjson.loads(record.value)
            number = int(intent["order_id"].rpartition("-")[2])
            is_refused = intent["step"] == "ship" and number % 10 == 0
            answer = {"refused": "no_delivery"} if is_refused else {"receipt": intent["order_id"]}
            value = orjson.dumps(answer)
            intent_id = headers["ce_id"].decode()
            rows.append((intent_id, value.ljust(self._weights.inbox - ROW_BYTES - len(intent_id))))
            size = self._weights.record - len(record.key) - len(value)
            reply_headers = _headers(f"{intent_id}/reply", "", size)
            outgoing.append((self._replies, record.key, value, reply_headers))
        return [(_INBOX, _columns(rows))], outgoing


async def orchestrator(settings: dict[str, str], weights: dict[str, int]) -> Stop:
    read = Settings.read({}, **settings)
    topics = [floor_topic(read, name) for name in ("triggers", "replies")]
    return await _start(read, topics, Orchestrating(read, Weights(**weights)).handle)


async def effects(settings: dict[str, str], weights: dict[str, int]) -> Stop:
    read = Settings.read({}, **settings)
    handle = Serving(read, Weights(**weights)).handle
    return await _start(read, [floor_topic(read, "intents")], handle)


async def make_tables(address: str) -> None:
    async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
        for table in TABLES:
            await connection.execute(table)


async def _start(settings: Settings, topics: list[str], handle: Handle) -> Stop:
    servers = list(settings.servers)
    store = await psycopg.AsyncConnection.connect(
        settings.store, autocommit=True, prepare_threshold=0
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, enable_idempotence=True, acks="all", linger_ms=0
    )
    await producer.start()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=500,
    )
    await consumer.start()
    sources = [TopicPartition(topic, n) for topic in topics for n in range(settings.partitions)]
    consumer.assign(sources)
    await consumer.seek_to_end(*sources)
    task = asyncio.create_task(_serve(consumer, store, producer, handle))

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        closing: list[Awaitable[None]] = [consumer.stop(), producer.stop(), store.close()]
        await asyncio.gather(*closing)

    return stop


async def _serve(
    consumer: AIOKafkaConsumer,
    store: psycopg.AsyncConnection[Any],
    producer: AIOKafkaProducer,
    handle: Handle,
) -> None:
    delivered: list[asyncio.Future[Any]] = []
    while True:
        batches = await consumer.getmany(timeout_ms=FETCH_MS, max_records=FETCH_RECORDS_MAX)
        records = [record for batch in batches.values() for record in batch]
        if not records:
            continue
        statements, outgoing = handle(records)
        async with store.pipeline(), store.transaction():
            for sql, columns in statements:
                await store.execute(sql, columns)
        await asyncio.gather(*delivered)  # those of the batch before
        delivered = [
            await producer.send(topic, value, key, headers=headers)
            for topic, key, value, headers in outgoing
        ]


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))


def _headers(message_id: str, subject: str, size: int) -> list[tuple[str, bytes]]:
    """Filled up to *size* bytes, if that is more than they have."""
    headers = [
        ("ce_id", message_id.encode()),
        ("ce_specversion", b"1.0"),
        ("ce_source", b"/floor"),
        ("ce_subject", subject.encode()),
        ("content-type", b"application/json"),
    ]
    missing = size - len(FILLING) - sum(len(name) + len(content) for name, content in headers)
    return [*headers, (FILLING, b"." * missing)] if missing > 0 else headers
