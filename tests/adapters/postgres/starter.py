"""A process that starts sagas: `python -m tests.adapters.postgres.starter URL TOPIC KEYS`.

It reads a topic of first triggers, one a key, from where the store says, a few in each batch. A
saga that is there already is a duplicate. It prints how far it has come, batch by batch.
"""

import asyncio
import sys

from saga.adapters.postgres import Address, PostgresDatabase, PostgresEventStore
from saga.errors import AlreadyRecorded, HistoryConflict, StoreUnavailable
from saga.ports.bus import Source
from saga.testing import samples
from saga.testing.samples import MOMENT, saga

BATCH_KEYS = 3


async def start_all(store: PostgresEventStore, topic: str, keys: int) -> None:
    """Start a saga for each key, but for those that another one has started."""
    source = Source(topic, 0)
    while (done := (await store.positions([source])).get(source, -1) + 1) < keys:
        wanted = range(done, min(done + BATCH_KEYS, keys))
        try:
            await start(store, source, list(wanted))
        except StoreUnavailable:
            continue
        except AlreadyRecorded:
            pass  # it was recorded when the answer was lost
        print(wanted.stop, flush=True)


async def start(store: PostgresEventStore, source: Source, numbers: list[int]) -> None:
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


async def main(url: str, topic: str, keys: str) -> None:
    """Start them."""
    database = PostgresDatabase(Address(url))
    await start_all(PostgresEventStore(database), topic, int(keys))
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
