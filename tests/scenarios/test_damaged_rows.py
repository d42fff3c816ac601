"""Rows that say what no row should: each is named and set aside, and all others are served."""

import sqlite3

import psycopg
import pytest

from saga import Context, Event, SagaApp, saga
from saga.adapters.opening import open_store
from saga.core.identity import saga_id
from saga.errors import CorruptHistory
from saga.settings import Settings
from tests.patience import HANG_S


class Asked(Event, topic="rows.asked", version=1, key="name"):
    name: str


class Told(Event, topic="rows.told", version=1):
    name: str


@saga("row", version=1, starts_on=Asked)
async def row(ctx: Context, asked: Asked) -> Told:
    await ctx.wait("go", str, timeout="1d")
    return Told(name=asked.name)


APP = SagaApp(sagas=[row])
GOOD, BAD = saga_id("row", "good"), saga_id("row", "bad")
FAR = 10**18


class Files:
    """Bus and store in one file."""

    def __init__(self, path: str) -> None:
        self.settings = {"bus": f"local:///{path}", "store": f"sqlite:///{path}"}
        self._path = path

    def damage(self, sql: str) -> int:
        with sqlite3.connect(self._path) as connection:
            touched = connection.execute(sql).rowcount
        connection.close()
        return touched


class Server:
    """The store in PostgreSQL."""

    def __init__(self, url: str, path: str) -> None:
        self.settings = {"bus": f"local:///{path}", "store": url}
        self._url = url

    def damage(self, sql: str) -> int:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return connection.execute(sql).rowcount


@pytest.fixture
def files(tmp_path):
    return Files(f"{tmp_path}/a.db")


@pytest.fixture
def server(postgres, tmp_path):
    return Server(postgres, f"{tmp_path}/bus.db")


def opened(place):
    return open_store(Settings.read({}, **place.settings))


async def start(place, *names: str) -> None:
    async with APP.service(**place.settings) as service:
        for name in names:
            await service.publish(Asked(name=name))
        await service.idle(timeout=HANG_S)


async def serves_the_others(place, other: str = "good") -> None:
    """A worker starts and serves: an old saga is completed, and a new one begins."""
    async with APP.service(**place.settings) as service:
        await service.signal(saga_id("row", other), "go", "now")
        outcome = await service.outcome(saga_id("row", other), timeout=HANG_S)
        assert outcome.status.value == "completed", outcome
        await service.publish(Asked(name="new"))
        await service.idle(timeout=HANG_S)
    store = opened(place)
    listed = await store.catalogue.sagas(limit=1)  # pages of one: none ends at a damaged row
    found = [each.key for each in listed]
    while listed:
        listed = await store.catalogue.sagas(limit=1, after=listed[-1].saga_id)
        found += [each.key for each in listed]
    assert {other, "new"} <= set(found)
    await store.close()


async def names_it(place, table: str) -> None:
    store = opened(place)
    damaged = await store.catalogue.damaged()
    await store.close()
    assert [each for each in damaged if each.startswith(table)], damaged


IN_FILES = [
    f"UPDATE saga_index SET {change} WHERE key = 'bad'"
    for change in (
        "definition = x'00ff'",
        "definition_version = 'one'",
        "status = 'dancing'",
        "status = 7",
        "started_at = 'yesterday'",
        "updated_at = 1e300",
        f"started_at = {FAR}",
        "updated_at = -5",
        "reason = x'ff'",
        "version = 'last'",
        "saga_id = x'01'",
        "saga_id = 'nobody'",
    )
] + [
    f"UPDATE timers SET {change} WHERE saga = (SELECT number FROM saga_index WHERE key = 'bad')"
    for change in ("name = x'ff'", "due_at = 'noon'", "due_at = -9", "saga = 99")
]


@pytest.mark.parametrize("damage", IN_FILES)
async def test_a_damaged_row_in_a_file_stops_nobody_else(files, damage):
    await start(files, "good", "bad")
    assert files.damage(damage) > 0

    await serves_the_others(files)
    await names_it(files, "timers" if "timers" in damage else "saga_index")


ON_SERVERS = [
    f"UPDATE saga_index SET {change} WHERE key = 'bad'"
    for change in ("status = 'dancing'", f"started_at = {FAR}", "updated_at = -5", "version = -1")
] + [
    (
        f"UPDATE timers SET due_at = {FAR} WHERE originator_id = "
        "(SELECT originator_id FROM saga_index WHERE key = 'bad')"
    )
]


@pytest.mark.parametrize("damage", ON_SERVERS)
async def test_a_damaged_row_on_a_server_stops_nobody_else(server, damage):
    await start(server, "good", "bad")
    assert server.damage(damage) > 0

    await serves_the_others(server)
    await names_it(server, "timers" if "timers" in damage else "saga_index")


UNHANDLED = [
    ("kind = 'lost'", True),
    ("headers = '[[1, 2]]'", True),
    ("headers = '{{'", False),
    (f"kept_at = {FAR}", True),
    ("timestamp = -1", True),
    ("message = x'ff'", False),
    ("saga_id = 'nobody'", False),
    ("\"offset\" = 'first'", False),
]


def damaging(change: str, *, on_server: bool) -> str:
    if on_server and "headers" in change:
        change = change.replace("'[[1, 2]]'", "'[[1, 2]]'::bytea")
    return (
        f"UPDATE unhandled SET {change} WHERE key = 'bad'"
        if not on_server
        else (f"UPDATE unhandled SET {change} WHERE key = 'bad'::bytea")
    )


