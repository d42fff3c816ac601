"""`ls`, `show` and `history`: their JSON shapes, what they find; looking changes nothing."""

import re
from pathlib import Path

import pytest

from saga.core.identity import saga_id
from tests.console.conftest import call

ROW = [
    *("id", "definition", "version", "key", "status", "paused", "shown", "started_at"),
    *("updated_at", "waiting_for", "reason"),
]
STEP = ["step", "contract", "direction", "status", "attempts", "intent_id"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_ls_has_the_shape_of_the_interface(looking):
    rows = call("ls", "--json").rows

    assert [list(row) for row in rows] == [ROW] * 4
    assert {row["key"]: row["status"] for row in rows} == {
        "o-1": "completed",
        "dear": "rolled_back",
        "far-1": "rolled_back",
        "ann": "running",
    }
    assert all(TIME.fullmatch(row["started_at"]) for row in rows)
    assert [row["waiting_for"] for row in rows if row["key"] == "ann"] == ["signal approval"]
    assert [row["reason"] for row in rows if row["key"] == "far-1"] == ["too far"]


def test_ls_filters_and_pages(looking):
    assert {row["key"] for row in call("ls", "--status", "rolled_back", "--json").rows} == {
        "dear",
        "far-1",
    }
    assert [row["key"] for row in call("ls", "--definition", "leave", "--json").rows] == ["ann"]
    seen, after = [], ()
    while rows := call("ls", "--limit", 1, "--json", *after).rows:
        seen += [row["id"] for row in rows]
        after = ("--after", seen[-1])

    assert seen == [row["id"] for row in call("ls", "--json").rows]


def test_ls_finds_sagas_by_key_reason_and_start(looking):
    def keys(*words):
        return [row["key"] for row in call("ls", "--json", *words).rows]

    assert keys("--key", "dear") == ["dear"]
    assert keys("--reason", "too f") == ["far-1"]
    rows = call("ls", "--json").rows
    for row in rows:
        later = [each["key"] for each in rows if each["started_at"] >= row["started_at"]]
        assert keys("--since", row["started_at"]) == later
    assert len(keys("--since", "2h")) == len(rows)
    assert keys("--since", "2h", "--status", "running") == ["ann"]
    assert keys("--key", "ann", "--reason", "too f") == []


def test_ls_finds_sagas_by_what_they_show(looking):
    """A text as it is; a number and a boolean as such, too; all conditions are to hold."""

    def keys(*conditions):
        words = [word for each in conditions for word in ("--where", each)]
        return [row["key"] for row in call("ls", "--json", *words).rows]

    assert keys("step=at the boss") == ["ann"]
    assert keys("days=3") == ["ann"]
    assert keys("days=3.0", "step=at the boss") == ["ann"]
    assert keys("days=4") == keys("step=at the") == keys("weeks=3") == keys("days=") == []
    shown = {row["key"]: row["shown"] for row in call("ls", "--json").rows}
    assert shown.pop("ann") == {"step": "at the boss", "days": 3}
    assert set(map(str, shown.values())) == {"{}"}
    assert "step=at the boss" in call("ls").out
    assert "step = at the boss" in call("show", "leave/ann").out
    assert call("show", "leave/ann", "--json").row["shown"] == {"step": "at the boss", "days": 3}


@pytest.mark.parametrize(
    "words",
    [("--where", "step"), ("--where", "=3"), ("--since", "soon"), ("--since", "2026-01-01")],
)
def test_ls_refuses_what_it_cannot_look_for(looking, words):
    call("ls", *words).fails(2, f"{words[0]} {words[1]!r}")


def test_a_cut_list_goes_on_with_the_same_conditions(looking):
    called = call("ls", "--limit", 1, "--since", "2h", "--status", "rolled_back")

    assert "--since 2h" in called.err
    assert "--status rolled_back" in called.err


def test_ls_for_people_names_sagas_as_commands_take_them(looking):
    called = call("ls", "--limit", 2)

    assert "order/" in called.out
    assert "--after" in called.err


def test_show_has_the_shape_of_the_interface(looking):
    row = call("show", "order/far-1", "--json").row
    saga = saga_id("order", "far-1")

    assert list(row) == [*ROW, "steps", "residue", "outcome"]
    assert row["id"] == saga
    assert all(list(step) == STEP for step in row["steps"])
    assert [tuple(step.values()) for step in row["steps"]] == [
        ("pay", "payments.int.pay.v1", "do", "undone", 1, f"{saga}/pay/do/1"),
        ("ship", "parcels.int.ship.v1", "do", "refused", 1, f"{saga}/ship/do/1"),
        ("pay", "payments.int.refund.v1", "undo", "undone", 1, f"{saga}/pay/undo/1"),
    ]
    assert row["residue"] == []
    assert row["outcome"] == {
        "contract": "cli-orders.evt.order-rejected.v1",
        "payload": {"order_id": "far-1", "reason": "too far"},
    }


def test_a_saga_is_named_by_id_or_by_definition_and_key(looking):
    """Both ways show the same saga, also with capital letters in the id."""
    by_key = call("show", "order/o-1", "--json").row

    assert call("show", by_key["id"], "--json").row == by_key
    assert call("show", by_key["id"].upper(), "--json").row == by_key


@pytest.mark.parametrize("command", ["show", "history"])
@pytest.mark.parametrize("name", ["order/nobody", "5e3dc2ce-4f4b-5a0e-8a54-6a1d2a7b9a11", "what"])
def test_unknown_saga_is_exit_1(looking, command, name):
    called = call(command, name, "--json")

    assert (called.code, called.out) == (1, "")
    assert name in called.err


def test_history_has_the_shape_of_the_interface(looking):
    rows = call("history", "order/far-1", "--json").rows

    assert all(list(row) == ["version", "at", "type", "cause", "data"] for row in rows)
    assert [row["version"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["type"] == "saga-started"
    assert rows[0]["data"]["trigger"]["payload"] == {"order_id": "far-1", "amount": 2}
    assert rows[-1]["type"] == "saga-rolled-back"
    assert all(TIME.fullmatch(row["at"]) for row in rows)
    assert "at" not in rows[0]["data"]


def test_history_as_of_a_version_or_a_moment(looking):
    rows = call("history", "order/far-1", "--json").rows

    assert call("history", "order/far-1", "--at", 3, "--json").rows == rows[:3]
    at = rows[3]["at"]
    assert call("history", "order/far-1", "--at", at, "--json").rows == [
        row for row in rows if row["at"] <= at
    ]
    assert call("history", "order/far-1", "--at", "2001-01-01T00:00:00Z").code == 1
    assert call("history", "order/far-1", "--at", "yesterday").code == 2


def test_looking_where_nothing_is_makes_no_files(toys):
    for words in (["ls"], ["show", "order/x"], ["timers"], ["dlq", "ls"], ["replay"]):
        called = call(*words, "--json")
        assert (called.code, called.out) == (3, "")
        assert "there is no store" in called.err
    for words in (["signal", "order/x", "go"], ["cancel", "order/x", "--reason", "r"]):
        assert call(*words).code == 3

    assert [path.name for path in Path().iterdir() if path.name != "__pycache__"] == ["toys.py"]


def test_hostile_keys_do_not_repaint_the_terminal(toys):
    words = ("publish", "cli-orders.evt.order-placed.v1")
    assert call(*words, '{"order_id": "\\u001b[31m[bold]x", "amount": 1}').code == 0
    assert call("run", "--until-idle").code == 0

    out = call("ls").out

    assert "\x1b" not in out
    assert "\\x1b[31m[bold]x" in out
