"""Who joins, leaves, comes back or comes back too late: groups of real processes under load."""

import asyncio
import threading

import pytest

from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.chaos.load import EVERYBODY, nobody_was_started_again, under_load
from tests.chaos.outside import Outside
from tests.proxy import Proxy

SESSION_S = 6.0
STALL_S_MAX = 10.0
HOLD_S_MAX = 60.0
WAIT_S = 60.0
HEARTBEATS_S = 3.0
"""By which a member hears of a rebalance."""
ASSIGNED = "partitions are assigned"

pytestmark = pytest.mark.slow


async def test_a_zombie_fails_on_the_store(deployment: Deployment) -> None:
    """Frozen with a decided batch for longer than its session; it wakes up and is refused."""
    is_held, may_pass = threading.Event(), threading.Event()

    def freeze_at_commit() -> None:
        if not is_held.is_set():
            deployment.freeze("orchestrator-1")
            is_held.set()
            may_pass.wait(HOLD_S_MAX)

    async def strike(client: Client) -> None:
        proxy.at_commit = freeze_at_commit
        assert await asyncio.to_thread(is_held.wait, SESSION_S)
        deployment.freeze("effects-1")
        await asyncio.sleep(SESSION_S + 3)
        may_pass.set()
        deployment.thaw("orchestrator-1")
        deployment.thaw("effects-1")
        await asyncio.sleep(2)

    with Proxy(deployment.store) as proxy:
        deployment.given["orchestrator-1"] = {"SAGA_STORE": proxy.url}
        await under_load(deployment, strike, names=(*EVERYBODY, "effects-2"))
        refused = await deployment.members["orchestrator-1"].counted("saga_conflicts_total")

    assert refused >= 1
    assert nobody_was_started_again(deployment)


async def test_orchestrators_join_and_leave_without_a_long_stall(deployment: Deployment) -> None:
    """Whoever joins or leaves, is told to or is killed, sagas go on to end within ten seconds."""
    longest_s = 0.0

    async def strike(client: Client) -> None:
        nonlocal longest_s
        outside = Outside(deployment, client.log)
        watching = asyncio.create_task(outside.longest_stall(25))
        await asyncio.sleep(1)
        for number in (3, 4):
            await asyncio.to_thread(deployment.start, f"orchestrator-{number}")
        await asyncio.sleep(1)
        assert all(deployment.members[f"orchestrator-{number}"].said(ASSIGNED) for number in (3, 4))
        for number in (1, 3):
            await asyncio.to_thread(deployment.stop, f"orchestrator-{number}")
            del deployment.members[f"orchestrator-{number}"]
        await asyncio.sleep(1)
        deployment.kill("orchestrator-4")
        del deployment.members["orchestrator-4"]
        longest_s = await watching

    await under_load(deployment, strike)

    assert 0 < longest_s < STALL_S_MAX


async def test_a_static_member_comes_back_without_a_rebalance(deployment: Deployment) -> None:
    """Killed and started within its session, it has its partitions back; others notice nothing."""
    for name in ("orchestrator-1", "orchestrator-2"):
        # So long that a busy machine has it started again in time.
        settings = {"SAGA_KAFKA_INSTANCE_ID": name, "SAGA_KAFKA_SESSION_TIMEOUT": "1m"}
        deployment.given[name] = settings
    before = after = 0

    async def strike(client: Client) -> None:
        nonlocal before, after
        before = deployment.members["orchestrator-2"].said(ASSIGNED)
        await asyncio.to_thread(deployment.kill, "orchestrator-1")
        member = await asyncio.to_thread(deployment.start, "orchestrator-1")
        async with asyncio.timeout(WAIT_S):
            while not member.said(ASSIGNED):  # noqa: ASYNC110 - only its log shows it
                await asyncio.sleep(0.1)
        await asyncio.sleep(HEARTBEATS_S)
        after = deployment.members["orchestrator-2"].said(ASSIGNED)

    await under_load(deployment, strike)

    assert before == after >= 1
    assert deployment.members["orchestrator-1"].said(ASSIGNED) == 1
    assert deployment.members["orchestrator-1"].starts == 2
