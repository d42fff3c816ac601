"""`publish`: accepted events, refused events and their messages."""

import asyncio

import pytest

from saga.console.cli.output import ExitCode
from saga.core.identity import saga_id
from tests.console.conftest import call
from tests.console.toys import ORDER
from tests.scenarios.test_too_large import limit


def test_publish_says_which_saga_it_starts(toys):
    row = call("publish", ORDER, '{"order_id": "o-1", "amount": 1}', "--json").row

    assert list(row) == ["line", "message_id", "saga_id"]
    assert (row["line"], row["saga_id"]) == (1, saga_id("order", "o-1"))


def test_an_event_that_starts_nothing_is_published_all_the_same(toys):
    words = ("cli-orders.evt.order-confirmed.v1", '{"order_id": "o-1"}', "--key", "o-1")

    assert call("publish", *words, "--json").row["saga_id"] is None


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ('{"order_id": 7}', "order_id: expected a valid string, got 7; amount: is missing"),
        ('{"order_id": "a", "amount": NaN}', "NaN is no number"),
        ('{"order_id": "a", "amount": "many"}', "amount: expected a valid integer"),
        ('{"order_id": "", "amount": 1}', "business key"),
        ('{"order_id": "a", "amount": 1', "no JSON at line 1"),
        ("[1]", "expected a JSON object"),
        ("[" * 100_000 + "]" * 100_000, "arrays and objects within each other"),
        ('{"order_id": "a", "order_id": "b", "amount": 1}', "occurs twice"),
    ],
    ids=["field", "nan", "type", "empty-key", "cut", "array", "deep", "duplicate"],
)
def test_a_bad_payload_is_refused_with_the_mistake(toys, payload, expected):
    called = call("publish", ORDER, payload, "--json")

    assert (called.code, called.out) == (1, "")
    assert called.err.startswith("line 1: ")
    assert expected in called.err


def test_an_empty_key_is_refused(toys):
    """Also where the payload has one of its own."""
    call("publish", ORDER, "--key", "", '{"order_id": "a", "amount": 1}').fails(1, "business key")


def test_long_keys_and_ids_are_refused(toys):
    long, event = "k" * 1_001, '{"order_id": "a", "amount": 1}'
    words = ("cli-orders.evt.order-confirmed.v1", '{"order_id": "o-1"}')

    call("publish", *words, "--key", long).fails(1, "1,001 bytes")
    call("publish", ORDER, event, "--id", long).fails(1, "the message_id has 1,001 bytes")
    call("publish", ORDER, event.replace('"a"', f'"{long}"')).fails(1, "1,001 bytes")


def test_an_unknown_contract_is_refused_with_names_that_come_near(toys):
    call("publish", "cli-orders.evt.order-placd.v1", "{}").fails(1, f"did you mean {ORDER}")
    assert not (toys / ".saga").exists()


def test_the_engines_own_contract_is_not_for_publishing(toys):
    assert call("publish", "saga.ctl.command.v1", "{}").code == 1


def test_bad_lines_are_reported_and_the_others_go_on(toys):
    stdin = (
        b'{"order_id": "a", "amount": 1}\n'
        b'{"order_id": "\xff", "amount": 1}\n'
        b"\n" + b"[" * 100_000 + b"]" * 100_000 + b"\n" + b"x" * 3_000_000 + b"\n"
        b'{"order_id": 7, "amount": 1}\n'
        b'{"order_id": "b", "amount": 1}'
    )

    called = call("publish", ORDER, "-", "--json", stdin=stdin)

    assert called.code == 1
    assert [row["line"] for row in called.rows] == [1, 7]
    assert [line.split(":")[0] for line in called.err.splitlines()] == [
        "line 2",
        "line 4",
        "line 5",
        "line 6",
    ]
    assert "not UTF-8" in called.err
    assert "line 6: order_id: expected a valid string, got 7" in called.err


def test_many_lines_are_published_in_order(toys):
    stdin = "".join(f'{{"order_id": "o-{number}", "amount": 1}}\n' for number in range(1_203))

    rows = call("publish", ORDER, "-", "--json", stdin=stdin).rows

    assert [row["line"] for row in rows] == list(range(1, 1_204))
    assert len({row["message_id"] for row in rows}) == 1_203


def test_the_same_message_id_again_starts_nothing_new(toys):
    for amount in (1, 1, 2):
        words = (ORDER, f'{{"order_id": "a", "amount": {amount}}}', "--id", "m-1")
        assert call("publish", *words, "--json").row["message_id"] == "m-1"

    summary = call("run", "--until-idle", "--json").row

    assert (summary["started"], summary["completed"], summary["duplicate"]) == (1, 1, 1)
    assert [row["reason"] for row in call("dlq", "ls", "--json").rows] == ["id_conflict"]


def test_one_id_cannot_name_many_lines(toys):
    assert call("publish", ORDER, "-", "--id", "m", stdin="").code == 2


def test_to_publish_needs_the_bus_and_no_store(toys):
    """A store that is away keeps nobody from saying what has happened."""
    away = ("--bus", "local:///bus.db", "--store", "postgresql://saga@127.0.0.1:1/saga")

    called = call("publish", ORDER, '{"order_id": "o-1", "amount": 1}', *away, "--json")

    assert called.code == 0
    assert called.row["saga_id"]


def test_a_line_that_its_topic_does_not_take_keeps_back_no_other(toys, kafka, namespace):
    """It is named with topic, size and limit."""
    topic = f"dev.{namespace}.{ORDER}"
    asyncio.run(limit(kafka.bootstrap, topic, 1_500))
    names = ["o-1", "x" * 900, "o-3"]
    lines = "".join(f'{{"order_id": "{name}", "amount": 1}}\n' for name in names)
    where = ("--bus", kafka.url, "--namespace", namespace)

    said = call("publish", ORDER, "-", "--json", *where, stdin=lines)

    said.fails(ExitCode.NOT_SO, "line 2: a record of", f"for {topic} exceeds its limit of 1244")
    assert [row["line"] for row in said.rows] == [1, 3]
