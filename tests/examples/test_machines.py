"""The machines do what they say, also in a process that is killed on the way, and in any world."""

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from examples.machines import order, payments, tasks
from saga.testing import (
    World,
    WorldState,
    after,
    signalled,
    updated,
)
from saga.testing.world.driver import Story
from tests.examples.running import ROOT, run, running
from tests.patience import HANG_S

LIVES = [1, 2]
"""Behind which of its commits each life of an example is killed."""
WORLDS = 12
SAYS = {
    "order": [
        "o-1 completed order_id='o-1' receipt='r-o-1'",
        "dear rolled_back order_id='dear' reason='declined' code='declined'",
        "broke rolled_back order_id='broke' reason='no money' code='funds'",
    ],
    "tasks": [
        "t-1 completed task_id='t-1' result='WRITE IT DOWN'",
        "t-2 completed task_id='t-2' reason='a task needs a text'",
    ],
    "payments": [
        "p-1 processed",
        "p-2 to be verified: risk",
        "p-3 not found",
        "p-1 completed payment_id='p-1' receipt='r-p-1'",
        "p-2 completed payment_id='p-2' receipt='r-p-2'",
    ],
}
"""What each prints of its outcomes, in order."""
YES = signalled("approval", {"granted": True})
STORIES: dict[str, Sequence[Story]] = {
    "order": [
        [order.OrderPlaced(order_id="o-1", amount=40), order.Delivered(order_id="o-1")],
        [order.OrderPlaced(order_id="o-2", amount=4_000), YES, order.Delivered(order_id="o-2")],
        [
            order.OrderPlaced(order_id="o-3", amount=4_000),
            after("300ms"),
            signalled("approval", {"granted": False}),
        ],
        order.OrderPlaced(order_id="broke", amount=40),
    ],
    "tasks": [
        [tasks.TaskCreated(task_id="t-1", text="write it down"), signalled("start", {})],
        [tasks.TaskCreated(task_id="t-2", text="later"), after("2h"), signalled("start", {})],
        tasks.TaskCreated(task_id="t-3", text=" "),
    ],
    "payments": [
        [payments.PaymentAuthorised(payment_id="p-1"), updated("process", {"request": "1"})],
        [
            payments.PaymentAuthorised(payment_id="p-2", risk=90),
            updated("process", {"request": "1"}),
            signalled("verified", {"by": "ann"}),
        ],
    ],
}


def test_each_machine_is_known() -> None:
    modules = {path.stem for path in (ROOT / "examples" / "machines").glob("*.py")} - {"__init__"}

    assert set(SAYS) == set(STORIES) == modules


@pytest.mark.parametrize("name", SAYS)
def test_a_machine_that_is_killed_goes_on_as_if_nothing_had_happened(
    name: str, tmp_path: Path
) -> None:
    """Killed in one life after another, then run to its end by the command of its first line."""
    struck = ("-m", "tests.examples.struck", f"machines.{name}")
    lives = [run(tmp_path, *struck, str(commit)) for commit in LIVES]
    ran = run(tmp_path, str(ROOT / "examples" / "machines" / f"{name}.py"))

    assert [life.returncode for life in lives] == [-signal.SIGKILL] * len(LIVES), lives[-1].stderr
    assert ran.returncode == 0, ran.stderr
    assert [line for line in ran.stdout.splitlines() if line in SAYS[name]] == SAYS[name]


@pytest.mark.parametrize("name", SAYS)
def test_a_machine_holds_in_any_world(name: str) -> None:
    """Crashes, repeats, cancels and torn batches at random moments; see `World`."""
    module = import_module(f"examples.machines.{name}")
    statuses: Counter[str] = Counter()

    def note(world: WorldState) -> None:
        statuses.update(saga.status for saga in world.sagas)

    for seed in range(WORLDS):
        verdict = World(module.app, seed, triggers=STORIES[name], check=note).run()
        assert verdict.ok, verdict.report()
        assert not verdict.parked, verdict.report()

    assert statuses["completed"] > 0


def test_the_life_of_a_task_is_driven_from_the_command_line(tmp_path: Path) -> None:
    """As its README shows it; what the state does not allow is said before it is sent."""
    app = ("--app", "examples.machines.tasks:app")
    created = '{"task_id": "t-1", "text": "write it down"}'

    def saga(*words: str) -> subprocess.CompletedProcess[str]:
        return run(tmp_path, "-m", "saga", *words, *app)

    def in_state(state: str) -> None:
        deadline = time.monotonic() + HANG_S
        while "task/t-1" not in saga("ls", "--where", f"state={state}").stdout:
            assert time.monotonic() < deadline, saga("show", "task/t-1").stdout
            time.sleep(0.2)

    with running(tmp_path, "-m", "saga", "run", *app):
        assert saga("publish", "tasks.evt.task-created.v1", created).returncode == 0
        in_state("Validated")
        unknown = saga("signal", "task/t-1", "begin", "{}")
        assert saga("signal", "task/t-1", "start", "{}").returncode == 0
        in_state("Completed")
        late = saga("signal", "task/t-1", "start", "{}")
        nobody = saga("signal", "task/nobody", "start", "{}")
        history = saga("history", "task/t-1").stdout

    assert unknown.returncode == 1
    assert "nothing was sent, as saga task/t-1 would refuse it: neither Validated" in unknown.stderr
    assert '{"fields":{"state":"Processing"}}' in history
    assert late.returncode == 1
    assert "task/t-1 is completed already" in late.stderr
    assert nobody.returncode == 1
    assert "there is no saga task/nobody" in nobody.stderr
