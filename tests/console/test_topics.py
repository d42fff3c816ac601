"""`topics create` and the cluster's part of `topics check`."""

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.console.conftest import call


@pytest.fixture
def on_kafka(shop, kafka, namespace: str, monkeypatch: pytest.MonkeyPatch):
    """The shop, locked, with a Kafka that has none of its topics."""
    monkeypatch.setenv("SAGA_BUS", kafka.url)
    monkeypatch.setenv("SAGA_NAMESPACE", namespace)
    assert call("topics", "lock").code == 0
    return shop


def test_topics_are_created_once(on_kafka):
    """With the partitions of the settings; a second time changes nothing."""
    first = call("topics", "create", "--json").rows
    second = call("topics", "create", "--json").rows

    assert {row["created"] for row in first} == {True}
    assert {row["partitions"] for row in first} == {4}
    assert [row["topic"] for row in second] == [row["topic"] for row in first]
    assert {row["created"] for row in second} == {False}
    assert not (on_kafka / ".saga").exists()


def test_topics_are_created_in_a_file_as_well(shop):
    """The embedded bus has topics too."""
    assert {row["created"] for row in call("topics", "create", "--json").rows} == {True}
    assert {row["created"] for row in call("topics", "create", "--json").rows} == {False}


def test_topics_that_are_missing_are_named(on_kafka):
    """The check fails until they are made."""
    called = call("topics", "check", "--json")

    assert called.code == 1
    *flaws, summary = called.rows
    assert {row["problem"] for row in flaws} == {"does not exist; `saga topics create` makes it"}
    assert (summary["topics_wrong"], summary["ok"]) == (len(flaws), False)
    assert call("topics", "create").code == 0
    assert call("topics", "check").code == 0


def test_uneven_partitions_fail_and_compaction_is_warned_of(on_kafka, kafka, namespace):
    """Partitions cost speed at once, compaction costs records one day."""
    name = f"dev.{namespace}.payments.evt.paid.v1"

    async def make() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        compacted = {"cleanup.policy": "compact", "max.message.bytes": "2000000"}
        await admin.create_topics([NewTopic(name, 3, 1, topic_configs=compacted)])
        await admin.close()

    asyncio.run(make())
    assert call("topics", "create").code == 0

    called = call("topics", "check", "--json")

    assert called.code == 1
    *flaws, summary = called.rows
    said = {(row["topic"], row["problem"].split()[0], row["is_warning"]) for row in flaws}
    assert said == {(name, "has", False), (name, "cleanup.policy", True)}
    assert (summary["topics_wrong"], summary["warnings"]) == (1, 1)


def test_a_cluster_that_is_away_is_said_to_be(on_kafka, monkeypatch):
    """Exit 3, as for every bus that cannot be reached."""
    monkeypatch.setenv("SAGA_BUS", "kafka://127.0.0.1:9")

    called = call("topics", "create")

    assert called.code == 3
    assert "127.0.0.1" in called.err
