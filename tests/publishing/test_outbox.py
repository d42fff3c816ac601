"""The outbox: what a transaction adds is published if it commits, in order, once under one id."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import AsyncConnection

from saga import Outbox
from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.adapters.postgres import Address
from saga.adapters.postgres.outbox import OUTBOX_TABLE, OutboxSession
from saga.errors import MalformedMessage, SettingsError, StoreUnavailable
from saga.ports import TopicSpec
from saga.publishing import OutboxRelay, Publisher
from tests.console.conftest import call, kept
from tests.patience import HANG_S, until
from tests.publishing.events import OPENED, SOLD, CupSold, ShopOpened
from tests.publishing.reading import header, records_on

ROOT = Path(__file__).parents[2]
TOPIC = f"dev.saga.{SOLD}"


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """A command sets up its process; here that process has other tests to run."""
    with kept():
        yield


@pytest.fixture(scope="module")
def own_database(postgres_server) -> Iterator[str]:
    """A database for this file, with an outbox made by the statement that is printed."""
    name = f"t_{secrets.token_hex(6)}"
    address = urlunsplit(urlsplit(postgres_server)._replace(path=f"/{name}"))
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    with psycopg.connect(address) as connection:
        connection.execute(OUTBOX_TABLE)
        connection.execute("CREATE TABLE cups (cup text PRIMARY KEY, sold integer NOT NULL)")
    yield address
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(own_database) -> str:
    """A program's database with nothing in its tables."""
    with psycopg.connect(own_database) as connection:
        connection.execute("TRUNCATE saga_outbox, cups")
    return own_database


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(source="/shop")


async def relay(database: str, **settings) -> OutboxRelay:
    made = OutboxRelay(outbox=database, **settings)
    async with asyncio.timeout(HANG_S):
        await made.run(until_empty=True)
    return made


def waiting(database: str) -> int:
    with psycopg.connect(database) as connection:
        return connection.execute("SELECT count(*) FROM saga_outbox").fetchone()[0]


def sell(database: str, outbox: Outbox, cup: str, times: int) -> None:
    """Sells a cup so many times, each in a transaction that holds the cup's row."""
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO cups VALUES (%s, 0) ON CONFLICT DO NOTHING", (cup,))
        connection.commit()
        for _ in range(times):
            [sold] = connection.execute(
                "UPDATE cups SET sold = sold + 1 WHERE cup = %s RETURNING sold", (cup,)
            ).fetchone()
            outbox.add(connection, CupSold(cup=cup, cents=sold))
            connection.commit()


async def test_what_commits_is_published_and_what_rolls_back_is_not(database, bus, outbox):
    with psycopg.connect(database) as connection:
        outbox.add(connection, CupSold(cup="lost", cents=1))
        connection.rollback()
        with connection.transaction():
            message_id = outbox.add(
                connection, CupSold(cup="c", cents=2), causation_id="delivery", key="c"
            )

    relayed = await relay(database, bus=bus)

    [record] = await records_on(TOPIC, 1, bus=bus)
    assert (record.key, json.loads(record.value)) == (b"c", {"cup": "c", "cents": 2})
    assert header(record, "ce_id") == message_id
    assert header(record, "ce_source") == "/shop"
    assert header(record, "ce_causationid") == "delivery"
    assert (waiting(database), relayed.counts["published"]) == (0, 1)


async def test_an_async_connection_takes_events_too(database, bus, outbox):
    async with await AsyncConnection.connect(database) as connection:
        await outbox.add_async(connection, CupSold(cup="c", cents=1))
        async with connection.cursor() as cursor:
            await outbox.add_async(cursor, CupSold(cup="c", cents=2))

    await relay(database, bus=bus)

    records = await records_on(TOPIC, 2, bus=bus)
    assert [json.loads(record.value)["cents"] for record in records] == [1, 2]


async def test_without_a_transaction_nothing_is_added(database, outbox):
    """The event would be there although what it tells of may fail."""
    event = CupSold(cup="c", cents=1)
    with psycopg.connect(database, autocommit=True) as connection:
        with pytest.raises(RuntimeError, match="inside a transaction"):
            outbox.add(connection, event)
        with pytest.raises(RuntimeError, match="inside a transaction"):
            outbox.add(connection.cursor(), event)
        with connection.transaction():
            outbox.add(connection.cursor(), event)
    async with await AsyncConnection.connect(database) as connection:
        with pytest.raises(RuntimeError, match="add_async"):
            outbox.add(connection, event)

    assert waiting(database) == 1


