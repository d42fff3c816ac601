"""Sagas that several workers start at once, from several topics: each begins once."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from saga.adapters.postgres import Address, PostgresDatabase, PostgresEventStore
from saga.errors import HistoryConflict
from saga.ports.bus import Source
from saga.testing import samples
from saga.testing.samples import MOMENT, saga
from tests.adapters.postgres.starter import start_all
from tests.proxy import Cut, Proxy, through

ROOT = Path(__file__).parents[3]
KEYS = 60
TOPICS = ("left", "right")
BATCHES_OF_A_LIFE = 5
ANSWER_TIMEOUT_S = 60


async def check(url: str, store: PostgresEventStore) -> None:
    """Each saga has one history with one beginning, and nothing else is there."""
    histories = await store.load([saga(number) for number in range(KEYS)])
    assert len(histories) == KEYS
    for history in histories.values():
        assert not isinstance(history, Exception)
        assert len(history) == 2
        assert {entry.cause for entry in history} < {*TOPICS}
    sources = [Source(topic, 0) for topic in TOPICS]
    assert await store.positions(sources) == dict.fromkeys(sources, KEYS - 1)
    with psycopg.connect(url) as connection:
        counted = connection.execute(
            "SELECT (SELECT count(*) FROM stored_events), (SELECT count(*) FROM saga_index), "
            "(SELECT count(*) FROM saga_ids NATURAL JOIN saga_index NATURAL JOIN stored_events)"
        ).fetchone()
    assert counted == (KEYS, KEYS, KEYS)


async def test_processes_that_are_killed_start_each_saga_once(
    postgres: str, store: PostgresEventStore
) -> None:
    """Two processes, each on its own topic, killed again and again at whichever moment it is."""

    async def live(topic: str) -> int:
        for lives in range(1, 10 * KEYS):
            process = await _started(postgres, topic)
            told = await _batches(process, BATCHES_OF_A_LIFE)
            if told == KEYS:
                assert await process.wait() == 0
                return lives
            process.kill()
            await process.wait()
        raise AssertionError("they get nowhere")

    lives = await asyncio.gather(*map(live, TOPICS))

    assert min(lives) > 1
    await check(postgres, store)


@pytest.mark.parametrize(
    "cuts", [(Cut.AFTER,), (Cut.BEFORE,), (Cut.AFTER, Cut.BEFORE, None)], ids=str
)
async def test_lost_answers_start_no_saga_twice(
    postgres: str, store: PostgresEventStore, cuts: tuple[Cut | None, ...]
) -> None:
    """Two workers whose connections are cut at commits: they know which beginnings are theirs."""
    parts = urlsplit(postgres)

    async def work(topic: str) -> int:
        with Proxy(parts.hostname or "", parts.port or 5432) as proxy:
            database = PostgresDatabase(Address(through(postgres, proxy.port)))
            own = await asyncio.to_thread(PostgresEventStore, database)
            coming = cycle([*cuts, None])
            proxy.at_commit = lambda: next(coming)
            await start_all(own, topic, KEYS)
            await database.close()
            return proxy.cuts

    counts = await asyncio.gather(*map(work, TOPICS))

    assert min(counts) > 0
    await check(postgres, store)


async def test_a_second_saga_of_an_id_is_a_conflict_that_names_it(
    postgres: str, store: PostgresEventStore
) -> None:
    """Its originator id would be another one: it is the saga's own id that is refused."""
    await store.append(samples.batch(samples.history(saga(1), cause="left")), at=MOMENT)
    database = PostgresDatabase(Address(postgres))
    other = PostgresEventStore(database)
    batch = samples.batch(samples.history(saga(2)), samples.history(saga(1), cause="right"))

    with pytest.raises(HistoryConflict) as conflict:
        await other.append(batch, at=MOMENT)

    assert conflict.value.saga_ids == (saga(1),)
    assert list(await other.load([saga(1), saga(2)])) == [saga(1)]
    await database.close()


async def _started(url: str, topic: str) -> Process:
    module = "tests.adapters.postgres.starter"
    command = (sys.executable, "-m", module, url, topic, str(KEYS))
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)


async def _batches(process: Process, count: int) -> int:
    """The last key that *process* has told, after *count* batches or all of them."""
    assert process.stdout is not None
    told = 0
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        while count and (line := await process.stdout.readline()):
            told, count = int(line), count - 1
    return told
