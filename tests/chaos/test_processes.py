"""
What befalls processes on a real Kafka and PostgreSQL, under load; judged from outside afterwards.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from urllib.parse import urlsplit

import pytest

from tests.chaos.cast import Cast
from tests.chaos.client import Client
from tests.chaos.outside import Outside
from tests.proxy import Cut, Proxy, through

EVERYBODY = ("orchestrator-1", "orchestrator-2", "effects-1")
SESSION_S = 6.0


async def under_load(
    cast: Cast, strike: Callable[[Client], Awaitable[None]], *, names: tuple[str, ...] = EVERYBODY
) -> Client:
    """
    Let *strike* happen while orders come in, then wait for rest and check everything.
    """
    client = Client(cast, seed=1)
    await client.open()
    for name in names:
        cast.start(name, waits=False)
    for name in names:
        await asyncio.to_thread(cast.wait_for, name)
    is_over = asyncio.Event()
    trading = asyncio.create_task(client.trade(is_over.is_set))
    try:
        await asyncio.sleep(0.5)
        await strike(client)
        await asyncio.sleep(0.3)
    finally:
        is_over.set()
        await trading
    cast.revive()
    outside = Outside(cast, client.log)
    await outside.rest()
    violations = await outside.check()
    await client.close()
    assert violations == []
    assert client.log.orders
    return client


@pytest.mark.timeout(120)
async def test_whoever_is_killed_nothing_is_lost_or_done_twice(cast: Cast) -> None:
    """
    Kill -9 of each process in turn, at random moments.
    """
    rng = Random(7)

    async def strike(client: Client) -> None:
        for name in EVERYBODY:
            await asyncio.sleep(rng.uniform(0.1, 0.5))
            await asyncio.to_thread(cast.kill, name)
            cast.start(name, waits=False)

    await under_load(cast, strike)

    assert all(cast.members[name].starts == 2 for name in EVERYBODY)


@pytest.mark.timeout(120)
async def test_a_commit_whose_answer_is_lost_is_found_out_about(cast: Cast) -> None:
    """
    The connection is cut after COMMIT and before its answer, again and again.
    """
    rng = Random(3)
    address = urlsplit(cast.store)
    with Proxy(address.hostname or "", address.port or 0) as proxy:
        direct, cast.store = cast.store, through(cast.store, proxy.port)

        async def strike(client: Client) -> None:
            proxy.at_commit = lambda: rng.choice((None, None, Cut.AFTER, Cut.BEFORE))
            await asyncio.sleep(3)
            proxy.at_commit = lambda: None

        await under_load(cast, strike)
        cast.store = direct

    assert proxy.cuts > 3, proxy.cuts


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_zombie_fails_on_the_store(cast: Cast) -> None:
    """
    Frozen for longer than its session lasts, and back: others have gone on meanwhile.
    """

    async def strike(client: Client) -> None:
        cast.freeze("orchestrator-1")
        await asyncio.sleep(SESSION_S + 3)
        cast.thaw("orchestrator-1")
        await asyncio.sleep(2)

    await under_load(cast, strike)

    assert cast.members["orchestrator-1"].starts == 1


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_orchestrators_join_and_leave_without_a_long_stall(cast: Cast) -> None:
    """
    Whoever joins or leaves, sagas go on to end within ten seconds.
    """
    longest_s = 0.0

    async def strike(client: Client) -> None:
        nonlocal longest_s
        outside = Outside(cast, client.log)
        watching = asyncio.create_task(outside.longest_stall(12))
        await asyncio.sleep(1)
        for number in (3, 4):
            await asyncio.to_thread(cast.start, f"orchestrator-{number}")
        await asyncio.sleep(1)
        for number in (1, 3):
            await asyncio.to_thread(cast.stop, f"orchestrator-{number}")
            del cast.members[f"orchestrator-{number}"]
        longest_s = await watching

    began_s = time.monotonic()
    await under_load(cast, strike)

    assert longest_s < 10, (longest_s, time.monotonic() - began_s)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_slow_store_only_slows(cast: Cast) -> None:
    """
    Each answer of the database takes 200 ms: nothing is given up, parked or done twice.
    """
    address = urlsplit(cast.store)
    with Proxy(address.hostname or "", address.port or 0) as proxy:
        direct, cast.store = cast.store, through(cast.store, proxy.port)

        async def strike(client: Client) -> None:
            proxy.delay_s = 0.2
            await asyncio.sleep(5)
            proxy.delay_s = 0.0

        await under_load(cast, strike)
        cast.store = direct
