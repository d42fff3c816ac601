"""Signals, cancels and operators' acts: accepted durably, recorded in a turn, or refused."""

import pytest

from tests.console.conftest import call
from tests.console.toys import ORDER


def status(saga):
    """Where a saga stands, after a worker has had its say."""
    assert call("run", "--until-idle").code == 0
    return call("show", saga, "--json").row["status"]


def sent(command_id):
    """The receipt of a command that nobody has waited for."""
    detail = "sent; nobody has waited for what comes of it"
    return {
        "command_id": command_id,
        "accepted": False,
        "result": "unknown",
        "detail": detail,
        "answer": None,
    }


def test_a_signal_is_accepted_and_ends_the_wait(waiting):
    words = ("signal", waiting, "approval", '{"by": "eve"}', "--id", "c-1", "--json")

    assert call(*words, "--no-wait").row == sent("c-1")
    assert call(*words, "--no-wait").row == sent("c-1")
    assert status(waiting) == "completed"
    repeated = call(*words)
    assert (repeated.code, repeated.row["accepted"]) == (0, False)
    assert repeated.row["result"] == "duplicate"
    types = [row["type"] for row in call("history", waiting, "--json").rows]
    assert types.count("signal-received") == 1


def test_a_cancelled_saga_is_rolled_back_with_the_reason(waiting):
    words = ("--reason", "changed my mind", "--actor", "ann", "--no-wait", "--json")

    assert call("cancel", waiting, *words).row["result"] == "unknown"
    assert status(waiting) == "rolled_back"
    rows = call("history", waiting, "--json").rows
    [asked] = [row["data"] for row in rows if row["type"] == "cancel-requested"]
    assert asked == {"mode": "graceful", "reason": "changed my mind", "actor": "ann"}


def test_a_cancel_under_the_id_of_a_signal_is_refused(waiting):
    """It was accepted, and nothing was cancelled."""
    call("signal", waiting, "hint", "1", "--id", "c-1", "--no-wait")
    assert call("run", "--until-idle").code == 0
    refused = call("cancel", waiting, "--reason", "r", "--id", "c-1", "--json")

    assert (refused.code, refused.row["result"]) == (1, "refused")
    assert refused.row["accepted"] is False
    assert "id_conflict" in refused.err
    assert "signal-received" in refused.err
    assert call("signal", waiting, "hint", "1", "--id", "c-1", "--json").code == 0
    assert call("signal", waiting, "hint", "2", "--id", "c-1", "--json").code == 1
    assert status(waiting) == "running"
    assert call("dlq", "ls", "--json").rows == []


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (["compensate"], "rolled_back"),
        (["abandon"], "abandoned"),
        (["cancel", "--mode", "immediate"], "rolled_back"),
        (["cancel", "--mode", "abandon"], "abandoned"),
    ],
    ids=["compensate", "abandon", "cancel-immediate", "cancel-abandon"],
)
def test_operators_end_a_saga(waiting, words, ends):
    act, *options = words

    assert call(act, waiting, *options, "--reason", "enough", "--no-wait").code == 0
    assert status(waiting) == ends
    if ends == "abandoned":
        assert call("show", waiting, "--json").row["residue"] == ["pay"]


@pytest.mark.parametrize("act", ["retry", "skip", "compensate", "release", "abandon", "cancel"])
def test_an_act_needs_a_reason(looking, act):
    assert call(act, "leave/ann").code == 2
    assert call(act, "leave/ann", "--reason", " ").code == 2


@pytest.mark.parametrize("act", ["retry", "skip", "compensate", "release", "abandon", "cancel"])
def test_an_act_on_an_unknown_saga_is_exit_1(looking, act):
    assert call(act, "leave/nobody", "--reason", "r").code == 1
    assert call("signal", "leave/nobody", "approval").code == 1


def test_nothing_is_sent_to_a_saga_that_has_ended(looking):
    called = call("cancel", "order/o-1", "--reason", "late", "--json")

    assert called.code == 1
    assert called.row["accepted"] is False
    assert "completed already" in called.err


def test_a_step_that_does_not_exist_is_refused_with_those_that_do(looking):
    call("retry", "leave/ann", "pya", "--reason", "r").fails(1, "its steps: pay")


@pytest.mark.parametrize(("payload", "expected"), [("{", "no JSON"), ("NaN", "no number")])
def test_a_signal_that_is_no_json_is_refused(looking, payload, expected):
    """Exit 1, with what is wrong."""
    call("signal", "leave/ann", "approval", payload).fails(1, expected)


def test_waiting_for_a_worker_that_is_not_there_ends_in_time(waiting):
    called = call("cancel", waiting, "--reason", "r", "--wait", 0.2, "--json")

    assert called.code == 1
    assert (called.row["accepted"], called.row["result"]) == (False, "unknown")
    assert "no worker" in called.err


