"""
How fast the store takes batches: `python -m tests.adapters.postgres.measure URL [--seconds N]`.

Makes a database of its own beside the one that the URL names, and drops it. Each writer is a
process; a batch holds one turn of each of its sagas, with position, index rows, timers and backlog,
as the orchestrator's do; a saga of three steps takes four turns of two entries. The same once more
with the library's table lock instead of the shared one, and entries alone by the library's insert
and by ours.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from collections.abc import Callable
from multiprocessing import get_context
from urllib.parse import urlsplit, urlunsplit

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresDatastore, PostgresProcessRecorder

from saga.adapters.mapper import EntryMapper
from saga.adapters.postgres import Address, PostgresDatabase, PostgresEventStore
from saga.adapters.postgres.recorder import SagaProcessRecorder
from saga.core.identity import SagaId, saga_id
from saga.core.status import SagaStatus
from saga.ports.bus import Source
from saga.ports.event_store import Batch
from saga.testing import samples
from saga.testing.samples import MOMENT

TURNS = 4
LOCK = "LOCK TABLE stored_events IN EXCLUSIVE MODE"


def turn(sagas: list[SagaId], number: int, source: Source, offset: int, owed: list[int]) -> Batch:
    """
    The turn *number*, from 0, of all *sagas*.
    """
    status = SagaStatus.COMPLETED if number == TURNS - 1 else SagaStatus.RUNNING
    version = 2 * number + 2
    return Batch(
        histories=[samples.history(each, version - 2) for each in sagas],
        positions={source: offset},
        summaries=[samples.summary(each, status=status, version=version) for each in sagas],
        timers_armed=[samples.timer(each, f"t{number}", 10) for each in sagas],
        timers_cleared=[samples.timer(each, f"t{number - 1}", 10).timer_id for each in sagas],
        outgoing=[samples.record("shop.int")],
        relayed=owed,
    )


async def append(url: str, name: str, sagas_per_batch: int, seconds: float, *, locked: bool) -> int:
    """
    Append until the time is over; how many sagas were completed.
    """
    database = PostgresDatabase(Address(url))
    store = PostgresEventStore(database)
    if locked:
        store.recorder.share_lock = LOCK
    source, offset, done, owed = Source(name, 0), 0, 0, list[int]()
    ending = time.monotonic() + seconds
    while time.monotonic() < ending:
        sagas = [saga_id(name, f"{done + n}") for n in range(sagas_per_batch)]
        for number in range(TURNS):
            batch = turn(sagas, number, source, offset, owed)
            backlog_id = (await store.append(batch, at=MOMENT)).backlog_id
            owed = [backlog_id] if backlog_id is not None else []
            offset += 1
        done += sagas_per_batch
    await database.close()
    return done


def insert(url: str, name: str, entries: int, seconds: float, *, ours: bool) -> int:
    """
    Insert entries alone by the recorder's own `insert_events`; how many.
    """
    if ours:
        address = Address(url)
        recorder: PostgresProcessRecorder = SagaProcessRecorder(
            PostgresDatabase(address).datastore, address
        )
    else:
        parts = urlsplit(url)
        recorder = PostgresProcessRecorder(
            PostgresDatastore(
                parts.path[1:], parts.hostname or "", parts.port or 5432, parts.username or "",
                parts.password or "", pool_size=1,
            )
        )  # fmt: skip
        recorder.datastore.register_type_adapters()
    mapper, done = EntryMapper(), 0
    ending = time.monotonic() + seconds
    while time.monotonic() < ending:
        sagas = [saga_id(name, f"{done + n}") for n in range(entries // 2)]
        stored: list[StoredEvent] = [
            mapper.to_stored_event(entry) for each in sagas for entry in samples.entries(each, 0)
        ]
        recorder.insert_events(stored)
        done += len(stored)
    recorder.datastore.close()
    return done


def run_append(*arguments: object) -> int:
    """
    A writer's process.
    """
    url, name, sagas, seconds, locked = arguments
    return asyncio.run(append(url, name, sagas, seconds, locked=locked))  # type: ignore[arg-type]


def run_insert(*arguments: object) -> int:
    """
    An inserter's process.
    """
    url, name, entries, seconds, ours = arguments
    return insert(url, name, entries, seconds, ours=ours)  # type: ignore[arg-type]


def measured(
    work: Callable[..., int], url: str, size: int, seconds: float, *, flag: bool, writers: int
) -> float:
    """
    What all *writers* did in a second together.
    """
    with get_context("spawn").Pool(writers) as pool:
        names = [f"{secrets.token_hex(4)}" for _ in range(writers)]
        arguments = [(url, name, size, seconds, flag) for name in names]
        return sum(pool.starmap(work, arguments)) / seconds


def main() -> None:
    """
    Print a table.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    name = f"measure_{secrets.token_hex(4)}"
    with psycopg.connect(given.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    url = urlunsplit(urlsplit(given.url)._replace(path=f"/{name}"))
    try:
        PostgresEventStore(PostgresDatabase(Address(url)))
        print("sagas/s (8 entries each), all rows of a batch")
        for writers in (1, 2, 4):
            for sagas in (1, 8, 40):
                for locked in (False, True):
                    rate = measured(
                        run_append, url, sagas, given.seconds, flag=locked, writers=writers
                    )
                    how = "table lock" if locked else "no table lock"
                    print(f"{writers} writers, {2 * sagas:3} entries a batch, {how:13} {rate:8.0f}")
        print("entries/s by insert_events, entries alone")
        for entries in (2, 20, 300):
            for ours in (False, True):
                rate = measured(run_insert, url, entries, given.seconds, flag=ours, writers=1)
                whose = "one unnest of plain arrays" if ours else "the library's"
                print(f"{entries:3} entries a batch, {whose:27} {rate:8.0f}")
    finally:
        with psycopg.connect(given.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


if __name__ == "__main__":
    main()
