"""A store with a past: many finished and open sagas, as the engine would have written them.

A few sagas are really run, and the server multiplies their rows. A copy's saga id follows from its
key, as in the engine, and the log has the entries in the order of their sagas. Records on topics
and the inbox of the services are not multiplied.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from benchmarks.order import OrderPlaced, OrderQuestioned, app, order, question
from benchmarks.timing import Measured, run_fast
from saga.adapters.clocks import SystemClock
from saga.adapters.postgres.statements import OriginatorIds
from saga.console.cli.output import NotSo
from saga.contracts import Event
from saga.core.identity import SagaId, saga_id
from saga.core.status import SagaStatus
from saga.service import Service
from saga.settings import Settings
from saga.wiring import build_service

Copy = tuple[int, SagaId, SagaId, str, str]
"""Its number, the sample's saga id, its own, its originator id, its key."""

CHUNK_SAGAS: Final = 20_000
SAMPLE_WAIT_S: Final = 30.0
SAMPLE_POLL_S: Final = 0.02
FINISHED_KEY: Final = "sample-finished"
OPEN_KEY: Final = "sample-open"

_SAMPLES: Final = (
    (
        "CREATE TEMP TABLE sample_sagas AS SELECT i.*, "
        "convert_from(e.state, 'UTF8')::jsonb ->> 'cause' AS trigger_id FROM saga_index AS i "
        "JOIN stored_events AS e ON e.originator_id = i.originator_id "
        "AND e.originator_version = 1 WHERE i.saga_id = ANY(%s::uuid[])"
    ),
    (
        "CREATE TEMP TABLE sample_turns AS SELECT s.saga_id AS sample, "
        "e.originator_version AS turn, e.topic, convert_from(e.state, 'UTF8') AS state "
        "FROM stored_events AS e JOIN sample_sagas AS s USING (originator_id)"
    ),
    (
        "CREATE TEMP TABLE sample_timers AS SELECT s.saga_id AS sample, t.name, t.due_at "
        "FROM timers AS t JOIN sample_sagas AS s USING (originator_id)"
    ),
)
_ENTRIES: Final = (
    "SELECT sample::text, sum(jsonb_array_length(state::jsonb -> 'entries'))::bigint "
    "FROM sample_turns GROUP BY sample"
)
_COPIES: Final = (
    "CREATE TEMP TABLE copies (number bigint, sample uuid, saga_id uuid, originator_id uuid, "
    "key text, trigger_id text DEFAULT gen_random_uuid()::text)"
)
_COPY: Final = "COPY copies (number, sample, saga_id, originator_id, key) FROM STDIN"
_FILL: Final = (
    (
        "INSERT INTO saga_ids (saga_id, originator_id) "
        "SELECT saga_id, originator_id FROM copies ORDER BY number"
    ),
    (
        "INSERT INTO stored_events "
        "(originator_id, originator_version, topic, state, notification_id) "
        "SELECT originator_id, turn, topic, convert_to(state, 'UTF8'), "
        "nextval('stored_events_notification_id_seq') FROM (SELECT c.originator_id, t.turn, "
        "t.topic, replace(replace(replace(t.state, c.sample::text, c.saga_id::text), "
        "s.trigger_id, c.trigger_id), s.key, c.key) AS state FROM copies AS c "
        "JOIN sample_sagas AS s ON s.saga_id = c.sample "
        "JOIN sample_turns AS t ON t.sample = c.sample ORDER BY c.number, t.turn) AS turns"
    ),
    (
        "INSERT INTO timers (originator_id, name, due_at) SELECT c.originator_id, t.name, "
        "t.due_at FROM copies AS c JOIN sample_timers AS t ON t.sample = c.sample"
    ),
    (
        "INSERT INTO saga_index (originator_id, saga_id, definition, definition_version, key, "
        "status, started_at, updated_at, waiting_for, reason, version) "
        "SELECT c.originator_id, c.saga_id, s.definition, s.definition_version, c.key, s.status, "
        "s.started_at, s.updated_at, s.waiting_for, s.reason, s.version FROM copies AS c "
        "JOIN sample_sagas AS s ON s.saga_id = c.sample ORDER BY c.number"
    ),
)
_SIZE: Final = "SELECT pg_database_size(current_database())"


