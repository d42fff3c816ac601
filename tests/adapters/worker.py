"""A process of its own on a database file, for tests that need several, or one to kill.

`python -m tests.adapters.worker PATH publish NAME COUNT` publishes numbered records and ends;
`… append NAME` appends batches until it is killed; `… read GROUP` reads a group until it is killed.
One line on standard output tells each thing that was done.
"""

import asyncio
import sys

from saga.adapters.clocks import SystemClock
from saga.adapters.sqlite import LocalBus, SqliteDatabase, SqliteEventStore
from saga.core.identity import saga_id
from saga.ports.bus import Record, Source
from saga.testing import samples


async def publish(bus: LocalBus, name: str, count: str) -> None:
    """Publish *count* records, a few at a time."""
    for number in range(int(count)):
        value = f"{name} {number}".encode()
        await bus.publish([Record("t", b"%d" % (number % 7), value) for _ in range(3)])
    say("done")


async def append(bus: LocalBus, name: str) -> None:
    """Append to histories in turn, publishing two records with each batch."""
    store = SqliteEventStore(bus.database, publish_through=bus)
    for number in range(1_000_000):
        saga = saga_id(name, str(number // 3))
        turns, version = number % 3, number % 3 * 2
        batch = samples.batch(
            samples.history(saga, turns),
            positions={Source(name, 0): number},
            summaries=[samples.summary(saga, version=version + 2)],
            timers_armed=[samples.timer(saga, f"t{version}", 1)],
            outgoing=[Record("t", b"k", f"{saga} {version + n}".encode()) for n in (1, 2)],
        )
        await store.append(batch, at=samples.MOMENT)
        say(number)


async def read(bus: LocalBus, group: str) -> None:
    """Read and commit."""
    consumer = await bus.subscribe(group, ["t"])
    shares: frozenset[Source] = frozenset()
    while True:
        records = await consumer.fetch(records_max=50, timeout_s=0.05)
        await consumer.commit({Source("t", each.partition): each.offset + 1 for each in records})
        for each in records:
            say("read", each.partition, each.offset)
        if shares != consumer.assignment():
            shares = consumer.assignment()
            say("reads", *sorted(source.partition for source in shares))


def say(*words: object) -> None:
    """Tell the test."""
    print(*words, flush=True)


async def main(path: str, mode: str, *arguments: str) -> None:
    """Open the file, do what is asked, close it."""
    database = SqliteDatabase(path)
    bus = LocalBus(database, clock=SystemClock())
    say("ready")
    await {"publish": publish, "append": append, "read": read}[mode](bus, *arguments)
    await bus.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
