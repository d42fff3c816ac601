"""`topics acls`: every topic that a process reads or writes, as a table and as commands."""

import shlex

from tests.console.conftest import call

KEYS = "k1 c2FnYSB0ZXN0IHNlY3JldCwgMzIgYnl0ZXMgbG9uZyE="


def rights(*words):
    rows = call("topics", "acls", *words, "--json").rows
    return {(row["who"], row["operation"], row["name"]) for row in rows}


def test_every_process_has_the_rights_that_it_needs_and_no_others(monkeypatch):
    monkeypatch.setenv("SAGA_APP", "domain:app")
    given = rights()
    topic = "dev.saga.{}".format

    assert ("orchestrator", "Read", topic("saga.ctl.command.v1")) in given
    assert ("orchestrator", "Read", topic("orders.evt.order-placed.v1")) in given
    assert ("orchestrator", "Write", topic("payments.int.charge-household.v1")) in given
    assert ("orchestrator", "Write", topic("orders.evt.order-confirmed.v1")) in given
    assert ("orchestrator", "Write", topic("payments.dlq.household-charged.v1")) in given
    assert ("effects-payments", "Read", topic("payments.int.charge-household.v1")) in given
    assert ("effects-payments", "Write", topic("payments.evt.household-charged.v1")) in given
    assert ("effects-payments", "Read", topic("effects.payments")) in given
    assert ("publisher", "Write", topic("orders.evt.order-placed.v2")) in given

    writers = {}
    for who, operation, name in given:
        if operation == "Write" and who != "operator":
            writers.setdefault(name, set()).add(who)
    assert writers[topic("payments.evt.household-charged.v1")] == {"effects-payments"}
    assert writers[topic("payments.int.charge-household.v1")] == {"orchestrator"}
    assert writers[topic("orders.evt.order-placed.v2")] == {"publisher"}
    assert topic("saga.ctl.command.v1") not in writers
    assert ("operator", "Write", topic("saga.ctl.command.v1")) in given


def test_every_topic_of_the_application_has_a_reader_or_writer(monkeypatch):
    monkeypatch.setenv("SAGA_APP", "domain:app")
    named = {name for _, operation, name in rights() if operation in ("Read", "Write")}
    created = {row["topic"] for row in call("topics", "ls", "--json").rows}

    assert created <= named


def test_the_same_as_commands_with_users_of_ones_own(monkeypatch):
    monkeypatch.setenv("SAGA_APP", "domain:app")
    monkeypatch.setenv("SAGA_BUS", "kafka://one:9092,two:9092")
    lines = call("topics", "acls", "--commands", "--user", "publisher=User:CN=shop,O=x y").out
    commands = [shlex.split(line) for line in lines.splitlines()]

    assert len(commands) == len(rights())
    assert all(
        words[:4] == ["kafka-acls", *["--bootstrap-server", "one:9092,two:9092", "--add"]]
        for words in commands
    )
    (shop,) = [
        words for words in commands if "User:CN=shop,O=x y" in words and words[-1].endswith("v2")
    ]
    assert shop[4:] == [
        *("--allow-principal", "User:CN=shop,O=x y", "--operation", "Write"),
        *("--topic", "dev.saga.orders.evt.order-placed.v2"),
    ]


def test_a_user_of_nobody_is_refused_with_those_that_there_are(monkeypatch):
    monkeypatch.setenv("SAGA_APP", "domain:app")

    call("topics", "acls", "--user", "nobody=User:x").fails(2, "effects-payments", "publisher")
    call("topics", "acls", "--user", "publisher").fails(2, "expected WHO=USER")


def test_commands_of_the_command_line_are_signed(waiting, monkeypatch, tmp_path):
    """A worker with keys believes those with the same ones only."""
    file = tmp_path / "keys"
    file.write_text(KEYS)
    call("signal", waiting, "approval", '{"by": "mallory"}', "--no-wait")
    monkeypatch.setenv("SAGA_SIGNING_KEYS_FILE", str(file))
    assert call("run", "--until-idle").code == 0
    assert [row["reason"] for row in call("dlq", "ls", "--json").rows] == ["bad_signature"]

    call("signal", waiting, "approval", '{"by": "eve"}', "--no-wait")
    assert call("run", "--until-idle").code == 0
    assert call("show", waiting, "--json").row["status"] == "completed"
