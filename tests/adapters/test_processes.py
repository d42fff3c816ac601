"""Several processes on one file, and processes that are killed."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from saga.adapters.clocks import SystemClock
from saga.adapters.sqlite import (
    LocalBus,
    SqliteCatalogue,
    SqliteDatabase,
    SqliteEventStore,
    groups,
)
from saga.core.identity import saga_id
from saga.ports.bus import Record, Source, TopicSpec
from tests.adapters.processes import kill, line, worker
from tests.patience import HANG_S


@pytest.fixture
async def bus(database: SqliteDatabase):
    """A bus that shares its file with other processes."""
    bus = LocalBus(database, clock=SystemClock())
    await bus.create_topics([TopicSpec("t", 3)])
    yield bus
    await bus.close()


async def test_publishers_of_several_processes_share_offsets_without_gaps(
    bus: LocalBus, path: Path
) -> None:
    """Offsets are unique and consecutive, and each publisher's records keep their order."""
    consumer = await bus.subscribe("g", ["t"])
    async with worker(path, "publish", "a", "60") as one, worker(path, "publish", "b", "60") as two:
        for number in range(60):
            await bus.publish([Record("t", b"%d" % (number % 7), b"c %d" % number)] * 3)
        assert [await line(one), await line(two)] == ["done", "done"]

    found = []
    while len(found) < 3 * 3 * 60:
        records = await consumer.fetch(records_max=1000, timeout_s=HANG_S)
        assert records, f"only {len(found)} arrived"
        found += records
    for partition in range(3):
        here = [each for each in found if each.partition == partition]
        assert [each.offset for each in here] == list(range(len(here)))
        for name in "abc":
            numbers = [
                int(each.value.split()[1]) for each in here if each.value[:1] == name.encode()
            ]
            assert numbers == sorted(numbers)


async def test_records_of_another_process_arrive_soon(bus: LocalBus, path: Path) -> None:
    """They are found by asking the file, without waiting for a fetch to time out."""
    consumer = await bus.subscribe("g", ["t"])
    await consumer.fetch(records_max=1, timeout_s=0)
    waiting = asyncio.create_task(consumer.fetch(records_max=100, timeout_s=2 * HANG_S))

    async with worker(path, "publish", "a", "1"), asyncio.timeout(HANG_S):
        assert await waiting


async def test_members_in_several_processes_share_partitions(
    bus: LocalBus, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that joins gets its share, and gives it back at once when its process is killed."""
    monkeypatch.setattr(groups, "HEARTBEAT_EXPIRY_S", 10 * HANG_S)  # that is not waited for
    consumer = await bus.subscribe("g", ["t"])
    await consumer.fetch(records_max=1, timeout_s=0)
    assert len(consumer.assignment()) == 3
    async with worker(path, "read", "g") as other:
        assert await line(other) == "reads 2"
        assert consumer.assignment() == {Source("t", 0), Source("t", 1)}
        await bus.publish([Record("t", None, b"", (), 2)] * 2)
        assert [await line(other), await line(other)] == ["read 2 0", "read 2 1"]
        await kill(other)

        async with asyncio.timeout(HANG_S):
            while len(consumer.assignment()) < 3:
                await consumer.fetch(records_max=1, timeout_s=0.01)


async def test_a_killed_writer_leaves_whole_batches(bus: LocalBus, path: Path) -> None:
    """Whatever was told to be recorded is, and nothing is there by half."""
    for kills in range(3):
        async with worker(path, "append", f"w{kills}") as process:
            for _ in range(20 + 7 * kills):
                told = await line(process)
            told = ([told, *await kill(process)])[-1]

        await _check(bus, f"w{kills}", told=int(told))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_process_may_have_any_bytes_in_its_name():
    """Linux cuts names after 15 bytes, in the middle of a character where there is one."""
    names_itself = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'\\xff) Z \\xc3', 0, 0, 0)"
    says_so = "print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", f"{names_itself}; {says_so}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        started = groups.start_of(process.pid)

    assert started.isdecimal()


async def _check(bus: LocalBus, name: str, *, told: int) -> None:
    store, catalogue = SqliteEventStore(bus.database), SqliteCatalogue(bus.database)
    positions = await store.positions([Source(name, 0)])
    batches = positions[Source(name, 0)] + 1
    assert batches in {told + 1, told + 2}  # one may have been committed but not told
    sagas = [saga_id(name, str(number)) for number in range(-(-batches // 3))]
    versions = [6] * (batches // 3) + [batches % 3 * 2] * (batches % 3 > 0)
    histories = await store.load(sagas)
    assert [len(histories[saga]) for saga in sagas] == versions
    assert [row.version for row in await catalogue.summaries(sagas)] == versions
    timers = [timer for timer in await catalogue.timers(limit=10_000) if timer.saga_id in histories]
    assert len(timers) == batches
    reader = await bus.subscribe(f"check {name}", ["t"])
    published = []
    while records := await reader.fetch(records_max=1000, timeout_s=0.1):
        published += [each.value.decode().split() for each in records]
    assert [int(version) for saga, version in published if saga in histories] == [
        version for count in versions for version in range(1, count + 1)
    ]
    await reader.close()
