"""A deployment under load, struck, and judged from outside when it has come to rest."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.chaos.outside import Outside

EVERYBODY = ("orchestrator-1", "orchestrator-2", "effects-1")
BEFORE_S, AFTERWARDS_S = 0.5, 0.3


async def start(deployment: Deployment, names: tuple[str, ...]) -> None:
    """Start these processes at the same time, and return when all of them serve."""
    for name in names:
        deployment.start(name, waits=False)
    for name in names:
        await asyncio.to_thread(deployment.wait_for, name)


async def under_load(
    deployment: Deployment,
    strike: Callable[[Client], Awaitable[None]],
    *,
    names: tuple[str, ...] = EVERYBODY,
) -> Client:
    """Let *strike* happen while orders come in, then wait for rest and check everything."""
    async with Client(deployment, seed=1) as client:
        await _strike(deployment, client, strike, names)
        outside = Outside(deployment, client.log)
        await outside.rest()
        assert await outside.check() == []
        assert client.log.triggers
    return client


def nobody_was_started_again(deployment: Deployment) -> bool:
    return all(member.starts == 1 for member in deployment.members.values())


async def _strike(
    deployment: Deployment,
    client: Client,
    strike: Callable[[Client], Awaitable[None]],
    names: tuple[str, ...],
) -> None:
    await start(deployment, names)
    is_over = asyncio.Event()
    ordering = asyncio.create_task(client.place_orders(is_over.is_set))
    try:
        await asyncio.sleep(BEFORE_S)
        await strike(client)
        await asyncio.sleep(AFTERWARDS_S)
    finally:
        is_over.set()
        await ordering
    deployment.revive()
