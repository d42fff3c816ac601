"""A process is killed between two runs of a saga, or between a definition's pause and its sagas'.

What was done until then is done again under the same ids, as by somebody who saw no end of it.
"""

import asyncio
import json
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing

import pytest

from saga.audit.replaying import replay_all
from saga.core.events import Paused, Resumed
from saga.core.intents import Continued, IntentIssued
from saga.core.status import SagaStatus
from tests.adapters.processes import ROOT
from tests.patience import HANG_S
from tests.scenarios import struck_turns
from tests.scenarios.struck_turns import ORDERS, PAUSE_POINTS, RUN_POINTS, RUNS, orders
from tests.toys import OrderConfirmed

pytestmark = pytest.mark.timeout(5 * HANG_S)


@pytest.fixture(
    params=[
        "files",
        pytest.param("one file", marks=pytest.mark.long),
        pytest.param("postgres", marks=[pytest.mark.connected, pytest.mark.long]),
    ]
)
def places(request, tmp_path):
    store = f"sqlite:///{tmp_path}/saga.db"
    if request.param == "postgres":
        store = request.getfixturevalue("postgres")
    bus = "saga.db" if request.param == "one file" else "bus.db"
    return {
        "bus": f"local:///{tmp_path}/{bus}",
        "store": store,
        "effects_store": f"sqlite:///{tmp_path}/effects.db",
    }


async def strike(places, point):
    """Serve until the process has come to *point*, and is gone."""
    module = "tests.scenarios.struck_turns"
    command = (sys.executable, "-m", module, json.dumps(places), point)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        async with asyncio.timeout(HANG_S):
            assert await process.wait() == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()


def paid(places):
    """How often each amount of each order was paid, as the shop's own table says."""
    path = places["effects_store"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT order_id, amount FROM paid").fetchall()
    return Counter(rows)


async def check_ended(service, places, expected):
    """All have completed, each step was done once, and every history replays."""
    for number, order in enumerate(orders()):
        outcome = await service.outcome(order, timeout=HANG_S)
        assert outcome.status is SagaStatus.COMPLETED
        assert outcome.event == OrderConfirmed(order_id=f"o-{number}")
    assert paid(places) == expected
    registry = struck_turns.app().registry
    store = service._store  # noqa: SLF001  # a whole history is read nowhere else
    replays = [each async for each in replay_all(store, service.catalogue, registry)]
    assert [each.is_ok for each in replays] == [True] * ORDERS


async def bodies(service, kind):
    """What all histories have of this kind, by saga."""
    found = {order: [] for order in orders()}
    async for _, entry in service.catalogue.log():
        if isinstance(entry.body, kind):
            found[entry.saga_id].append(entry.body)
    return found


@pytest.mark.parametrize("point", RUN_POINTS)
async def test_killed_between_two_runs_each_is_once(places, point):
    """Its end and the next one's first step are stored together, or neither is."""
    await strike(places, point)
    async with struck_turns.app().service(**places) as service:
        await struck_turns.place(service, waits=False)
        await check_ended(
            service,
            places,
            {(f"o-{n}", amount): 1 for n in range(ORDERS) for amount in range(1, RUNS + 1)},
        )
        runs = await bodies(service, Continued)
        steps = await bodies(service, IntentIssued)

    expected = ["pay", *(f"{run}.pay" for run in range(2, RUNS + 1))]
    for order in orders():
        assert [each.run for each in runs[order]] == list(range(2, RUNS + 1))
        assert [each.step for each in steps[order]] == expected


@pytest.mark.parametrize("point", PAUSE_POINTS)
async def test_killed_between_a_definition_s_pause_and_its_sagas_all_go_on_once(places, point):
    """Nobody goes on before that, and nobody twice."""
    await strike(places, point)
    half = {(f"o-{number}", RUNS): 1 for number in range(ORDERS)}
    async with struck_turns.app().service(**places) as service:
        await struck_turns.place(service, waits=True)
        await struck_turns.pause(service)
        await struck_turns.approve(service)
        await service.idle(timeout=HANG_S)
        if "paus" in point:
            assert paid(places) == half
            rows = await service.catalogue.summaries(orders())
            assert {each.paused for each in rows} == {"definition"}
        await struck_turns.resume(service)
        whole = {(f"o-{number}", 0): 1 for number in range(ORDERS)}
        await check_ended(service, places, half | whole)
        kinds = {kind: await bodies(service, kind) for kind in (Paused, Resumed)}
        rest = [
            [each.step for each in issued]
            for issued in (await bodies(service, IntentIssued)).values()
        ]

    assert rest == [["pay", "rest"]] * ORDERS
    for kind, found in kinds.items():
        assert {len(each) for each in found.values()} == {1}, kind
