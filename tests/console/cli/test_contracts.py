"""`topics ls|check|lock`: a contract that readers rely on does not change unnoticed."""

import asyncio
import json

import pytest
import yaml
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.console.conftest import call
from tests.console.toys import ORDER, TOYS


@pytest.fixture
def locked(toys):
    assert call("topics", "lock", "--json").row["changes"] > 0
    return toys


def change(toys, before, after):
    """Another version of the application, in which a line reads differently."""
    assert before in TOYS
    (toys / "toys.py").write_text(TOYS.replace(before, after))


def test_contracts_are_listed_with_topic_key_and_replies(locked):
    rows = {row["contract"]: row for row in call("topics", "ls", "--json").rows}

    assert rows[ORDER]["topic"] == f"dev.saga.{ORDER}"
    assert (rows[ORDER]["key"], rows[ORDER]["locked"]) == ("order_id", True)
    replies = ["payments.evt.paid.v1", "payments.evt.intent-failed.v1"]
    assert rows["payments.int.pay.v1"]["replies"] == replies


def test_without_a_lock_file_the_check_fails(toys):
    call("topics", "check").fails(1, "saga topics lock")


def test_locked_contracts_pass(locked):
    called = call("topics", "check", "--json")

    assert called.code == 0
    assert called.row["ok"] is True


def test_a_change_that_readers_can_follow_is_to_be_locked(locked):
    """The check fails until it is; the message has the remedy."""
    change(locked, "    receipt: str\n", "    receipt: str\n    note: str | None = None\n")

    called = call("topics", "check", "--json")

    assert called.code == 1
    assert (called.rows[0]["field"], called.rows[0]["compatible"]) == ("note", True)
    assert "saga topics lock" in called.rows[0]["advice"]
    assert call("topics", "lock").code == 0
    assert call("topics", "check").code == 0


def test_a_change_that_breaks_readers_is_not_locked(locked):
    """Unless it is forced; the lock file stays as it is."""
    change(locked, "    receipt: str\n", "    receipt: int\n")
    before = (locked / "topics/contracts.lock.json").read_bytes()

    called = call("topics", "check", "--json")

    assert called.code == 1
    assert (called.rows[-1]["breaking"], called.rows[-1]["ok"]) == (1, False)
    refused = call("topics", "lock").fails(1, "receipt")
    assert refused.err.splitlines()[-1] == "not locked (--force locks it all the same)"
    assert (locked / "topics/contracts.lock.json").read_bytes() == before
    assert call("topics", "lock", "--force").code == 0
    assert call("topics", "check").code == 0


def test_a_lock_file_that_is_none_is_refused_by_name(locked):
    (locked / "mine.json").write_text("{")

    call("topics", "check", "--file", "mine.json").fails(1, "mine.json")


@pytest.fixture
def on_kafka(toys, kafka, namespace: str, monkeypatch: pytest.MonkeyPatch):
    """The toy application, locked, with a Kafka that has none of its topics."""
    monkeypatch.setenv("SAGA_BUS", kafka.url)
    monkeypatch.setenv("SAGA_NAMESPACE", namespace)
    assert call("topics", "lock").code == 0
    return toys


def test_topics_are_created_once(on_kafka):
    first = call("topics", "create", "--json").rows
    second = call("topics", "create", "--json").rows

    assert {row["created"] for row in first} == {True}
    assert {row["partitions"] for row in first} == {4}
    assert [row["topic"] for row in second] == [row["topic"] for row in first]
    assert {row["created"] for row in second} == {False}
    assert not (on_kafka / ".saga").exists()


def test_topics_are_created_in_a_file_as_well(toys):
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
    problems = {(row["topic"], row["problem"].split()[0], row["is_warning"]) for row in flaws}
    assert problems == {(name, "has", False), (name, "cleanup.policy", True)}
    assert (summary["topics_wrong"], summary["warnings"]) == (1, 1)


def test_a_cluster_that_is_away_is_exit_3(on_kafka, monkeypatch):
    """Exit 3, as for every bus that cannot be reached."""
    monkeypatch.setenv("SAGA_BUS", "kafka://127.0.0.1:9")

    call("topics", "create").fails(3, "127.0.0.1")


def test_the_document_is_printed_for_people_in_lines_and_for_programs_in_one(toys):
    called = call("topics", "asyncapi")
    document = json.loads(called.out)

    assert (called.code, called.err) == (0, "")
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["title"] == "toys"
    assert "saga.order.send.payments.int.pay.v1" in document["operations"]
    assert call("topics", "asyncapi", "--json").row == document
    assert not (toys / ".saga").exists()


def test_yaml_says_the_same(toys):
    text = call("topics", "asyncapi", "--yaml").out

    assert yaml.safe_load(text) == json.loads(call("topics", "asyncapi").out)
    assert not {"&id", "!!"} & set(text.split())


def test_title_and_version_may_be_given(toys):
    words = ("topics", "asyncapi", "--title", "The toy shop", "--version", "2.1.0")

    info = call(*words, "--json").row["info"]
    assert (info["title"], info["version"]) == ("The toy shop", "2.1.0")


def test_a_file_is_written_and_its_contents_are_counted(toys):
    row = call("topics", "asyncapi", "--yaml", "--output", "api.yaml", "--json")
    assert row.code == 2

    row = call("topics", "asyncapi", "--output", "api.json", "--json").row
    document = json.loads((toys / "api.json").read_text())
    assert row["channels"] == len(document["channels"])

    call("topics", "asyncapi", "--output", "no/api.json").fails(1, "no/api.json")
