"""Workers whose machines' clocks are wrong, on a real Kafka and a real PostgreSQL."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from infra.programs import faketime_library
from saga.adapters.opening import open_store
from saga.core.events import TimerFired
from saga.core.intents import TimerArmed
from saga.settings import Settings
from tests.patience import HANG_S
from tests.scenarios.clock_app import OrderAsked, app

ROOT = Path(__file__).parents[2]
ORDERS = 16
SET_EVERY_S = 2
WRONG = ("+1h", "-1h", "+1m", "-1m")


class WrongMachine:
    """A machine whose clock says what a file tells."""

    def __init__(self, told: Path) -> None:
        self._told = told

    def set(self, distance: str) -> None:
        self._told.write_text(distance)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(faketime_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._told),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture
def deployment(kafka, postgres, namespace, tmp_path) -> dict[str, str]:
    effects = f"sqlite:///{tmp_path}/effects.db"
    return {
        "SAGA_BUS": kafka.url,
        "SAGA_STORE": postgres,
        "SAGA_EFFECTS_STORE": effects,
        "SAGA_NAMESPACE": namespace,
        "SAGA_APP": "tests.scenarios.clock_app:app",
        "SAGA_HTTP": "off",
    }


@asynccontextmanager
async def worker(deployment, machine: WrongMachine):
    """An orchestrator on that machine, which has joined its group."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "saga", "run", "--roles", "orchestrator"),
        cwd=ROOT,
        env={**os.environ, **deployment, **machine.environment()},
    )
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.slow
@pytest.mark.connected
async def test_good_orders_are_completed_whatever_the_clocks_say(deployment, tmp_path):
    """Four workers a minute and an hour off, whose clocks are set all the time."""
    read = {name.removeprefix("SAGA_").lower(): value for name, value in deployment.items()}
    settings = Settings.read({}, **read)
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(app.build_service(settings, roles=["effects"]))
        machines = []
        for number, distance in enumerate(WRONG):
            machine = WrongMachine(tmp_path / f"machine-{number}")
            machine.set(distance)
            machines.append(machine)
            await stack.enter_async_context(worker(deployment, machine))
        sagas = [await here.publish(OrderAsked(name=f"o-{n}")) for n in range(ORDERS)]
        ending = asyncio.gather(*(here.outcome(saga, timeout=HANG_S) for saga in sagas))
        turn = 0
        while not ending.done():
            await asyncio.sleep(SET_EVERY_S)
            turn += 1
            for number, machine in enumerate(machines):
                machine.set(WRONG[(number + turn) % len(WRONG)])
        statuses = {outcome.status.value for outcome in await ending}
    assert statuses == {"completed"}
    store = open_store(settings)
    for history in (await store.store.load(sagas)).values():
        times = [entry.at for entry in history]
        assert times == sorted(times)
        due = {e.body.timer_id: e.body.due_at for e in history if isinstance(e.body, TimerArmed)}
        fired = [entry for entry in history if isinstance(entry.body, TimerFired)]
        assert [entry for entry in fired if entry.at < due[entry.body.timer_id]] == []
        assert len(fired) == 4
    await store.close()