def test_a_paused_saga_is_shown_so_and_goes_on_when_it_is_resumed(waiting):
    assert call("show", waiting, "--json").row["paused"] is False
    assert call("pause", waiting, "--reason", "look", "--no-wait").code == 0
    call("run", "--until-idle").fails(0)
    [row] = call("ls", "--definition", "leave", "--json").rows
    assert (row["status"], row["paused"]) == ("running", True)
    assert "running, paused" in call("ls").out
    call("pause", waiting, "--reason", "r").fails(1, "paused already")

    call("signal", waiting, "approval", '{"by": "eve"}', "--no-wait").fails(0)
    assert status(waiting) == "running"
    call("resume", waiting, "--reason", "fine", "--no-wait").fails(0)

    assert status(waiting) == "completed"
    call("resume", waiting, "--reason", "r").fails(1, "completed already")


def test_a_paused_definition_holds_its_sagas(waiting):
    named = ("--definition", "leave", "--reason", "r")
    assert call("pause", *named, "--id", "p-1", "--no-wait", "--json").row == sent("p-1")
    call("run", "--until-idle").fails(0)

    assert call("pause", *named, "--id", "p-1", "--json").row["result"] == "duplicate"
    call("pause", *named).fails(1, "leave is paused already")
    call("signal", waiting, "approval", '{"by": "eve"}', "--no-wait").fails(0)
    assert status(waiting) == "running"
    assert call("show", waiting, "--json").row["paused"] is True
    call("resume", waiting, "--reason", "r").fails(1, "resume the definition")
    assert call("resume", *named, "--no-wait").code == 0
    assert status(waiting) == "completed"
    call("resume", *named).fails(1, "leave is not paused")


def test_a_pause_names_a_saga_or_a_definition(looking):
    call("pause", "--reason", "r").fails(2, "--definition")
    call("pause", "leave/ann", "--definition", "leave", "--reason", "r").fails(2, "--definition")
    call("pause", "--definition", "laeve", "--reason", "r").fails(1, "'laeve'")


def test_a_timer_is_fired_and_moved(waiting):
    [armed] = call("timers", "--json").rows
    timer = armed["timer_id"]

    call("timers", "move", timer, "--to", "2090-01-01", "--reason", "r").fails(2, "with its zone")
    call("timers", "fire", "nothing", "--reason", "r").fails(1, "there is no timer")
    call("timers", "fire", timer + "x", "--reason", "r").fails(1, "is armed; armed timers")
    words = ("--to", "2090-01-01T00:00:00Z", "--reason", "r", "--no-wait")
    call("timers", "move", timer, *words).fails(0)
    call("run", "--until-idle").fails(0)
    assert call("timers", "--json").row["due_at"] == "2090-01-01T00:00:00.000000Z"

    call("timers", "fire", timer, "--reason", "r", "--no-wait").fails(0)
    assert status(waiting) == "rolled_back"
    assert call("timers", "--json").rows == []


def test_an_ended_saga_is_run_again(looking):
    call("rerun", "leave/ann", "--key", "x", "--reason", "r").fails(1, "has not ended")
    call("rerun", "order/o-1", "--key", "o-1", "--reason", "r").fails(1, "its own key")
    bad = ("--trigger", '{"amount": "x"}', "--reason", "r")
    call("rerun", "order/o-1", "--key", "x", *bad).fails(1, "--trigger: ")


def test_the_same_order_under_another_key(toys):
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}').fails(0)
    call("run", "--until-idle").fails(0)
    words = ("--key", "o-1b", "--reason", "r", "--no-wait")
    call("rerun", "order/o-1", *words).fails(0)

    assert status("order/o-1b") == "completed"
    [first, *_] = call("history", "order/o-1b", "--json").rows
    assert first["data"]["rerun_of"] == call("show", "order/o-1", "--json").row["id"]
    call("rerun", "order/o-1", *words, "--id", "again").fails(0)
    call("run", "--until-idle").fails(0)
    again = call("rerun", "order/o-1", *words[:4], "--id", "again", "--json")
    assert again.fails(1, "there is a saga of key 'o-1b' already").row["result"] == "refused"


def test_a_step_is_marked_by_hand(toys):
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}').fails(0)
    call("run", "--until-idle", "--roles", "orchestrator").fails(0)
    seen = ("--evidence", "seen", "--reason", "r")
    [step] = [row["step"] for row in call("show", "order/o-1", "--json").row["steps"]]

    call("mark", "order/o-1", step, "done", *seen).fails(2, "--reply: ")
    call("mark", "order/o-1", step, "done", "--reply", "{}", *seen).fails(1, "--reply: receipt")
    call("mark", "order/o-1", step, "undone", "--reason", "r").fails(2, "--evidence")
    call("mark", "order/o-1", step, "undone", *seen).fails(1, "nor skipped")
    reply = ("--reply", '{"receipt": "r-9"}')
    call("mark", "order/o-1", step, "done", *reply, *seen, "--no-wait").fails(0)
    assert status("order/o-1") == "completed"
    [acted] = [
        row["data"]
        for row in call("history", "order/o-1", "--json").rows
        if row["type"] == "operator-acted"
    ]
    assert acted["reply"]["payload"] == {"receipt": "r-9"}
