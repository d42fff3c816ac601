"""The machines do what they say, also in a process that is killed on the way, and in any world."""

import shlex
import subprocess
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from examples.machines.order import app as order
from examples.machines.payments import app as payments
from examples.machines.tasks import app as tasks
from saga.testing import (
    World,
    WorldState,
    after,
    completed,
    given,
    issued,
    refused,
    replied,
    signalled,
    updated,
)
from saga.testing.world.driver import Story
from tests.examples.running import (
    ROOT,
    consoles,
    kill_behind_each_commit,
    kill_in_the_middle,
    run,
    run_as_printed,
    running,
    said,
)
from tests.patience import HANG_S, wait_until

MACHINES = ROOT / "examples" / "machines"
WORLDS = 12
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
    assert set(STORIES) == {app.parent.name for app in MACHINES.glob("*/app.py")}


@pytest.mark.parametrize("name", STORIES)
def test_a_machine_that_is_killed_goes_on_as_if_nothing_had_happened(
    name: str, pair: dict[str, str], tmp_path: Path
) -> None:
    """Killed in the middle of its run, it ends and prints as where it is run as its README says."""
    unharmed = tmp_path / "unharmed"
    prints = run_as_printed(unharmed, MACHINES / name / "README.md")
    printed = kill_in_the_middle(tmp_path, f"examples.machines.{name}.app", unharmed, pair)

    assert said(prints, printed) == prints


@pytest.mark.long
@pytest.mark.parametrize("name", STORIES)
def test_behind_whichever_commit_a_machine_is_killed_it_ends_the_same(
    name: str, tmp_path: Path
) -> None:
    kill_behind_each_commit(tmp_path, f"examples.machines.{name}.app")


@pytest.mark.parametrize("name", STORIES)
def test_a_machine_holds_in_any_world(name: str) -> None:
    """Crashes, repeats, cancels and torn batches at random moments; see `World`."""
    module = import_module(f"examples.machines.{name}.app")
    statuses: Counter[str] = Counter()

    def note(world: WorldState) -> None:
        statuses.update(saga.status for saga in world.sagas)

    for seed in range(WORLDS):
        verdict = World(module.app, seed, triggers=STORIES[name], check=note).run()
        assert verdict.ok, verdict.report()
        assert not verdict.parked, verdict.report()

    assert statuses["completed"] > 0


def test_the_life_of_a_task_is_driven_from_the_command_line(tmp_path: Path) -> None:
    """As its README types it; what the state does not allow is said before it is sent."""
    exported, running_, publish, ls, begin, start, show, again, told = commands_of_a_task()
    app = {"SAGA_APP": exported[-1].removeprefix("SAGA_APP=")}

    def saga(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return run(tmp_path, "-m", *words, settings=app)

    def in_state(state: str) -> None:
        words = [*ls[:-1], f"state={state}"]
        wait_until(lambda: "task/t-1" in saga(words).stdout, or_else=lambda: saga(show).stdout)

    with running(tmp_path, "-m", *running_[:2], settings=app):
        assert saga(publish).returncode == 0
        in_state(ls[-1].removeprefix("state="))
        unknown = saga(begin)
        assert saga(start).returncode == 0
        in_state("Completed")
        late = saga(again)
        nobody = saga(["saga", "signal", "task/nobody", "start", "{}"])
        history = saga(told).stdout

    assert unknown.returncode == 1
    assert "nothing was sent, as saga task/t-1 would refuse it: neither Validated" in unknown.stderr
    assert '{"fields":{"state":"Processing"}}' in history
    assert late.returncode == 1
    assert "task/t-1 is completed already" in late.stderr
    assert nobody.returncode == 1
    assert "there is no saga task/nobody" in nobody.stderr


def commands_of_a_task() -> list[list[str]]:
    """What its README types by hand, as words."""
    by_hand = consoles(MACHINES / "tasks" / "README.md")[1]
    return [shlex.split(command, comments=True) for command in by_hand.commands]


async def test_a_runtime_gives_one_of_three_results(tmp_path: Path) -> None:
    """And the same one to the same request, though its payment has moved on."""
    store = f"sqlite:///{tmp_path}/saga.db"
    first, second = (payments.ProcessPayment(request=each) for each in "12")
    fine, risky = (payments.PaymentId(each) for each in ("p-1", "p-2"))
    async with payments.app.service(store=store, bus=f"local:///{tmp_path}/bus.db") as service:
        runtime = payments.PaymentRuntime(service)
        await service.start(payments.PaymentAuthorised(payment_id=fine))
        await service.start(payments.PaymentAuthorised(payment_id=risky, risk=90))
        await service.idle()

        required = payments.VerificationRequired(reason=payments.VerificationReason.RISK)
        assert await runtime.run(risky, first) == required
        assert await runtime.run(risky, second) == required
        processed = payments.PaymentProcessed(payment_id=fine)
        assert await runtime.run(fine, first) == processed
        await service.outcome("payment/p-1", timeout=HANG_S)
        assert await runtime.run(fine, first) == processed
        nobody = payments.PaymentId("p-3")
        assert await runtime.run(nobody, first) == payments.PaymentNotFound(payment_id=nobody)


def test_a_task_goes_through_its_life() -> None:
    """Each state by its name; a start that is early is kept for `Validated`."""
    (
        given(tasks.task, tasks.TaskCreated(task_id="t-1", text="x"), signalled("start", {}))
        .in_state(tasks.Created)
        .when(replied(tasks.ValidateTask, tasks.TaskValidated(words=1)))
        .then(issued(tasks.ProcessTask))
        .in_state(tasks.Processing)
        .when(replied(tasks.ProcessTask, tasks.TaskProcessed(result="X")))
        .then(issued(tasks.PersistTask(task_id="t-1", result="X")))
        .in_state(tasks.Processing)
        .when(replied(tasks.PersistTask))
        .then(completed(tasks.TaskCompleted(task_id="t-1", result="X")))
        .in_state(tasks.Completed)
    )


def test_a_task_fails_from_each_state_but_the_last() -> None:
    created = given(tasks.task, tasks.TaskCreated(task_id="t-1", text="x"))
    validated = given(tasks.task, tasks.TaskCreated(task_id="t-1", text="x")).when(
        replied(tasks.ValidateTask, tasks.TaskValidated(words=1))
    )
    processing = given(
        tasks.task,
        tasks.TaskCreated(task_id="t-1", text="x"),
        replied(tasks.ValidateTask, tasks.TaskValidated(words=1)),
        signalled("start", {}),
    )
    ends = [
        (created.in_state(tasks.Created), refused(tasks.ValidateTask, "no", code="no"), "no"),
        (validated.in_state(tasks.Validated), after("1h"), "no signal 'start' came in time"),
        (processing.in_state(tasks.Processing), refused(tasks.ProcessTask, "no", code="no"), "no"),
    ]
    for scenario, happens, reason in ends:
        scenario.when(happens).in_state(tasks.Failed)
        scenario.then(completed(tasks.TaskFailed(task_id="t-1", reason=reason)))


def test_the_services_of_a_task_share_nothing() -> None:
    """Each is a service of its own, and its handlers use no name but their contract's."""
    names = {each.name for each in (tasks.validator, tasks.processor, tasks.persistence)}
    used = {
        name
        for handler in (tasks.validate, tasks.process, tasks.persist)
        for name in handler.__code__.co_names
        if hasattr(tasks, name)
    }

    assert len(names) == 3
    assert used == {"Refused", "TaskValidated", "TaskProcessed"}
