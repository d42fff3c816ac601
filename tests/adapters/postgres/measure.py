"""How fast the store takes batches: `python -m tests.adapters.postgres.measure [URL] [--quick]`.

Makes a database beside the one that the URL names, and drops it; without a URL it starts a server
of its own. Rivals take turns, each in processes of its own, and what is told are medians, with the
median of the ratios to the first rival of the same round.

*Entries alone*: the library's insert, the same with a single `unnest` of plain arrays (`unnest`),
and a transaction that is one message (`append`). *Whole batches*: one turn of each of its sagas,
with position, index rows, timers and backlog, as the orchestrator's have; a saga of three steps
takes four turns of two entries. There the rival is the library's table lock.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from statistics import median
from urllib.parse import urlsplit
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresDatastore, PostgresProcessRecorder

from infra import Postgres
from infra.scratch import scratch_folder
from saga.adapters.mapper import TURN, to_state
from saga.adapters.postgres import Address, PostgresDatabase, PostgresEventStore
from saga.adapters.postgres._eventsourcing import SagaDatastore, SagaProcessRecorder
from saga.core.identity import SagaId, saga_id
from saga.core.status import SagaStatus
from saga.ports.bus import Source
from saga.ports.store import Batch
from saga.testing import samples
from saga.testing.samples import MOMENT
from tests.connected import database_on

TURNS = 4
LOCK = "LOCK TABLE stored_events IN EXCLUSIVE MODE"
LIBRARY, UNNEST, APPEND = INSERTS = "library", "unnest", "append"
LOCKED, OURS = APPENDS = "table lock", "no table lock"


def turn(sagas: list[SagaId], number: int, source: Source, offset: int, owed: list[int]) -> Batch:
    """The turn *number*, from 0, of all *sagas*."""
    status = SagaStatus.COMPLETED if number == TURNS - 1 else SagaStatus.RUNNING
    version = 2 * number + 2
    return samples.batch(
        *(samples.history(each, number) for each in sagas),
        positions={source: offset},
        summaries=[samples.summary(each, status=status, version=version) for each in sagas],
        timers_armed=[samples.timer(each, f"t{number}", 10) for each in sagas],
        timers_cleared=[samples.timer(each, f"t{number - 1}", 10).timer_id for each in sagas],
        outgoing=[samples.record("shop.int")],
        relayed=owed,
    )


async def append(url: str, name: str, sagas_per_batch: int, seconds: float, *, locked: bool) -> int:
    """Append until the time is over; how many sagas were completed."""
    database = PostgresDatabase(Address(url))
    store = PostgresEventStore(database)
    if locked:
        store._lock = LOCK  # noqa: SLF001
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


def inserting(url: str, rival: str) -> tuple[PostgresProcessRecorder, Callable[[], object]]:
    """The recorder of *rival*, the library's own or ours, and what closes it."""
    if rival == UNNEST:
        address = Address(url)
        datastore = SagaDatastore(address)
        return SagaProcessRecorder(datastore, address), datastore.close
    parts = urlsplit(url)
    library = PostgresDatastore(
        parts.path[1:], parts.hostname or "", parts.port or 5432, parts.username or "",
        parts.password or "", pool_size=1,
    )  # fmt: skip
    library.register_type_adapters()
    return PostgresProcessRecorder(library), library.close


def insert(url: str, name: str, entries: int, seconds: float, *, rival: str) -> int:
    """Insert entries alone by the recorder's own `insert_events`; how many."""
    recorder, close = inserting(url, rival)
    done = 0
    ending = time.monotonic() + seconds
    while time.monotonic() < ending:
        sagas = [saga_id(name, f"{done + n}") for n in range(entries // 2)]
        stored: list[StoredEvent] = [
            StoredEvent(UUID(each), 1, TURN, to_state(samples.entries(each, 0))) for each in sagas
        ]
        recorder.insert_events(stored)
        done += len(stored)
    close()
    return done


async def append_entries(url: str, name: str, entries: int, seconds: float) -> int:
    """Append entries alone; how many."""
    database = PostgresDatabase(Address(url))
    store, done = PostgresEventStore(database), 0
    ending = time.monotonic() + seconds
    while time.monotonic() < ending:
        sagas = [saga_id(name, f"{done + n}") for n in range(entries // 2)]
        histories = [samples.history(each, 0) for each in sagas]
        await store.append(samples.batch(*histories), at=MOMENT)
        done += entries
    await database.close()
    return done


def work(url: str, name: str, size: int, seconds: float, rival: str) -> int:
    """What one process of *rival* did."""
    if rival in (LIBRARY, UNNEST):
        return insert(url, name, size, seconds, rival=rival)
    if rival == APPEND:
        return asyncio.run(append_entries(url, name, size, seconds))
    return asyncio.run(append(url, name, size, seconds, locked=rival == LOCKED))


def rate(url: str, rival: str, size: int, seconds: float, writers: int) -> float:
    """What all *writers* did in a second together."""
    with get_context("spawn").Pool(writers) as pool:
        names = [f"{secrets.token_hex(4)}" for _ in range(writers)]
        arguments = [(url, name, size, seconds, rival) for name in names]
        return sum(pool.starmap(work, arguments)) / seconds


def compare(
    url: str, rivals: Sequence[str], size: int, given: argparse.Namespace, *, writers: int = 1
) -> str:
    """A line: the median of each rival, and of its ratios to the first."""
    rounds = [
        {rival: rate(url, rival, size, given.seconds, writers) for rival in rivals}
        for _ in range(given.rounds)
    ]
    cells = []
    for rival in rivals:
        ratio = median(one[rival] / one[rivals[0]] for one in rounds)
        cells.append(f"{median(one[rival] for one in rounds):12,.0f} {ratio:5.2f}")
    return " ".join(cells)


def measure(url: str, given: argparse.Namespace) -> None:
    """Print both tables."""
    PostgresEventStore(PostgresDatabase(Address(url)))
    print(f"entries/s, entries alone{'':20}", *(f"{rival:>18}" for rival in INSERTS))
    for size in (2, 20, 300):
        print(f"{size:5} entries a batch{'':24}", compare(url, INSERTS, size, given), flush=True)
    print(f"sagas/s, whole batches{'':22}", *(f"{rival:>18}" for rival in APPENDS))
    for writers in (1, 2, 4):
        for size in (1, 8, 40):
            compared = compare(url, APPENDS, size, given, writers=writers)
            print(f"{2 * size:5} entries a batch, {writers} writers{'':13}", compared, flush=True)


def main() -> None:
    """Measure on the server given, or on one of our own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short round: a first idea")
    given = parser.parse_args()
    if given.quick:
        given.seconds, given.rounds = 0.5, 1
    with ExitStack() as stack:
        server = given.url
        if server is None:
            postgres = Postgres(stack.enter_context(scratch_folder()) / "postgres")
            stack.callback(postgres.kill)
            postgres.start()
            server = postgres.url()
        measure(stack.enter_context(database_on(server)), given)


if __name__ == "__main__":
    main()
