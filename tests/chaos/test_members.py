"""Who joins, leaves, comes back or comes back too late: groups of real processes under load."""

import asyncio
import threading

import pytest

from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.chaos.load import EVERYBODY, nobody_was_started_again, under_load
from tests.chaos.outside import Outside
from tests.patience import HANG_S, until
from tests.proxy import Proxy

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
            may_pass.wait(HANG_S)

    async def is_refused() -> bool:
        return await deployment.members["orchestrator-1"].counted("saga_conflicts_total") >= 1

    async def strike(client: Client) -> None:
        proxy.at_commit = freeze_at_commit
        await until(is_held.is_set)
        successor = deployment.members["orchestrator-2"]
        before = successor.said(ASSIGNED)
        deployment.freeze("effects-1")
        await until(lambda: successor.said(ASSIGNED) > before)
        await Outside(deployment, client.log).another_ends()
        may_pass.set()
        deployment.thaw("orchestrator-1")
        deployment.thaw("effects-1")
        await until(is_refused)

    with Proxy(deployment.store) as proxy:
        deployment.given["orchestrator-1"] = {"SAGA_STORE": proxy.url}
        await under_load(deployment, strike, names=(*EVERYBODY, "effects-2"))

    assert nobody_was_started_again(deployment)


async def test_orchestrators_join_and_leave_and_sagas_go_on(deployment: Deployment) -> None:
    """Whoever joins or leaves, is told to or is killed."""

    async def strike(client: Client) -> None:
        outside = Outside(deployment, client.log)
        await outside.another_ends()
        joining = [
            await asyncio.to_thread(deployment.start, f"orchestrator-{number}") for number in (3, 4)
        ]
        await until(lambda: all(member.said(ASSIGNED) for member in joining))
        await outside.another_ends()
        for number in (1, 3):
            await asyncio.to_thread(deployment.stop, f"orchestrator-{number}")
            del deployment.members[f"orchestrator-{number}"]
        await outside.another_ends()
        deployment.kill("orchestrator-4")
        del deployment.members["orchestrator-4"]
        await outside.another_ends()

    await under_load(deployment, strike)


async def test_a_static_member_comes_back_without_a_rebalance(deployment: Deployment) -> None:
    """Killed and started within its session, it has its partitions back; others notice nothing."""
    for name in ("orchestrator-1", "orchestrator-2"):
        # So long that a busy machine has it started again in time.
        settings = {"SAGA_KAFKA_INSTANCE_ID": name, "SAGA_KAFKA_SESSION_TIMEOUT": "5m"}
        deployment.given[name] = settings
    before = after = 0

    def have_settled(partitions: int) -> bool:
        """Whether each reads its share, as both have said last."""
        shares = [deployment.members[name].share for name in EVERYBODY[:2]]
        return all(shares) and sum(shares) == partitions

    async def strike(client: Client) -> None:
        nonlocal before, after
        heard = Outside(deployment, client.log).heard
        await until(lambda: have_settled(len(heard) * deployment.partitions))
        before = deployment.members["orchestrator-2"].said(ASSIGNED)
        await asyncio.to_thread(deployment.kill, "orchestrator-1")
        member = await asyncio.to_thread(deployment.start, "orchestrator-1")
        await until(lambda: member.said(ASSIGNED))
        await asyncio.sleep(HEARTBEATS_S)
        after = deployment.members["orchestrator-2"].said(ASSIGNED)

    await under_load(deployment, strike)

    assert before == after >= 1
    assert deployment.members["orchestrator-1"].said(ASSIGNED) == 1
    assert deployment.members["orchestrator-1"].starts == 2