def test_a_message_id_waits_once(database, outbox):
    for _ in range(2):
        with psycopg.connect(database) as connection:
            outbox.add(connection, CupSold(cup="c", cents=1), message_id="sale-1")

    assert waiting(database) == 1


def test_what_readers_could_not_read_is_not_added(database, outbox):
    with psycopg.connect(database) as connection:
        with pytest.raises(MalformedMessage):
            outbox.add(connection, ShopOpened(by="ann"))
        outbox.add(connection, ShopOpened(by="ann"), key="shop")

    assert waiting(database) == 1


async def test_a_schema_of_ones_own_is_named(database):
    with psycopg.connect(database) as connection:
        connection.execute('CREATE SCHEMA "odd ""name"')
        connection.execute('ALTER TABLE saga_outbox SET SCHEMA "odd ""name"')
        Outbox(schema='odd "name').add(connection, CupSold(cup="c", cents=1))
        assert connection.execute('SELECT 1 FROM "odd ""name".saga_outbox').fetchall() == [(1,)]
        connection.rollback()


async def test_several_relays_keep_order_for_each_key_and_double_nothing(database, bus, outbox):
    relays = [OutboxRelay(outbox=database, bus=bus, poll="5ms") for _ in range(3)]
    running = [asyncio.create_task(one.run()) for one in relays]
    with ThreadPoolExecutor(6) as threads:
        loop = asyncio.get_running_loop()
        work = [
            loop.run_in_executor(threads, sell, database, outbox, f"c-{number % 3}", 40)
            for number in range(6)
        ]
        await asyncio.gather(*work)
    records = await records_on(TOPIC, 240, bus=bus)
    for one in relays:
        one.stop()
    await asyncio.gather(*running)

    assert len(records) == 240
    for cup in (b"c-0", b"c-1", b"c-2"):
        cents = [json.loads(record.value)["cents"] for record in records if record.key == cup]
        assert cents == list(range(1, 81))
    assert sorted(one.counts["published"] > 0 for one in relays) == [False, False, True]


