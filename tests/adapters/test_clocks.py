"""The clocks."""

import asyncio
import time

from saga.adapters.clocks import ManualClock, SystemClock
from saga.core.identity import Instant


async def test_the_system_clock_is_the_machine_s() -> None:
    """Microseconds of wall time, and sleeps that last."""
    clock = SystemClock()
    before, started_s = clock.now(), clock.monotonic_s()

    await clock.sleep(0.002)

    assert abs(clock.now() / 1_000_000 - time.time()) < 60
    assert clock.now() > before
    assert clock.monotonic_s() - started_s >= 0.0019


async def test_a_manual_clock_wakes_sleepers_in_order_of_time() -> None:
    """It stands still until it is advanced, and then wakes those who are due, the earliest
    first.
    """
    clock = ManualClock(Instant(1_000_000))
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (3, 1, 2, 9, 0)]
    await asyncio.sleep(0.001)
    assert woken == [0]
    assert clock.next_wake_s() == 1

    clock.advance(3)
    await asyncio.sleep(0.001)

    assert woken == [0, 1, 2, 3]
    assert (clock.now(), clock.monotonic_s()) == (4_000_000, 3)
    tasks[3].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert clock.next_wake_s() is None
