"""Connections are shared: who is cancelled while waiting for one ends, and leaves it to others."""

import asyncio

from saga.adapters.postgres import Address, PostgresDatabase

MOMENTS = 12
"""More than there are between the return of a connection and its arrival at who waits for it."""


async def test_whoever_is_cancelled_as_a_connection_comes_ends(postgres: str) -> None:
    """At whichever moment on the connection's way the cancellation falls."""
    database = PostgresDatabase(Address(postgres), connections_max=1)

    async def read_on() -> None:
        for _ in range(100):
            await database.fetch("SELECT 1")

    for moments in range(MOMENTS):
        only = await database.borrow()
        reading = asyncio.create_task(read_on())
        await asyncio.sleep(0.01)
        await database.give_back(only)
        for _ in range(moments):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled(), f"it went on, cancelled {moments} moments later"

    assert await database.fetch("SELECT 2") == [(2,)]
    await database.close()