async def test_a_relay_whose_session_ends_is_followed_by_another(database, bus, outbox):
    relays = [OutboxRelay(outbox=database, bus=bus, poll="5ms") for _ in range(2)]
    running = [asyncio.create_task(one.run()) for one in relays]
    sell(database, outbox, "c", 5)
    await records_on(TOPIC, 5, bus=bus)
    with psycopg.connect(database, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            "WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchall()
    assert ended == [(True,)]
    sell(database, outbox, "c", 5)
    records = await records_on(TOPIC, 10, bus=bus)
    for one in relays:
        one.stop()
    await asyncio.gather(*running)

    assert [json.loads(record.value)["cents"] for record in records] == list(range(1, 11))


async def test_a_relay_that_says_nothing_loses_its_lead(database, monkeypatch):
    """Frozen or cut off, it cannot let go by itself; what it wakes up to is an error."""
    monkeypatch.setattr("saga.adapters.postgres.outbox.LEAD_IDLE_S", 1)
    address = Address(database)
    frozen = await OutboxSession.open(address)
    assert await frozen.lead()
    monkeypatch.undo()
    other = await OutboxSession.open(address)

    await until(other.lead)

    with pytest.raises(StoreUnavailable):
        await frozen.waiting(limit=1, bytes_max=1)
    await frozen.close()
    await other.close()


async def test_a_relay_says_that_it_lives_however_long_it_publishes(
    database, bus, outbox, monkeypatch
):
    """A bus that is slow must not cost it its lead."""
    monkeypatch.setattr("saga.publishing.outbox.STAY_S", 0.01)
    told, publishing = Counter(), asyncio.Event()

    async def stay(self):
        told["stay"] += 1

    async def publish(self, written):
        await publishing.wait()

    monkeypatch.setattr(OutboxSession, "stay", stay)
    monkeypatch.setattr(Publisher, "send", publish)
    sell(database, outbox, "c", 1)
    relaying = OutboxRelay(outbox=database, bus=bus)
    running = asyncio.create_task(relaying.run(until_empty=True))

    await until(lambda: told["stay"] > 3)

    assert waiting(database) == 1
    publishing.set()
    await running
    assert waiting(database) == 0


@pytest.mark.slow
async def test_a_relay_that_is_frozen_is_followed_by_another(database, bus, outbox, tmp_path):
    """It stands still in the midst of its work; its machine answers for it all the same."""
    words = ["outbox", "relay", "--bus", bus]
    environment = {**os.environ, "SAGA_OUTBOX": database}
    sell(database, outbox, "c", 3)
    frozen = subprocess.Popen(  # noqa: ASYNC220  # nothing waits for it here
        [sys.executable, "-m", "saga", *words], env=environment, cwd=tmp_path
    )
    try:
        await until(lambda: waiting(database) == 0)
        os.kill(frozen.pid, signal.SIGSTOP)
        sell(database, outbox, "c", 3)

        await relay(database, bus=bus)

        assert waiting(database) == 0
    finally:
        frozen.kill()
        frozen.wait()


async def test_a_crash_between_publishing_and_removing_repeats_the_same_bytes(
    database, bus, outbox, monkeypatch
):
    sell(database, outbox, "c", 3)
    with monkeypatch.context() as patched:

        async def crash(self, outbox_ids):
            raise RuntimeError("killed")

        patched.setattr(OutboxSession, "remove", crash)
        with pytest.raises(RuntimeError, match="killed"):
            await relay(database, bus=bus)

    assert waiting(database) == 3
    await relay(database, bus=bus)

    records = await records_on(TOPIC, 6, bus=bus)
    first, again = records[:3], records[3:]
    assert [(one.value, one.headers) for one in first] == [
        (one.value, one.headers) for one in again
    ]
    assert waiting(database) == 0


async def test_a_topic_that_is_missing_holds_up_its_own_events_only(
    kafka, namespace, database, monkeypatch
):
    """They are published once somebody has made it."""
    monkeypatch.setattr("saga.publishing.outbox.MISSING_S", 0.3)
    outbox = Outbox(namespace=namespace)
    cluster = KafkaBus(KafkaConnection(servers=(kafka.bootstrap,)))
    sold, opened = f"dev.{namespace}.{SOLD}", f"dev.{namespace}.{OPENED}"
    await cluster.create_topics([TopicSpec(sold, 2)])
    with psycopg.connect(database) as connection:
        outbox.add(connection, ShopOpened(by="ann"), key="shop")
        outbox.add(connection, CupSold(cup="c", cents=1))
    relaying = OutboxRelay(outbox=database, bus=kafka.url, namespace=namespace)
    running = asyncio.create_task(relaying.run())
    settings = {"bus": kafka.url, "namespace": namespace}

    assert len(await records_on(sold, 1, **settings)) == 1
    assert waiting(database) == 1
    await cluster.create_topics([TopicSpec(opened, 2)])
    assert len(await records_on(opened, 1, **settings)) == 1
    relaying.stop()
    await running
    await cluster.close()
    assert waiting(database) == 0


@pytest.mark.parametrize(
    "headers", ["{{", "7", "[1]", '[["ce_id"]]', '[["ce_id", 5]]', '[[5, "x"]]', '{"utf-8": []}']
)
async def test_an_event_whose_row_is_damaged_is_set_aside(
    database, bus, outbox, monkeypatch, headers
):
    """It is named and kept; those before and behind it are published, and it once it is mended."""
    with psycopg.connect(database) as connection:
        ids = [outbox.add(connection, CupSold(cup="c", cents=cents)) for cents in (1, 2, 3)]
        [sound] = connection.execute(
            "SELECT headers FROM saga_outbox WHERE message_id = %s", [ids[1]]
        ).fetchone()
        change = "UPDATE saga_outbox SET headers = %s WHERE message_id = %s"
        connection.execute(change, [headers, ids[1]])

    relayed = await relay(database, bus=bus)

    records = await records_on(TOPIC, 2, bus=bus)
    assert [json.loads(record.value)["cents"] for record in records] == [1, 3]
    assert dict(relayed.counts) == {"published": 2, "refused": 1}
    monkeypatch.setenv("SAGA_OUTBOX", database)
    status = await asyncio.to_thread(call, "outbox", "status", "--json")
    assert status.code == 1
    [event] = status.row["refused_events"]
    assert "saga_outbox, row" in event["problem"]
    assert "headers cannot be read" in event["problem"]
    with psycopg.connect(database) as connection:
        connection.execute(change, [sound, ids[1]])
    await asyncio.to_thread(call, "outbox", "retry", "--json")
    assert dict((await relay(database, bus=bus)).counts) == {"published": 1}


async def test_what_the_bus_refuses_for_ever_is_set_aside(database, bus, outbox, monkeypatch):
    with psycopg.connect(database) as connection:
        outbox.add(connection, CupSold(cup="c", cents=1))
        large = outbox.add(connection, CupSold(cup="c", cents=2))
        outbox.add(connection, CupSold(cup="c", cents=3))
        connection.execute(
            "UPDATE saga_outbox SET value = %s WHERE message_id = %s", [b"x" * 3_000_000, large]
        )

    relayed = await relay(database, bus=bus)

    records = await records_on(TOPIC, 2, bus=bus)
    assert [json.loads(record.value)["cents"] for record in records] == [1, 3]
    assert dict(relayed.counts) == {"published": 2, "refused": 1}
    monkeypatch.setenv("SAGA_OUTBOX", database)
    status = await asyncio.to_thread(call, "outbox", "status", "--json")
    assert status.code == 1
    assert (status.row["waiting"], status.row["refused"]) == (0, 1)
    assert "exceeds" in status.row["refused_events"][0]["problem"]
    assert (await asyncio.to_thread(call, "outbox", "retry", "--json")).row == {"put_back": 1}
    assert (await asyncio.to_thread(call, "outbox", "status", "--json")).row["waiting"] == 1


def test_the_table_is_made_once_and_its_statement_can_be_had(postgres, tmp_path, monkeypatch):
    """By `saga outbox migrate`, which may be called again; the relay's command then works."""
    monkeypatch.chdir(tmp_path)
    assert call("outbox", "migrate", "--sql").out == f"{OUTBOX_TABLE};\n"
    refused = call("outbox", "status")
    assert (refused.code, "SAGA_OUTBOX" in refused.err) == (2, True)
    monkeypatch.setenv("SAGA_OUTBOX", postgres)
    assert call("outbox", "status").code == 3

    assert call("outbox", "migrate", "--json").row == {"component": "outbox", "before": 0, "now": 1}
    assert call("outbox", "migrate", "--json").row["before"] == 1
    with psycopg.connect(postgres) as connection:
        Outbox().add(connection, CupSold(cup="c", cents=1))
    assert call("outbox", "status", "--json").row["waiting"] == 1
    relayed = call("outbox", "relay", "--until-empty", "--json")
    assert (relayed.code, relayed.row) == (0, {"published": 1, "refused": 0})


async def test_a_database_that_is_away_is_waited_for(bus, monkeypatch):
    """Until somebody stops the relay."""
    relaying = OutboxRelay(outbox="postgresql://nobody@127.0.0.1:9/none", bus=bus)
    tries = []
    opened = OutboxSession.open

    async def opening(address):
        tries.append(address)
        if len(tries) == 3:
            relaying.stop()
        return await opened(address)

    monkeypatch.setattr(OutboxSession, "open", opening)
    await asyncio.wait_for(relaying.run(), HANG_S)

    assert len(tries) == 3


def test_without_an_address_there_is_no_relay():
    with pytest.raises(SettingsError, match="SAGA_OUTBOX"):
        OutboxRelay()
    with pytest.raises(SettingsError, match="SAGA_OUTBOX"):
        OutboxRelay(outbox="sqlite:///x.db")


@pytest.mark.slow
async def test_killed_relays_lose_nothing_and_keep_order(database, bus, outbox):
    """Each key's events first appear in their order, whatever was repeated."""
    command = [sys.executable, "-m", "saga", "outbox", "relay"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SAGA_OUTBOX": database,
        "SAGA_BUS": bus,
        "SAGA_LOG": "error",
    }
    selling = threading.Thread(target=sell, args=(database, outbox, "c", 400))
    selling.start()
    for _ in range(2):
        process = subprocess.Popen(command, env=environment)  # noqa: ASYNC220  # short, and watched
        before = waiting(database)
        async with asyncio.timeout(HANG_S):
            while waiting(database) >= before > 0 and selling.is_alive():
                before = waiting(database)
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    await asyncio.to_thread(selling.join)
    await relay(database, bus=bus)

    records = await records_on(TOPIC, 400, bus=bus)
    cents = [json.loads(record.value)["cents"] for record in records]
    assert list(dict.fromkeys(cents)) == list(range(1, 401))
    by_id = {}
    for record in records:
        assert by_id.setdefault(header(record, "ce_id"), record.value) == record.value
    assert len(by_id) == 400


async def test_a_relay_without_an_outbox_says_how_to_make_one(postgres, bus):
    """To wait for it would be in vain."""
    with pytest.raises(StoreUnavailable, match="saga outbox migrate"):
        await relay(postgres, bus=bus)


def test_an_outbox_that_is_not_there_is_named_with_its_remedy(postgres, monkeypatch):
    monkeypatch.setenv("SAGA_OUTBOX", postgres)

    call("outbox", "status").fails(3, "saga outbox migrate")
    call("outbox", "relay").fails(3, "saga outbox migrate")
