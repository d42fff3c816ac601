"""`run`: its summary, its end, and two of them on one file."""

import asyncio
import json
import signal
import sqlite3
from contextlib import closing

import pytest

from saga.console.cli.output import ExitCode
from saga.errors import StoreTooNew
from tests.console.conftest import call, start
from tests.console.toys import ORDER
from tests.patience import HANG_S, wait_until


def until_serving(worker):
    """Wait until a process says that it serves: before, a signal ends it as it ends any program."""
    for line in worker.stderr:
        if "serving" in line:
            return


def publish(count):
    lines = "".join(f'{{"order_id": "o-{number}", "amount": 1}}\n' for number in range(count))
    assert call("publish", ORDER, "-", stdin=lines).code == 0


def they_share_partitions():
    """Whether each group has both workers, and both know so."""
    knowing = (
        "SELECT count(*), sum(bus_members.generation = bus_groups.generation) "
        "FROM bus_groups JOIN bus_members USING (group_name) GROUP BY group_name"
    )
    with closing(sqlite3.connect(".saga/saga.db")) as connection:
        return {*connection.execute(knowing)} == {(2, 2)}


def test_until_idle_ends_with_a_summary(toys):
    publish(3)

    row = call("run", "--until-idle", "--json").row

    names = ["turns", "started", "completed", "rolled_back", "rolled_back_with_residue", "parked"]
    assert list(row)[: len(names)] == names
    assert (row["started"], row["completed"], row["parked"]) == (3, 3, 0)
    assert row["turns"] >= 9


def test_roles_can_be_chosen(toys):
    publish(1)

    assert call("run", "--roles", "orchestrator", "--until-idle", "--json").row["turns"] == 1
    assert call("show", "order/o-0", "--json").row["waiting_for"] == "reply to pay"
    assert call("run", "--roles", "effects", "--until-idle").code == 0
    assert call("run", "--until-idle", "--json").row["completed"] == 1


def test_intents_without_a_handler_are_named_at_the_start(toys):
    complete = call("run", "--until-idle")
    text = (toys / "toys.py").read_text()
    (toys / "toys.py").write_text(text.replace("@payments.on(Ship)\n", ""))
    lacking = call("run", "--until-idle")
    apart = call("run", "--until-idle", "--roles", "orchestrator")

    assert (complete.code, lacking.code, apart.code) == (0, 0, 0)
    assert "handles" not in complete.err
    assert "handles" not in apart.err
    assert "parcels.int.ship.v1" in lacking.err
    assert "payments.int.pay.v1" not in lacking.err


@pytest.mark.parametrize("roles", ["orchestrater", "", "effects,nobody"])
def test_an_unknown_role_is_refused(toys, roles):
    call("run", "--roles", roles).fails(2, "orchestrator, effects")


@pytest.mark.parametrize("component", ["event store", "bus"])
@pytest.mark.parametrize("words", [["run", "--until-idle"], ["publish", ORDER, "{}"]])
def test_a_store_of_a_newer_version_is_not_touched(toys, component, words):
    publish(1)
    with sqlite3.connect(".saga/saga.db") as connection:
        connection.execute("UPDATE saga_schema SET version = 99 WHERE component = ?", (component,))
    connection.close()

    call(*words).fails(3, "saga.db", "upgrade saga")


def test_a_place_that_cannot_be_written_is_exit_3(toys):
    (toys / "file").write_text("")
    for option in ("--store", "--bus", "--effects-store"):
        scheme = "local" if option == "--bus" else "sqlite"
        call("run", "--until-idle", option, f"{scheme}:///file/saga.db").fails(3, "file")


def test_a_file_that_is_no_database_is_exit_3(toys):
    (toys / "notes.txt").write_text("no database, but long enough to be looked at" * 10)

    call("ls", "--store", "sqlite:///notes.txt").fails(3, "no SQLite database")


def test_two_workers_on_one_file_do_everything_once_and_sigterm_drains(toys):
    words = ("run", "--json", "--log", "info")
    workers = [start(toys, *words, start_new_session=True) for _ in range(2)]
    try:
        for worker in workers:
            until_serving(worker)
        wait_until(they_share_partitions)
        publish(150)
        words = ("ls", "--status", "completed", "--json", "--limit", 200)
        wait_until(lambda: len(call(*words).rows) == 150)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        outputs = [worker.communicate(timeout=HANG_S) for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0], outputs
    completed = [json.loads(out)["completed"] for out, _ in outputs]
    assert sum(completed) == 150
    assert min(completed) > 0
    connection = sqlite3.connect(".saga/saga-effects.db")
    paid = connection.execute("SELECT count(*), count(DISTINCT order_id) FROM paid").fetchone()
    connection.close()
    assert paid == (150, 150)


def test_a_command_reaches_a_saga_that_a_worker_serves(toys):
    assert call("publish", "staff.evt.leave-asked.v1", '{"name": "ann"}').code == 0
    worker = start(toys, "run", "--log", "info", start_new_session=True)
    try:
        until_serving(worker)
        wait_until(lambda: "signal approval" in call("ls", "--json").out)
        words = ("signal", "leave/ann", "approval", '{"by": "eve"}', "--wait", HANG_S, "--json")
        row = call(*words).row
    finally:
        worker.send_signal(signal.SIGINT)
        outputs = worker.communicate(timeout=HANG_S)

    assert (row["accepted"], row["result"], row["answer"]) == (True, "applied", None)
    assert row["detail"].endswith("completes")
    assert worker.returncode == 0, outputs


@pytest.mark.parametrize("way", ["raises", "returns", "is cancelled"])
@pytest.mark.parametrize(
    "place",
    [
        "saga.runtime.orchestrator:Orchestrator._watch_timers",
        "saga.runtime.orchestrator:Orchestrator._drive",
        "saga.effects.service:EffectsService._publish",
        "saga.runtime.outcomes:OutcomePoller._poll",
        "saga.adapters.http:_Server.serve",
    ],
)
def test_a_part_that_ends_ends_the_process_with_a_message(toys, monkeypatch, place, way):
    """Whoever restarts it sees that something was wrong; nothing is left half alive."""
    module, _, path = place.partition(":")

    async def ending(*_, sockets=(), **__):
        for listener in sockets:
            listener.close()
        match way:
            case "raises":
                raise StoreTooNew("no more")
            case "is cancelled":
                asyncio.current_task().cancel()
                await asyncio.sleep(0)

    monkeypatch.setattr(f"{module}.{path}", ending)
    monkeypatch.setenv("SAGA_HTTP", "127.0.0.1:0")
    ended = call("run")

    code = ExitCode.UNREACHABLE if way == "raises" else ExitCode.NOT_SO
    said = {"raises": "no more", "returns": "was to go on", "is cancelled": "somebody else"}[way]
    ended.fails(code, "saga: ", said)


def test_until_idle_says_what_is_left_behind(toys):
    """On standard error, and as a part of the summary."""
    call("publish", "staff.evt.leave-asked.v1", '{"name": "ann"}').fails(0)
    left = call("run", "--until-idle", "--json").row["left"]

    assert left["sagas"] == {"running": 1}
    assert left["waiting_for"] == {"signal approval": 1}
    assert (left["deferred"], left["next_at"]) == (0, None)
    again = call("run", "--until-idle").fails(
        0, "left behind: 1 running; 1 wait for signal approval"
    )
    assert "left" not in again.out
    call("signal", "leave/ann", "approval", '{"by": "eve"}', "--no-wait").fails(0)
    assert "left behind" not in call("run", "--until-idle").err
