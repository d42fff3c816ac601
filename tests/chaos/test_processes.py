"""What befalls processes on real servers, under load; judged from outside afterwards."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.chaos.load import EVERYBODY, under_load
from tests.patience import until
from tests.proxy import Cut, Proxy

CUTS = 5


async def test_whoever_is_killed_nothing_is_lost_or_done_twice(deployment: Deployment) -> None:
    """Kill -9 of each process in turn, at random moments."""
    rng = Random(7)

    async def strike(client: Client) -> None:
        for name in EVERYBODY:
            await asyncio.sleep(rng.uniform(0.1, 0.5))
            await asyncio.to_thread(deployment.kill, name)
            deployment.start(name, waits=False)

    await under_load(deployment, strike)

    assert all(deployment.members[name].starts == 2 for name in EVERYBODY)


@pytest.fixture
def proxy(deployment: Deployment) -> Iterator[Proxy]:
    """On the way of everybody to the store."""
    direct = deployment.store
    with Proxy(direct) as proxy:
        deployment.store = proxy.url
        yield proxy
        deployment.store = direct


@pytest.mark.long
async def test_a_commit_whose_answer_is_lost_is_found_out_about(
    deployment: Deployment, proxy: Proxy
) -> None:
    """The connection is cut after COMMIT and before its answer, again and again."""
    rng = Random(3)

    async def strike(client: Client) -> None:
        proxy.at_commit = lambda: rng.choice((None, None, Cut.AFTER, Cut.BEFORE))
        await until(lambda: proxy.cuts > CUTS)
        proxy.at_commit = lambda: None

    await under_load(deployment, strike)


@pytest.mark.slow
async def test_a_slow_store_only_slows(deployment: Deployment, proxy: Proxy) -> None:
    """Each answer of the database takes 200 ms: nothing is given up, parked or done twice."""

    async def strike(client: Client) -> None:
        proxy.delay_s = 0.2
        await asyncio.sleep(5)
        proxy.delay_s = 0.0

    await under_load(deployment, strike)
