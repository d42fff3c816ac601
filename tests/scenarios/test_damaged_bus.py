"""Rows of a local bus that say what no row should: each is named, and all others are served."""

import sqlite3

import pytest

from saga import Context, EffectContext, Effects, Event, Intent, Publisher, SagaApp, saga
from saga.adapters.opening import open_store
from saga.core.identity import saga_id
from saga.settings import Settings
from tests.patience import HANG_S, until


class Wanted(Event, topic="damaged.wanted", version=1, key="name"):
    name: str


class Given(Event, topic="damaged.given", version=1):
    name: str


class Fetch(Intent[None], topic="damaged.fetch", version=1):
    name: str


@saga("fetching", version=1, starts_on=Wanted)
async def fetching(ctx: Context, wanted: Wanted) -> Given:
    await ctx.do(Fetch(name=wanted.name))
    return Given(name=wanted.name)


FETCHER = Effects("fetcher")


@FETCHER.on(Fetch)
async def fetch(intent: Fetch, ctx: EffectContext) -> None: ...


APP = SagaApp(sagas=[fetching], effects=[FETCHER])
ASKING = "dev.saga.damaged.evt.wanted.v1"
DOING = "dev.saga.damaged.int.fetch.v1"
HUGE = 10**18


class File:
    """Bus, store and inbox in one file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.settings = {"bus": f"local:///{path}", "store": f"sqlite:///{path}", "partitions": 1}

    def damage(self, sql: str) -> int:
        with sqlite3.connect(self._path) as connection:
            touched = connection.execute(sql).rowcount
        connection.close()
        return touched

    def newest_batches(self, topic: str) -> list[int]:
        """Their positions; the last one is the first."""
        with sqlite3.connect(self._path) as connection:
            rows = connection.execute(
                "SELECT position FROM bus_batches WHERE place >> 50 = "
                "(SELECT topic_id FROM bus_topics WHERE name = ?) ORDER BY position DESC",
                (topic,),
            ).fetchall()
        connection.close()
        return [position for (position,) in rows]

    async def dead_letters(self) -> list[bytes]:
        store = open_store(Settings.read({}, **self.settings))
        kept = await store.catalogue.unhandled(values=True)
        await store.close()
        return [each.value for each in kept]


@pytest.fixture
def file(tmp_path):
    return File(f"{tmp_path}/a.db")


async def begun(file, *names: str) -> None:
    """The topics are there, and these events wait in them; each is a batch."""
    async with APP.service(**file.settings) as service:
        await service.publish(Wanted(name="first"))
        await service.idle(timeout=HANG_S)
    async with Publisher(**file.settings) as publisher:
        for name in names:
            await publisher.publish(Wanted(name=name))


async def serves(service, name: str) -> None:
    outcome = await service.outcome(saga_id("fetching", name), timeout=HANG_S)
    assert outcome.status.value == "completed"


async def serves_new(service, name: str) -> None:
    await service.publish(Wanted(name=name))
    await serves(service, name)


BATCH = [
    "content = x''",
    "content = x'ffffffffffffffff'",
    "content = 'text'",
    "content = substr(content, 1, length(content) - 3)",
    "content = CAST(content || x'00' AS BLOB)",
    "records = 'x'",
    "records = -1",
    "timestamp = 'noon'",
]


@pytest.mark.parametrize("change", BATCH)
@pytest.mark.parametrize("is_last", [False, True])
async def test_a_damaged_batch_becomes_dead_letters(file, caplog, change, is_last):
    """Whoever reads its topic goes on behind it."""
    await begun(file, *(("good", "bad") if is_last else ("bad", "good")))
    position = file.newest_batches(ASKING)[0 if is_last else 1]
    assert file.damage(f"UPDATE bus_batches SET {change} WHERE position = {position}") == 1
    async with APP.service(**file.settings) as service:
        await serves(service, "good")
        await serves_new(service, "new")
        await serves_new(service, "other")
        await service.idle(timeout=HANG_S)

    assert f"bus_batches, row {position}" in caplog.text
    letters = await file.dead_letters()
    assert letters
    assert all(f"bus_batches, row {position}:".encode() in each for each in letters)


@pytest.mark.parametrize("is_last", [False, True])
async def test_a_batch_that_says_it_has_more_records_than_it_has(file, is_last):
    """It has as many as its content says: of both numbers one is wrong."""
    await begun(file, *(("good", "bad") if is_last else ("bad", "good")))
    position = file.newest_batches(ASKING)[0 if is_last else 1]
    assert file.damage(f"UPDATE bus_batches SET records = 100 WHERE position = {position}") == 1
    async with APP.service(**file.settings) as service:
        await serves(service, "good")
        await serves_new(service, "new")
        await serves_new(service, "other")
    assert await file.dead_letters()


async def test_a_damaged_batch_that_an_effect_service_reads(file):
    """The sagas whose intents it holds wait; all others are served, and a dead letter says why."""
    await begun(file)
    settings = Settings.read({}, **file.settings)
    async with APP.build_service(settings, roles=["orchestrator"]) as service:
        for number, name in enumerate(("bad", "good"), 2):
            await service.publish(Wanted(name=name))
            await until(lambda number=number: len(file.newest_batches(DOING)) == number)
    position = file.newest_batches(DOING)[1]
    file.damage(f"UPDATE bus_batches SET content = x'01' WHERE position = {position}")
    async with APP.service(**file.settings) as service:
        await serves(service, "good")
        await serves_new(service, "new")
    assert file.newest_batches("dev.saga.damaged.dlq.fetch.v1")


@pytest.mark.parametrize("value", ["'x'", "0", str(HUGE)])
@pytest.mark.parametrize("is_running", [False, True])
async def test_a_damaged_number_of_partitions(file, caplog, value, is_running):
    """Their rows are counted instead."""
    damage = f"UPDATE bus_topics SET partitions = {value} WHERE name = '{ASKING}'"
    await begun(file, "good")
    if not is_running:
        assert file.damage(damage) == 1
    async with APP.service(**file.settings) as service:
        await serves(service, "good")
        if is_running:
            assert file.damage(damage) == 1
        await serves_new(service, "new")
        async with APP.service(**file.settings) as another:
            await serves_new(another, "other")
    assert "bus_topics, row" in caplog.text


@pytest.mark.parametrize("value", ["'x'", "-1"])
async def test_a_damaged_retention_keeps_all(file, caplog, value):
    await begun(file, "good")
    assert file.damage(f"UPDATE bus_topics SET retention_s = {value} WHERE name = '{ASKING}'") == 1
    assert file.damage("UPDATE bus_batches SET timestamp = 'old' WHERE position = 1") == 1
    async with APP.service(**file.settings) as service:
        await serves(service, "good")
        await serves_new(service, "new")
    assert "retention_s" in caplog.text


MEMBER = [
    "topics = '{{'",
    "topics = '[1]'",
    "process = 'nobody'",
    "process = 'x 1 2'",
    "heartbeat_at = 'now'",
    "generation = 'x'",
    "group_name = x'ff'",
    "group_name = 'nowhere'",
]


@pytest.mark.parametrize("change", MEMBER)
async def test_a_damaged_member_is_removed_and_joins_anew(file, caplog, change):
    await begun(file)
    async with APP.service(**file.settings) as service:
        await serves_new(service, "before")
        assert file.damage(f"UPDATE bus_members SET {change}") > 0
        await serves_new(service, "new")
        await serves_new(service, "other")
        await service.idle(timeout=HANG_S)


@pytest.mark.parametrize("change", MEMBER[::4])
async def test_a_damaged_member_of_a_process_that_is_gone(file, change):
    await begun(file, "good")
    file.damage(
        "INSERT INTO bus_members (group_name, topics, process, heartbeat_at, generation) "
        f"SELECT group_name, '[\"{ASKING}\", \"{DOING}\"]', '1 2 3', 0, 1 FROM bus_groups"
    )
    assert file.damage(f"UPDATE bus_members SET {change}") > 0
    async with APP.service(**file.settings) as service:
        await serves(service, "good")
        await serves_new(service, "new")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE bus_groups SET generation = 'x'",
        "UPDATE bus_offsets SET next_offset = 'x'",
        "UPDATE bus_offsets SET next_offset = -7",
        "UPDATE bus_offsets SET source_id = 999999999 + source_id",
        "UPDATE bus_partitions SET begin_offset = 'x'",
        "UPDATE bus_partitions SET begin_offset = -1",
        "DELETE FROM bus_partitions",
        "DELETE FROM bus_groups",
        "DELETE FROM bus_members",
    ],
)
@pytest.mark.parametrize("is_running", [False, True])
async def test_damaged_rows_of_groups_and_partitions(file, damage, is_running):
    await begun(file, "good")
    if not is_running:
        file.damage(damage)
    async with APP.service(**file.settings) as service:
        await serves(service, "good")
        if is_running:
            file.damage(damage)
        await serves_new(service, "new")
        await serves_new(service, "other")
