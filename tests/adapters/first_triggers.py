"""Workers that start the same sagas at once, from two topics: what both stores are tested with.

`python -m tests.adapters.first_triggers ADDRESS TOPIC` is one of them. It reads a topic of first
triggers, one a key, from where the store says, a few in each batch. A saga that is there already is
a duplicate. For each line that it reads it does a batch, and prints how far it has come.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from saga.adapters.sqlite import SqliteDatabase, SqliteEventStore
from saga.errors import AlreadyRecorded, HistoryConflict, StoreUnavailable
from saga.ports.bus import Source
from saga.ports.store import EventStore
from saga.testing import samples
from saga.testing.samples import MOMENT, saga
from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]
KEYS = 60
TOPICS = ("left", "right")
BATCH_KEYS = 3
BATCHES_OF_A_LIFE = 5


async def start_all(
    store: EventStore, topic: str, *, allowed: Callable[[], Awaitable[object]] | None = None
) -> None:
    """Start a saga for each key, but for those that another one has started.

    *allowed* is waited for before each batch.
    """
    source = Source(topic, 0)
    while (done := (await store.positions([source])).get(source, -1) + 1) < KEYS:
        if allowed is not None:
            await allowed()
        wanted = range(done, min(done + BATCH_KEYS, KEYS))
        with suppress(AlreadyRecorded):  # it was recorded when the answer was lost
            await _start(store, source, list(wanted))
        print(wanted.stop, flush=True)


async def _start(store: EventStore, source: Source, numbers: list[int]) -> None:
    """Record the first turns of these sagas, and that their triggers are accounted for."""
    missing = numbers
    while True:
        histories = [samples.history(saga(number), cause=source.topic) for number in missing]
        batch = samples.batch(*histories, positions={source: numbers[-1]})
        try:
            await store.append(batch, at=MOMENT)
        except StoreUnavailable:
            continue
        except HistoryConflict:
            started = await store.load([saga(number) for number in missing])
            missing = [number for number in missing if saga(number) not in started]
        else:
            return


async def start_all_though_killed(address: str, topic: str) -> int:
    """Start all in one process after another, each killed in some batch; how many it took."""
    command = (sys.executable, "-m", "tests.adapters.first_triggers", address, topic)
    for lives in range(1, 10 * KEYS):
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
        for _ in range(BATCHES_OF_A_LIFE):
            if not await _did_batch(process):
                break
        else:
            _allow_batch(process)
            await asyncio.sleep(lives / 1_000)  # so that it is killed here and there in the batch
            with suppress(ProcessLookupError):
                process.kill()
        if await process.wait() == 0:
            return lives
    raise AssertionError("they get nowhere")


def _allow_batch(process: Process) -> None:
    assert process.stdin is not None
    with suppress(ConnectionError):  # it may have nothing left to do
        process.stdin.write(b"\n")


async def _did_batch(process: Process) -> bool:
    """Let *process* do a batch; False where none was left and it has ended."""
    assert process.stdout is not None
    _allow_batch(process)
    async with asyncio.timeout(HANG_S):
        return bool(await process.stdout.readline())


async def check_each_began_once(store: EventStore) -> None:
    """Each saga has one history with one beginning, and all triggers are accounted for."""
    histories = await store.load([saga(number) for number in range(KEYS)])
    assert len(histories) == KEYS
    for history in histories.values():
        assert not isinstance(history, Exception)
        assert len(history) == 2
        assert {entry.cause for entry in history} < {*TOPICS}
    sources = [Source(topic, 0) for topic in TOPICS]
    assert await store.positions(sources) == dict.fromkeys(sources, KEYS - 1)


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[EventStore]:
    """The store in a file or on a server."""
    if not address.startswith("postgresql:"):
        file = SqliteDatabase(address)
        yield SqliteEventStore(file)
        await file.close()
        return
    from saga.adapters.postgres import Address, PostgresDatabase, PostgresEventStore

    server = PostgresDatabase(Address(address))
    yield PostgresEventStore(server)
    await server.close()


async def main(address: str, topic: str) -> None:
    """Start them."""
    async with opened(address) as store:
        await start_all(store, topic, allowed=partial(asyncio.to_thread, sys.stdin.readline))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