async def two_deferred(place) -> None:
    """Two signals that wait for sagas that are not there yet."""
    async with APP.service(**place.settings, early_hold="1d") as service:
        for name in ("bad", "good"):
            said = {"name": "go", "payload": "now"}
            service.commands._new[saga_id("row", name)] = ("row", name)  # noqa: SLF001
            await service.command(saga_id("row", name), "signal", **said)
        await service.idle(timeout=HANG_S)


async def the_good_one_is_delivered(place) -> None:
    async with APP.service(**place.settings, early_hold="1d") as service:
        await service.publish(Asked(name="good"))
        outcome = await service.outcome(GOOD, timeout=HANG_S)
        assert outcome.status.value == "completed", outcome
    store = opened(place)
    rows = await store.catalogue.unhandled()
    assert all(each.key != b"bad" for each in rows)
    await store.close()
    await names_it(place, "unhandled")


@pytest.mark.parametrize(("change", "_"), UNHANDLED)
async def test_a_damaged_deferred_record_in_a_file(files, change, _):
    """The one behind it is delivered all the same."""
    await two_deferred(files)
    assert files.damage(f"UPDATE unhandled SET {change} WHERE key = x'626164'") == 1

    await the_good_one_is_delivered(files)


@pytest.mark.parametrize("change", [change for change, is_on_servers in UNHANDLED if is_on_servers])
async def test_a_damaged_deferred_record_on_a_server(server, change):
    await two_deferred(server)
    assert server.damage(damaging(change, on_server=True)) == 1

    await the_good_one_is_delivered(server)


TURNS = [
    'state = replace(CAST(state AS TEXT), \'"definition":"row"\', \'"definition":5\')',
    'state = replace(CAST(state AS TEXT), \'"key":"bad"\', \'"key":[1]\')',
    "state = replace(CAST(state AS TEXT), '\"at\":', '\"at\":9999')",
    'state = replace(CAST(state AS TEXT), \'"cause":"\', \'"cause":{},"was":"\')',
    "state = 17",
    "state = '[]'",
    "topic = 4",
    "originator_version = 'first'",
    "originator_id = x'00'",
]


OF_BAD = "originator_id = (SELECT printf('%032x', number) FROM saga_index WHERE key = 'bad')"


@pytest.mark.parametrize("change", TURNS)
async def test_a_damaged_turn_parks_its_saga_alone(files, change):
    """Its reason names the entry; it is never taken for a saga that is not there."""
    await start(files, "good", "bad")
    assert files.damage(f"UPDATE stored_events SET {change} WHERE {OF_BAD}") > 0
    async with APP.service(**files.settings) as service:
        await service.signal(BAD, "go", "now")
        await service.idle(timeout=HANG_S)

    await serves_the_others(files)
    store = opened(files)
    [summary] = await store.catalogue.summaries([BAD])
    assert summary.status.value == "parked"
    assert summary.reason
    [history] = (await store.store.load([BAD])).values()
    assert isinstance(history, CorruptHistory)
    await store.close()


@pytest.mark.parametrize("how", ["last", "all"])
@pytest.mark.parametrize("kind", ["files", pytest.param("server", marks=pytest.mark.connected)])
async def test_entries_that_are_gone_are_missed(request, kind, how):
    """The index knows how many there were."""
    place = request.getfixturevalue(kind)
    await start(place, "good", "bad")
    async with APP.service(**place.settings) as service:
        await service.signal(BAD, "other", "thing")
        await service.idle(timeout=HANG_S)
    of_bad = (
        OF_BAD
        if kind == "files"
        else "originator_id = (SELECT originator_id FROM saga_index WHERE key = 'bad')"
    )
    last = " AND originator_version = 2" if how == "last" else ""
    assert place.damage(f"DELETE FROM stored_events WHERE {of_bad}{last}") > 0

    store = opened(place)
    [history] = (await store.store.load([BAD])).values()
    await store.close()
    assert isinstance(history, CorruptHistory)
    assert "the index knows of" in str(history)
    async with APP.service(**place.settings) as service:
        await service.publish(Asked(name="bad"))  # is not begun again
        await service.idle(timeout=HANG_S)
    await serves_the_others(place)


async def test_a_position_that_cannot_be_read_stops_its_partition_alone(files):
    """An operator says where to go on; the others are read."""
    await start(files, "good", "bad")
    topic = "dev.saga.rows.evt.asked.v1"
    store = opened(files)
    from saga.ports import Source

    sources = [Source(topic, number) for number in range(4)]
    stored = await store.store.positions(sources)
    await store.close()
    broken = next(iter(stored))
    name = f"bus:{topic}:{broken.partition}"
    assert files.damage(
        f"UPDATE tracking SET notification_id = 'ten' WHERE application_name = '{name}'"
    )

    async with APP.service(**files.settings) as service:
        await service.signal(GOOD, "go", "now")
        assert (await service.outcome(GOOD, timeout=HANG_S)).status.value == "completed"
        orchestrator = next(iter(service._roles))  # noqa: SLF001
        [problem] = [each for each in orchestrator.problems() if "cannot be read" in each]
    assert f"{topic}[{broken.partition}]" in problem
    assert "saga store rebase" in problem
    await names_it(files, "tracking")


async def test_a_damaged_row_of_the_backlog_is_left_alone(files, tmp_path):
    """What cannot be told is not published; all else is."""
    apart = {"bus": f"local:///{tmp_path}/bus.db", "store": files.settings["store"]}
    files.settings = apart
    await start(files, "good")
    files.damage(
        "INSERT INTO backlog (first_position, last_position, appended_at) VALUES ('a', 'b', 'c')"
    )

    await serves_the_others(files)
    await names_it(files, "backlog")
