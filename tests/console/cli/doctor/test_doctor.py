"""`saga doctor` on files, on a real Kafka and on a real PostgreSQL."""

import asyncio
import re
import sqlite3

import psycopg
import pytest

import saga.console.cli.doctor.looking as look
from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.errors import BusUnavailable
from saga.ports import Record, Source, TopicSpec
from tests.console.conftest import call
from tests.console.toys import ORDER
from tests.patience import HANG_S

UNTIL_IDLE = ("run", "--until-idle")


def checks(called) -> list[tuple[str, str]]:
    *findings, summary = called.rows
    assert summary["errors"] == sum(finding["severity"] == "error" for finding in findings)
    assert summary["ok"] is (summary["errors"] == 0)
    return [(finding["check"], finding["severity"]) for finding in findings]


def test_a_healthy_deployment_has_no_findings(looking):
    called = call("doctor")

    assert (called.code, called.out) == (0, "all is well\n")


def test_where_nothing_has_run_nothing_is_reached(toys):
    called = call("doctor", "--json")

    assert (called.code, checks(called)) == (3, [("bus", "error"), ("store", "error")])
    assert not (toys / ".saga").exists()


def test_records_without_a_reader_are_found(toys):
    """Until a worker has read them."""
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}')
    called = call("doctor", "--json")
    assert (called.code, checks(called)) == (1, [("workers", "error")])
    assert called.rows[0]["where"] == "dev.saga.saga-orchestrator.order"
    assert "saga run" in called.rows[0]["advice"]

    assert call(*UNTIL_IDLE).code == 0
    assert call("doctor").code == 0


def test_long_histories_are_a_warning(toys, monkeypatch):
    monkeypatch.setattr(look, "LONG_HISTORY_ENTRIES", 2)
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}')
    call("publish", ORDER, '{"order_id": "o-2", "amount": 1}')
    assert call("run", "--roles", "orchestrator", "--until-idle").code == 0

    called = call("doctor", "--json")
    (found,) = (row for row in called.rows[:-1] if row["check"] == "histories")
    assert (found["where"], found["what"][:7]) == ("order version 1", "2 sagas")
    assert "ctx.continue_as_new" in found["advice"]


def test_a_dead_letter_is_a_warning(toys):
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}')
    with sqlite3.connect(".saga/saga.db") as connection:
        connection.create_function("spoilt", 1, lambda content: content.replace(b"{", b"-"))
        connection.execute("UPDATE bus_batches SET content = spoilt(content)")
    connection.close()
    assert call(*UNTIL_IDLE).code == 0

    called = call("doctor", "--json")
    assert (called.code, checks(called)) == (0, [("dlq", "warning")])


def test_a_saga_whose_version_is_gone_is_found(toys):
    call("publish", "staff.evt.leave-asked.v1", '{"name": "ann"}')
    assert call(*UNTIL_IDLE).code == 0
    text = (toys / "toys.py").read_text()
    (toys / "toys.py").write_text(
        text.replace('@saga("leave", version=1', '@saga("leave", version=2')
    )

    called = call("doctor", "--json")
    assert (called.code, checks(called)) == (1, [("versions", "error")])
    assert called.rows[0]["where"] == "leave version 1"


def test_an_application_that_cannot_be_loaded_does_not_hide_the_rest(looking, monkeypatch):
    monkeypatch.setenv("SAGA_APP", "nowhere:app")
    called = call("doctor", "--json")

    assert (called.code, checks(called)) == (1, [("application", "error")])


def test_a_damaged_store_is_not_reached(toys):
    """With what is wrong with the file."""
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}')
    (toys / "other.db").write_text("no database, however long this text may be. " * 100)
    called = call("doctor", "--json", "--store", "sqlite:///other.db")

    assert called.code == 3
    assert ("store", "error") in checks(called)


def test_a_kafka_that_is_away_is_not_reached(toys):
    called = call("doctor", "--json", "--bus", "kafka://127.0.0.1:9")

    assert called.code == 3
    assert ("bus", "error") in checks(called)


@pytest.fixture
def on_kafka(toys, kafka, namespace, monkeypatch):
    """The toy application's settings, with its bus on Kafka; gives the prefix of its topics."""
    monkeypatch.setenv("SAGA_BUS", kafka.url)
    monkeypatch.setenv("SAGA_NAMESPACE", namespace)
    monkeypatch.setenv("SAGA_PARTITIONS", "2")
    return f"dev.{namespace}."


