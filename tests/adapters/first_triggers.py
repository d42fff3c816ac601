"""Workers that start the same sagas at once, from two topics: what both stores are tested with.

`python -m tests.adapters.first_triggers ADDRESS TOPIC` is one of them. It reads a topic of first
triggers, one a key, from where the store says, a few in each batch. A saga that is there already is
a duplicate. It prints how far it has come, batch by batch.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from saga.adapters.sqlite import SqliteDatabase, SqliteEventStore
from saga.errors import AlreadyRecorded, HistoryConflict, StoreUnavailable
from saga.ports.bus import Source
from saga.ports.store import EventStore
from saga.testing import samples
from saga.testing.samples import MOMENT, saga

ROOT = Path(__file__).parents[2]
KEYS = 60
TOPICS = ("left", "right")
BATCH_KEYS = 3
BATCHES_OF_A_LIFE = 5
ANSWER_TIMEOUT_S = 60


async def start_all(store: EventStore, topic: str) -> None:
    """Start a saga for each key, but for those that another one has started."""
    source = Source(topic, 0)
    while (done := (await store.positions([source])).get(source, -1) + 1) < KEYS:
        wanted = range(done, min(done + BATCH_KEYS, KEYS))
        try:
            await _start(store, source, list(wanted))
        except StoreUnavailable:
            continue
        except AlreadyRecorded:
            pass  # it was recorded when the answer was lost
        print(wanted.stop, flush=True)


async def _start(store: EventStore, source: Source, numbers: list[int]) -> None:
    """Record the first turns of these sagas, and that their triggers are accounted for."""
    missing = numbers
    while True:
        histories = [samples.history(saga(number), cause=source.topic) for number in missing]
        batch = samples.batch(*histories, positions={source: numbers[-1]})
        try:
            await store.append(batch, at=MOMENT)
        except HistoryConflict:
            started = await store.load([saga(number) for number in missing])
            missing = [number for number in missing if saga(number) not in started]
        else:
            return


async def start_all_though_killed(address: str, topic: str) -> int:
    """Start all in one process after another, each killed after some batches; how many it took."""
    command = (sys.executable, "-m", "tests.adapters.first_triggers", address, topic)
    for lives in range(1, 10 * KEYS):
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)
        if await _told(process, BATCHES_OF_A_LIFE) == KEYS:
            assert await process.wait() == 0
            return lives
        process.kill()
        await process.wait()
    raise AssertionError("they get nowhere")


async def _told(process: Process, batches: int) -> int:
    """The last key that *process* has told, after so many *batches* or all of them."""
    assert process.stdout is not None
    told = 0
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        while batches and (line := await process.stdout.readline()):
            told, batches = int(line), batches - 1
    return told


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
async def _opened(address: str) -> AsyncIterator[EventStore]:
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
    async with _opened(address) as store:
        await start_all(store, topic)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
