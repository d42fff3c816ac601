"""The batcher lingers under load, and only then."""

import asyncio

import pytest

from saga.adapters.clocks import ManualClock
from saga.core.identity import Instant
from saga.ports import Inbound
from saga.runtime import orchestrator as module
from saga.runtime.orchestrator import LINGER_RECORDS_MIN, Batcher
from tests.patience import HANG_S

LOAD = 10
"""Records of the batch before."""
LONG_S = 2 * HANG_S
"""Longer than any test machine stands still."""


def put(batcher: Batcher, count: int) -> None:
    for offset in range(count):
        batcher.put([Inbound("topic", 0, offset, b"key", b"{}", (), Instant(0))])


def take_batch(batcher: Batcher, clock: ManualClock, *, records: int, took_s: float) -> None:
    """A batch of that many records has its turn."""
    put(batcher, records)
    batch = batcher.take()
    assert len(batch.records) == records
    batcher.begin()
    clock.advance(took_s)
    batcher.end(batch)


async def is_waiting(lingering: asyncio.Task[None]) -> bool:
    """Whether the batcher still waits, once the loop has run what is ready."""
    for _ in range(5):
        await asyncio.sleep(0)
    return not lingering.done()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test ends the waiting in its own way."""
    monkeypatch.setattr(module, "LINGER_S_MAX", LONG_S)


async def test_a_loaded_batcher_waits_for_as_many_records_as_the_last_batch_had():
    """One short of it, it waits; with the last one it goes on at once."""
    clock = ManualClock()
    batcher = Batcher(clock)
    take_batch(batcher, clock, records=LOAD, took_s=LONG_S)
    put(batcher, LOAD - 1)
    lingering = asyncio.ensure_future(batcher.linger())
    assert await is_waiting(lingering)
    put(batcher, 1)
    assert not await is_waiting(lingering)
    assert len(batcher.take().records) == LOAD


async def test_a_loaded_batcher_waits_no_longer_than_the_last_batch_took():
    """The records that did not come are not waited for; those that did are all there."""
    clock = ManualClock()
    batcher = Batcher(clock)
    take_batch(batcher, clock, records=LOAD, took_s=0.003)
    put(batcher, 1)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.timeout(HANG_S):
        await batcher.linger()
    assert loop.time() - began_s >= 0.002
    assert len(batcher.take().records) == 1


async def test_time_since_the_last_batch_counts_as_waiting():
    """A record after a pause is taken at once, however large the last batch was."""
    clock = ManualClock()
    batcher = Batcher(clock)
    take_batch(batcher, clock, records=LOAD, took_s=0.003)
    clock.advance(0.003)
    put(batcher, 1)
    assert not await is_waiting(asyncio.ensure_future(batcher.linger()))


async def test_a_slow_batch_makes_nobody_wait_long(monkeypatch):
    """Where a batch took seconds, because a store was away, lingering is bounded all the same."""
    monkeypatch.setattr(module, "LINGER_S_MAX", 0.02)
    clock = ManualClock()
    batcher = Batcher(clock)
    take_batch(batcher, clock, records=LOAD, took_s=LONG_S)
    put(batcher, 1)
    async with asyncio.timeout(HANG_S):
        await batcher.linger()


async def test_a_batcher_without_load_does_not_wait():
    """A few sagas are taken as they come."""
    clock = ManualClock()
    batcher = Batcher(clock)
    take_batch(batcher, clock, records=LINGER_RECORDS_MIN - 1, took_s=LONG_S)
    put(batcher, 1)
    assert not await is_waiting(asyncio.ensure_future(batcher.linger()))


async def test_a_batcher_that_falls_behind_does_not_wait():
    """More than the last batch had are there already."""
    clock = ManualClock()
    batcher = Batcher(clock)
    take_batch(batcher, clock, records=LOAD, took_s=LONG_S)
    put(batcher, LOAD + 1)
    assert not await is_waiting(asyncio.ensure_future(batcher.linger()))


async def test_a_batcher_that_is_to_end_waits_no_more():
    """Nothing more will come, so the pending records are taken now."""
    clock = ManualClock()
    batcher = Batcher(clock)
    take_batch(batcher, clock, records=LOAD, took_s=LONG_S)
    put(batcher, 1)
    lingering = asyncio.ensure_future(batcher.linger())
    assert await is_waiting(lingering)
    batcher.wait_no_more()
    assert not await is_waiting(lingering)
