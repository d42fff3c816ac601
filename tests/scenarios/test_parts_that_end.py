"""Each task in the background of a whole service: however it ends, nobody takes that for health.

A role ends with what has ended its task. Whoever waits is told at once, `problems` and `status` say
so, stopping raises it, and `saga run` ends with it.
"""

import asyncio
import importlib
import logging
from pathlib import Path

import pytest

from saga.errors import TaskEnded
from tests.patience import HANG_S
from tests.scenarios import order_app

TASKS = {
    "the watch over timers": "saga.runtime.orchestrator:Orchestrator._watch_timers",
    "the sweep": "saga.runtime.orchestrator:Orchestrator._sweep_now_and_then",
    "the lane of turns": "saga.runtime.orchestrator:Orchestrator._drive",
    "the committer of offsets": "saga.runtime.orchestrator:Receiver.commit_now_and_then",
    "orchestrator": "saga.runtime.orchestrator:Receiver.receive",
    "outcome poller": "saga.runtime.outcomes:OutcomePoller._poll",
    "the publisher of answers": "saga.effects.service:EffectsService._publish",
    "the reader of intents": "saga.effects.service:EffectsService._fetch",
    "the handlers": "saga.effects.handling:WorkerPool.run",
    "the watch over slow handlers": "saga.effects.handling:WorkerPool._watch",
    "local bus": "saga.adapters.sqlite.bus:LocalBus._tend",
}
"""By the name of the task what it runs."""
WAYS = ["raises", "returns", "is cancelled"]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1)


def break_task(monkeypatch: pytest.MonkeyPatch, name: str, way: str, go: asyncio.Event) -> None:
    """Have the task of this *name* end that *way*, once *go* is set."""
    module, _, place = TASKS[name].partition(":")
    owner, _, method = place.partition(".")
    real = getattr(getattr(importlib.import_module(module), owner), method)

    async def ending(self, *args):
        working = asyncio.ensure_future(real(self, *args))
        try:
            await go.wait()
        finally:
            working.cancel()
        if way == "raises":
            raise LookupError("no more")

    if way != "is cancelled":
        monkeypatch.setattr(getattr(importlib.import_module(module), owner), method, ending)


def cancel_task(name: str) -> None:
    """As somebody does who cancels what he finds among all tasks of the loop."""
    task, *_ = [task for task in asyncio.all_tasks() if task.get_name() == name]
    task.cancel()


async def ended(service, name: str, way: str, go: asyncio.Event) -> None:
    """The part of that name ends; what everybody who asks is told."""
    first = await service.publish(order_app.OrderPlaced(order_id="before"))
    assert (await service.outcome(first, timeout=HANG_S)).status == "completed"
    assert set(service.status().values()) == {"up"}
    waiting = [asyncio.create_task(service.outcome(saga)) for saga in await stuck(service)]
    go.set()
    if way == "is cancelled":
        cancel_task(name)
    async with asyncio.timeout(HANG_S):
        await service.wait()
        await asyncio.wait(waiting)

    for asked in (*waiting, service.outcome(first), service.idle()):
        with pytest.raises((LookupError, TaskEnded)):
            await asked
    assert await service.problems() != []
    assert [why for why in service.status().values() if why != "up"] != []
    with pytest.raises((LookupError, TaskEnded)):
        await service.stop()


async def stuck(service) -> list[str]:
    """A saga that waits for something that does not come."""
    event = order_app.OrderPlaced(order_id="waits", wants_approval=True)
    return [await service.publish(event)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TASKS)
async def test_a_task_that_ends_is_told_to_everybody_at_once(
    name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = asyncio.Event()
    break_task(monkeypatch, name, way, go)
    service = order_app.service(tmp_path)
    await service.open()
    await ended(service, name, way, go)


ON_SERVERS = [
    *("the watch over timers", "the sweep", "the lane of turns", "the committer of offsets"),
    *("orchestrator", "outcome poller", "the publisher of answers", "the reader of intents"),
    *("the handlers", "the watch over slow handlers", "FastStream's loop"),
]
QUICK = {"the lane of turns", "the handlers", "FastStream's loop"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (name not in QUICK)) for name in ON_SERVERS],
)
async def test_a_task_that_is_cancelled_is_told_to_everybody_on_servers(
    name: str, kafka, postgres: str, namespace: str, tmp_path: Path
) -> None:
    """The loop of FastStream, too, which FastStream itself begins anew only after an error."""
    places = {"bus": kafka.url, "store": postgres, "effects_store": postgres}
    service = order_app.service(tmp_path, namespace=namespace, **places)
    await service.open()
    if name == "FastStream's loop":
        for task in asyncio.all_tasks():
            if "_run_consume_loop" in str(task.get_coro()):
                task.set_name(name)
    await ended(service, name, "is cancelled", asyncio.Event())
