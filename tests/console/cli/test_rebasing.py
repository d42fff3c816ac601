"""A topic made anew or another bus stops loudly, on every store, until a person accepts it."""

import asyncio
import shlex
import sqlite3
from pathlib import Path

import pytest

from saga.adapters.kafka import KafkaBus, KafkaConnection
from tests.adapters.kafka.fixtures import administrator
from tests.console.conftest import call
from tests.console.toys import ORDER
from tests.patience import until

TOPIC = "dev.saga.cli-orders.evt.order-placed.v1"
BUS = Path(".saga/bus.db")


@pytest.fixture(params=["files", "postgres"])
def apart(toys, request, monkeypatch):
    """Bus and store apart, so that one can be lost without the other."""
    store = "sqlite:///.saga/store.db"
    if request.param == "postgres":
        store = request.getfixturevalue("postgres")
    monkeypatch.setenv("SAGA_BUS", f"local:///{BUS}")
    monkeypatch.setenv("SAGA_STORE", store)
    monkeypatch.setenv("SAGA_EFFECTS_STORE", "sqlite:///.saga/effects.db")
    monkeypatch.setenv("SAGA_PARTITIONS", "2")
    return toys


def lose_the_bus() -> None:
    for path in BUS.parent.glob("bus.db*"):
        path.unlink()


def place_orders(first: int, count: int) -> None:
    lines = "".join(
        f'{{"order_id": "o-{number}", "amount": 1}}\n' for number in range(first, first + count)
    )
    assert call("publish", ORDER, "-", stdin=lines).code == 0


def started() -> set[str]:
    return {row["key"] for row in call("ls", "--definition", "order", "--json").rows}


def stopped() -> list[dict]:
    called = call("doctor", "--json")
    found = [row for row in called.rows[:-1] if row["check"] == "positions"]
    assert called.code == 1 or not found
    return found


def test_a_bus_made_anew_that_has_grown_past_the_store_is_not_read_on(apart):
    """No acknowledged trigger is skipped: the doctor names each partition, and how to accept it."""
    place_orders(1, 4)
    assert call("run", "--until-idle").code == 0
    lose_the_bus()
    place_orders(5, 12)

    ended = call("run", "--until-idle", "--json").fails(1, "partitions are not read")
    found = stopped()

    assert started() == {"o-1", "o-2", "o-3", "o-4"}
    assert {row["where"] for row in found} >= {f"{TOPIC}[0,1]"}
    assert all("a file made anew" in row["what"] for row in found)
    assert any(f"{TOPIC}[0] is on the bus" in why for why in ended.row["left"]["not_read"])
    for row in found:
        command = row["advice"].partition("`")[2].partition("`")[0]
        assert call(*shlex.split(command)[1:]).code == 0
    assert stopped() == []
    assert call("run", "--until-idle").code == 0
    assert started() == {f"o-{number}" for number in range(1, 17)}
    rows = call("store", "rebases", "--json").rows
    assert {row["topic"] for row in rows} >= {TOPIC}
    assert {row["reason"] for row in rows} == {"I know why"}


def test_an_operator_may_leave_out_what_is_there(apart):
    """From the end, or from an offset that the topic has; of one contract, or one partition."""
    place_orders(1, 4)
    assert call("run", "--until-idle").code == 0
    lose_the_bus()
    place_orders(11, 20)
    assert call("run", "--until-idle").code == 1
    assert f"{TOPIC}[0,1]" in [row["where"] for row in stopped()]
    words = ("store", "rebase", ORDER, "--reason", "tried")

    call(*words, "--from", "99").fails(1, "has 0 to", "no 99")
    called = call(*words, "--from", "end", "--partition", 1, "--json")

    assert (called.row["topic"], called.row["partition"]) == (TOPIC, 1)
    assert f"{TOPIC}[0]" in [row["where"] for row in stopped()]
    call(*words, "--from", "end", "--partition", 1).fails(1, "nothing to accept")


def test_what_cannot_be_meant_is_refused(apart):
    place_orders(1, 1)
    assert call("run", "--until-idle").code == 0
    words = ("store", "rebase", ORDER)

    call(*words, "--from", "begin", "--reason", " ").fails(2, "--reason")
    call(*words, "--from", "begin").fails(2, "--reason")
    call(*words, "--from", "-1", "--reason", "r").fails(2, "--from")
    call("store", "rebase", "nowhere", "--from", "end", "--reason", "r").fails(1, "nowhere")
    call(*words, "--from", "begin", "--reason", "r").fails(1, "nothing to accept")
    assert call("store", "rebases", "--json").rows == []


def test_a_store_of_before_adopts_where_it_stands(toys, monkeypatch):
    """Its positions had no ids beside them; from the next start on they have."""
    monkeypatch.setenv("SAGA_BUS", f"local:///{BUS}")
    monkeypatch.setenv("SAGA_STORE", "sqlite:///.saga/store.db")
    monkeypatch.setenv("SAGA_PARTITIONS", "1")
    place_orders(1, 3)
    assert call("run", "--until-idle").code == 0
    with sqlite3.connect(".saga/store.db") as connection:
        connection.execute("DELETE FROM sources")
    connection.close()
    assert call("run", "--until-idle").code == 0
    lose_the_bus()
    place_orders(4, 9)

    assert call("run", "--until-idle").code == 1

    assert started() == {"o-1", "o-2", "o-3"}
    assert stopped()


def test_a_topic_of_kafka_is_accepted_as_it_is_now(toys, kafka, postgres, namespace, monkeypatch):
    """On servers; records that nobody has read are in it."""
    monkeypatch.setenv("SAGA_BUS", kafka.url)
    monkeypatch.setenv("SAGA_STORE", postgres)
    monkeypatch.setenv("SAGA_NAMESPACE", namespace)
    monkeypatch.setenv("SAGA_PARTITIONS", "1")
    monkeypatch.setenv("SAGA_HTTP", "off")
    topic = f"dev.{namespace}.{ORDER}"
    place_orders(1, 2)
    assert call("run", "--until-idle").code == 0
    asyncio.run(deleted(kafka.bootstrap, topic))
    place_orders(3, 5)
    assert call("run", "--until-idle").code == 1
    assert started() == {"o-1", "o-2"}
    assert [row["where"] for row in stopped()] == [f"{topic}[0]"]

    called = call("store", "rebase", topic, "--from", "begin", "--reason", "anew", "--json")

    assert (called.row["from"], called.row["to"]) == (2, 0)
    assert call("run", "--until-idle").code == 0
    assert started() == {f"o-{number}" for number in range(1, 8)}
    assert stopped() == []


async def deleted(bootstrap: str, topic: str) -> None:
    """Return when no broker has it any more."""
    bus = KafkaBus(KafkaConnection(servers=(bootstrap,)))
    async with administrator(bootstrap) as admin:
        await admin.delete_topics([topic])
    await until(lambda: is_gone(bus, topic))
    await bus.close()


async def is_gone(bus: KafkaBus, topic: str) -> bool:
    return not await bus.origins([topic])
