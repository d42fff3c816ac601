"""What people are advised works as printed, and what a saga would refuse is not sent."""

import ast
import asyncio
import re
import shlex
from pathlib import Path

import pytest

import saga
from saga.adapters.opening import open_bus_and_store
from saga.console.cli import commands
from saga.ports import Record
from saga.settings import Settings
from tests.console.conftest import call
from tests.console.toys import LEAVE, ORDER, TOYS

R = ("--reason", "r")
STUCK = (
    TOYS.replace(
        "undo=Refund)\n    await ctx.do(Ship",
        "undo=Refund, undo_retry=Retry(attempts=1))\n    await ctx.do(Ship",
    )
    .replace("Refused, SagaApp", "Refused, Retry, SagaApp")
    .replace(
        '    await ctx.db.execute("DELETE',
        '    raise OSError("away")\n    await ctx.db.execute("DELETE',
    )
)
BUG = '    if placed.amount == 13:\n        raise RuntimeError("bad luck")\n'
HEAD = "async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:\n"
POISONED = TOYS.replace(HEAD, HEAD + BUG)
CHANGED = TOYS.replace(
    "await ctx.do(Pay(order_id=asked.name",
    "await ctx.do(Ship(order_id=asked.name))\n    await ctx.do(Pay(order_id=asked.name",
)


def order(name: str, amount: int = 1) -> None:
    call("publish", ORDER, f'{{"order_id": "{name}", "amount": {amount}}}').fails(0)


@pytest.fixture
def stuck(toys):
    """A saga whose undo is stuck; its key needs quotes on a command line."""
    (toys / "toys.py").write_text(STUCK)
    order("far o'1 $x")
    call("run", "--until-idle").fails(0)
    return "order/far o'1 $x"


@pytest.fixture
def poisoned(toys):
    """A saga whose code has raised."""
    (toys / "toys.py").write_text(POISONED)
    order("o-13", 13)
    call("run", "--until-idle").fails(0)
    return "order/o-13"


@pytest.fixture
def changed(waiting, tmp_path):
    """A saga that the code at hand decides otherwise."""
    (tmp_path / "toys.py").write_text(CHANGED)
    call("signal", waiting, "approval", '{"by": "eve"}', "--no-wait").fails(0)
    call("run", "--until-idle").fails(0)
    return waiting


def advised(saga: str) -> list[str]:
    """The acts that doctor advises for the only saga that stands still."""
    [finding] = [row for row in call("doctor", "--json").rows if row.get("check") == "parked"]
    look, *acts = re.findall("`saga ([^`]*)`", finding["advice"])
    assert shlex.split(look)[0] == "show"
    assert call(*shlex.split(look), "--json").row["key"] == saga.partition("/")[2]
    return acts


def words(acts: list[str]) -> list[str]:
    return [act.split()[0] for act in acts]


def test_a_stuck_undo_is_not_advised_to_be_released(stuck):
    assert words(advised(stuck)) == ["retry", "skip", "abandon"]


def test_a_failed_turn_is_advised_to_be_released(poisoned):
    assert words(advised(poisoned)) == ["release", "abandon"]


def test_a_saga_that_today_s_code_cannot_take_on_can_only_be_abandoned(changed):
    assert words(advised(changed)) == ["abandon"]


@pytest.mark.parametrize("act", ["retry", "skip", "abandon"])
def test_what_is_advised_for_a_stuck_undo_is_taken(stuck, act):
    [command] = [each for each in advised(stuck) if each.split()[0] == act]
    assert "--reason" in command

    call(*shlex.split(command), "--no-wait").fails(0)
    call("run", "--until-idle").fails(0)

    rows = call("history", call("ls", "--json").row["id"], "--json").rows
    assert "refused" not in str([row for row in rows if row["type"] == "noted"])


def test_what_is_advised_for_a_failed_turn_is_taken(poisoned, toys):
    (toys / "toys.py").write_text(TOYS)
    [release, _] = advised(poisoned)

    call(*shlex.split(release), "--no-wait").fails(0)
    call("run", "--until-idle").fails(0)

    assert call("show", poisoned, "--json").row["status"] == "completed"


REFUSED = [
    ("waiting", "release", (), "no failed turn"),
    ("waiting", "skip", ("pay",), "only a step whose undo is stuck"),
    ("waiting", "retry", ("pay",), "name a step that waits"),
    ("stuck", "release", (), "no failed turn"),
    ("stuck", "compensate", (), "the saga is"),
    ("stuck", "cancel", (), "on its way back"),
    ("poisoned", "retry", (), "name a step"),
    ("poisoned", "cancel", (), "has not begun"),
]