def on_cluster(kafka, work):
    """What *work* does with a bus on the cluster."""

    async def run():
        bus = KafkaBus(KafkaConnection(servers=(kafka.bootstrap,)))
        try:
            return await work(bus)
        finally:
            await bus.close()

    return asyncio.run(run())


def test_wrong_topics_in_a_cluster_are_found(on_kafka, kafka):
    odd = f"{on_kafka}payments.int.pay.v1"
    on_cluster(kafka, lambda bus: bus.create_topics([TopicSpec(odd, 3, 60)]))
    called = call("doctor", "--json")
    errors = {
        (finding["check"], finding["where"])
        for finding in called.rows[:-1]
        if finding["severity"] == "error"
    }
    assert called.code == 3  # there is no store yet
    assert ("topics", on_kafka + ORDER) in errors
    assert not any(where == odd for _, where in errors)

    assert call("topics", "create").code == 0
    rows = [
        finding for finding in call("doctor", "--json").rows[:-1] if finding["check"] == "topics"
    ]
    assert {(finding["where"], finding["severity"]) for finding in rows} == {
        (odd, "error"),
        (odd, "warning"),
    }
    problems = " ".join(finding["what"] for finding in rows)
    assert re.search(r"has 3 partitions.*keeps records for 60 s", problems)


def test_positions_and_workers_on_a_cluster_are_compared(on_kafka, kafka):
    assert call("topics", "create").code == 0
    assert call("store", "migrate").code == 0
    assert call("publish", ORDER, '{"order_id": "o-1", "amount": 1}').code == 0
    assert call("store", "migrate").code == 0
    called = call("doctor", "--json")
    assert (called.code, checks(called)) == (1, [("workers", "error")])

    assert call(*UNTIL_IDLE, "--roles", "orchestrator").code == 0
    [effects, _] = call("doctor", "--json").rows
    assert (effects["check"], effects["where"]) == ("workers", f"{on_kafka}effects.payments")
    assert "--roles effects" in effects["advice"]

    with sqlite3.connect(".saga/saga.db") as connection:
        connection.execute(
            "UPDATE tracking SET notification_id = notification_id + 50 "
            "WHERE application_name LIKE ?",
            (f"%{ORDER}%",),
        )
    connection.close()
    [position] = [
        finding for finding in call("doctor", "--json").rows[:-1] if finding["check"] == "positions"
    ]
    assert ORDER in position["where"]
    assert "made anew" in position["what"]


async def test_a_group_is_described_with_members_and_offsets(kafka, namespace):
    topic = f"{namespace}.t"
    bus = KafkaBus(KafkaConnection(servers=(kafka.bootstrap,)))
    await bus.create_topics([TopicSpec(topic, 1)])
    await bus.publish([Record(topic, b"k", b"v")])
    consumer = await bus.subscribe(f"{namespace}.g", [topic])
    async with asyncio.timeout(HANG_S):
        while not await consumer.fetch(records_max=10, timeout_s=0.2):
            pass
    await consumer.commit({Source(topic, 0): 1})

    groups = await bus.describe_groups([f"{namespace}.g", f"{namespace}.never"])
    assert groups[f"{namespace}.g"].members == 1
    assert dict(groups[f"{namespace}.g"].committed) == {Source(topic, 0): 1}
    never = groups[f"{namespace}.never"]
    assert (never.members, dict(never.committed)) == (0, {})
    await bus.close()
    nobody = KafkaBus(KafkaConnection(servers=("127.0.0.1:9",)))
    with pytest.raises(BusUnavailable):
        await nobody.describe_groups(["g"])
    await nobody.close()


def test_tables_of_a_postgresql_store_are_compared(toys, postgres, monkeypatch):
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}')
    assert call(*UNTIL_IDLE).code == 0
    monkeypatch.setenv("SAGA_STORE", postgres)
    monkeypatch.setenv("SAGA_EFFECTS_STORE", "sqlite:///.saga/saga-effects.db")
    called = call("doctor", "--json")
    assert called.code == 1
    assert ("schema", "error") in checks(called)
    with psycopg.connect(postgres) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone()
    assert tables == (0,)

    assert call("store", "migrate").code == 0
    after = call("doctor", "--json")
    assert ("schema", "error") not in checks(after)
    assert ("clock", "error") not in checks(after)


def test_a_postgresql_that_is_away_is_named_without_its_password(looking):
    address = "postgresql://me:secret@127.0.0.1:9/none"
    called = call("doctor", "--json", "--store", address, "--effects-store", "sqlite:///none.db")

    assert called.code == 3
    assert ("store", "error") in checks(called)
    assert "secret" not in called.out + called.err