@dataclass(frozen=True, slots=True)
class Sample:
    saga_id: SagaId
    definition: str
    prefix: str


def fill(settings: dict[str, str], finished: int, still_open: int) -> Measured:
    """Fill the store of *settings* with so many sagas, and measure what is there then.

    Raises:
        NotSo: the sagas to copy did not get where they should.
    """
    return run_fast(_fill(settings, finished, still_open))


async def _fill(settings: dict[str, str], finished: int, still_open: int) -> Measured:
    read = Settings.read({}, **settings)
    samples = await _run_samples(read)
    return await asyncio.to_thread(_multiply, read.store, samples, (finished, still_open))


async def _run_samples(settings: Settings) -> tuple[Sample, Sample]:
    async with build_service(app, settings, roles=("orchestrator", "effects")) as service:
        placed = OrderPlaced(order_id=FINISHED_KEY, amount=100, is_shippable=True)
        asked = OrderQuestioned(order_id=OPEN_KEY, amount=100)
        done = await _sample(service, placed, "past-")
        waiting = await _sample(service, asked, "open-")
    return done, waiting


async def _sample(service: Service, trigger: Event, prefix: str) -> Sample:
    """Run the saga of *trigger* until it has ended, or waits for a signal."""
    started = await service.publish(trigger)
    assert started is not None
    definition = order.name if isinstance(trigger, OrderPlaced) else question.name
    try:
        async with asyncio.timeout(SAMPLE_WAIT_S):
            while not await _is_there(service, started, definition):  # noqa: ASYNC110  # tells nobody
                await asyncio.sleep(SAMPLE_POLL_S)
    except TimeoutError:
        raise NotSo(f"the {definition} to copy has not come to its end") from None
    return Sample(started, definition, prefix)


async def _is_there(service: Service, started: SagaId, definition: str) -> bool:
    if definition == order.name:
        found = await service.catalogue.summaries([started])
        return bool(found) and found[0].status is SagaStatus.COMPLETED
    return any(timer.saga_id == started for timer in await service.catalogue.timers())


def _multiply(store: str, samples: Sequence[Sample], sizes: tuple[int, int]) -> Measured:
    began_at = time.perf_counter()
    with psycopg.connect(store, autocommit=True) as connection:
        saga_ids = [sample.saga_id for sample in samples]
        for statement in _SAMPLES:
            connection.execute(statement, [saga_ids] if "%s" in statement else None)
        entries_of: dict[str, int] = dict(connection.execute(_ENTRIES).fetchall())
        connection.execute(_COPIES)
        for chunk in _chunks(samples, *sizes):
            with connection.transaction():
                connection.execute("SET LOCAL synchronous_commit = off")
                connection.execute("TRUNCATE copies")
                with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                    for row in chunk:
                        copy.write_row(row)
                connection.execute("ANALYZE copies")
                for statement in _FILL:
                    connection.execute(statement)
        _settle(connection)
        megabytes = _number(connection, _SIZE) / 1e6
    seconds = time.perf_counter() - began_at
    entries = sum(entries_of[sample.saga_id] * n for sample, n in zip(samples, sizes, strict=True))
    return {"sagas": sum(sizes), "entries": entries, "megabytes": megabytes, "seconds": seconds}


def _chunks(samples: Sequence[Sample], finished: int, still_open: int) -> Iterator[list[Copy]]:
    """The copies to make in chunks, the open ones spread evenly among the others."""
    done, waiting = samples
    total = finished + still_open
    chunk: list[Copy] = []
    originators, now = OriginatorIds(), SystemClock().now()
    for number in range(total):
        is_open = (number + 1) * still_open // total > number * still_open // total
        sample = waiting if is_open else done
        key = f"{sample.prefix}{number}"
        saga = saga_id(sample.definition, key)
        chunk.append((number, sample.saga_id, saga, originators.draw(now), key))
        if len(chunk) == CHUNK_SAGAS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _settle(connection: psycopg.Connection[Any]) -> None:
    """Leave nothing for the server to catch up on while something is measured."""
    connection.execute("VACUUM (ANALYZE)")
    with suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute("CHECKPOINT")


def _number(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])