@pytest.mark.parametrize(("state", "act", "more", "why"), REFUSED, ids=str)
def test_what_a_saga_would_refuse_is_not_said_to_be_accepted(request, state, act, more, why):
    """And it says what the saga would take; nothing is sent."""
    saga_named = request.getfixturevalue(state)
    before = call("history", saga_named, "--json").out
    called = call(act, saga_named, *more, *R, "--json").fails(1, why, "nothing was sent")

    assert called.row["accepted"] is False
    instead = re.findall("`saga ([^`]*)`", called.err)
    assert instead
    call("run", "--until-idle").fails(0)
    assert call("history", saga_named, "--json").out == before
    for command in instead[:1]:
        call(*shlex.split(command), "--no-wait").fails(0)


def test_without_the_application_the_history_alone_says_what_is_refused(stuck, toys):
    (toys / "toys.py").unlink()

    call("release", stuck, *R).fails(1, "no failed turn")
    call("retry", stuck, "pay", *R, "--no-wait").fails(0)


def test_what_waits_for_other_code_is_sent_and_said(changed):
    """The code here may not be that of its worker."""
    call("compensate", changed, *R, "--no-wait").fails(0, "by the code here it waits")


def test_a_command_repeats_the_settings_that_were_given_as_options(toys):
    """So that it can be pasted."""
    store = ("--store", "sqlite:///my shop/s.db", "--bus", "local:///my shop/s.db")
    for name in ("a", "b"):
        call("publish", LEAVE, f'{{"name": "{name}"}}', *store).fails(0)
    call("run", "--until-idle", *store).fails(0)
    [command] = re.findall("`saga (.*)`", call("ls", "--limit", 1, *store).err)

    assert len(call(*shlex.split(command), "--json").rows) == 1


async def send_unreadable() -> None:
    parts = open_bus_and_store(Settings.read({}))
    await parts.bus.publish([Record(f"dev.saga.{ORDER}", b"z", b"{}", ())])
    await parts.close()


def test_every_command_of_a_sick_deployment_s_doctor_runs(stuck):
    """In the order printed; none is wrong usage, and what is to be looked at is there."""
    asyncio.run(send_unreadable())
    call("run", "--until-idle").fails(0)
    asyncio.run(send_unreadable())
    called = call("doctor")

    commands = re.findall("`saga ([^`]*)`", called.out)
    assert {command.split()[0] for command in commands} >= {"run", "show", "retry", "dlq"}
    for command in commands:
        tokens = shlex.split(command)
        more = ["--until-idle"] if tokens[0] == "run" else []
        if tokens[0] in {"retry", "skip", "abandon"}:
            more = ["--no-wait"]
        assert call(*tokens, *more).code == 0, command


def _texts(tree: ast.AST):
    """Every text of a module as it may be printed, with a sample for each value in it."""
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=values):
                yield "".join(
                    each.value if isinstance(each, ast.Constant) else "1" for each in values
                )
            case ast.Constant(value=str(text)):
                yield text


def _printed_commands() -> list[str]:
    """Every command in a text of the package, docstrings of users' own code aside."""
    found: dict[str, None] = {}
    for file in sorted(Path(saga.__file__).parent.rglob("*.py")):
        for text in _texts(ast.parse(file.read_text())):
            found |= dict.fromkeys(re.findall(r"`saga ([a-z][^`]*)`", text))
    return list(found)


@pytest.mark.parametrize("command", _printed_commands())
def test_every_command_that_is_printed_can_be_called_so(command, monkeypatch):
    """Where it needs an argument or a reason, it has one."""
    monkeypatch.setattr(commands, "call", lambda *_, **__: 0)

    assert call(*shlex.split(command)).code == 0


ACTS = ["cancel", "retry", "skip", "compensate", "release", "abandon", "store rebase"]
ACTS += ["pause", "resume", "mark", "rerun", "migrate", "timers fire", "timers move"]
LISTS = ["dlq ls", "ls"]


def test_a_reason_is_why_in_every_act_and_what_is_listed_in_every_list():
    """No command takes it for anything else."""
    from saga.console.cli.program import COMMANDS

    helps = {name: call(*name.split(), "--help").out for name in COMMANDS}
    having = {name for name, text in helps.items() if "--reason " in text}
    assert having == {*ACTS, *LISTS}
    assert all("Why" in helps[name] for name in ACTS)
    assert all("Only" in helps[name] for name in LISTS)


def test_the_acts_that_a_saga_would_take_say_what_they_would_do(stuck):
    before = call("history", stuck, "--json").out
    acts = {(row["act"], row["step"]): row for row in call("acts", stuck, "--json").rows}

    assert acts["retry", "pay"]["does"] == "is parked no more; issues pay/undo/2"
    assert "not undone: pay" in acts["abandon", None]["does"]
    assert ("release", None) not in acts
    assert "issues pay/undo/2" in call("acts", stuck).out
    assert "issues pay/undo/2" in call("doctor").out
    assert call("history", stuck, "--json").out == before
    words_ = shlex.split(acts["retry", "pay"]["command"])[1:]
    call(*words_, "--no-wait").fails(0)
