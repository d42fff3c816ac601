"""A lane gathers under load, and only then."""

import asyncio

import pytest

from saga.adapters.clocks import ManualClock
from saga.core.identity import Instant
from saga.ports import Inbound
from saga.runtime import batcher as module
from saga.runtime.batcher import GATHERED_RECORDS_MIN, Batcher

LOAD = 10
"""Records of the batch before."""
LONG_S = 30.0
"""Longer than any test machine stands still."""


def put(lane: Batcher, count: int) -> None:
    """Have that many records wait."""
    for offset in range(count):
        lane.put(Inbound("topic", 0, offset, b"key", b"{}", (), Instant(0)))


def take_batch(lane: Batcher, clock: ManualClock, *, records: int, took_s: float) -> None:
    """A batch of that many records has its turn."""
    put(lane, records)
    assert len(lane.take().inbound) == records
    with lane.at_work():
        clock.advance(took_s)


async def is_waiting(gathering: asyncio.Task[None]) -> bool:
    """Whether the lane still waits, once the loop has run what is ready."""
    for _ in range(5):
        await asyncio.sleep(0)
    return not gathering.done()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test is about ends the waiting."""
    monkeypatch.setattr(module, "GATHER_S_MAX", LONG_S)


async def test_a_loaded_lane_waits_for_as_many_records_as_the_last_batch_had() -> None:
    """One short of it, it waits; with the last one it goes on at once."""
    clock = ManualClock()
    lane = Batcher(clock)
    take_batch(lane, clock, records=LOAD, took_s=LONG_S)
    put(lane, LOAD - 1)
    gathering = asyncio.ensure_future(lane.gather())
    assert await is_waiting(gathering)
    put(lane, 1)
    assert not await is_waiting(gathering)
    assert len(lane.take().inbound) == LOAD


async def test_a_loaded_lane_waits_no_longer_than_the_last_batch_took() -> None:
    """The records that did not come are not waited for; those that did are all there."""
    clock = ManualClock()
    lane = Batcher(clock)
    take_batch(lane, clock, records=LOAD, took_s=0.003)
    put(lane, 1)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.timeout(LONG_S / 2):
        await lane.gather()
    assert loop.time() - began_s >= 0.002
    assert len(lane.take().inbound) == 1


async def test_time_since_the_last_batch_counts_as_waiting() -> None:
    """What comes after a pause is taken at once, however large the last batch was."""
    clock = ManualClock()
    lane = Batcher(clock)
    take_batch(lane, clock, records=LOAD, took_s=0.003)
    clock.advance(0.003)
    put(lane, 1)
    assert not await is_waiting(asyncio.ensure_future(lane.gather()))


async def test_a_slow_batch_makes_nobody_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch took seconds, because a store was away, gathering is bounded all the same."""
    monkeypatch.setattr(module, "GATHER_S_MAX", 0.02)
    clock = ManualClock()
    lane = Batcher(clock)
    take_batch(lane, clock, records=LOAD, took_s=LONG_S)
    put(lane, 1)
    async with asyncio.timeout(LONG_S / 2):
        await lane.gather()


async def test_a_lane_without_load_does_not_wait() -> None:
    """A few sagas are taken as they come."""
    clock = ManualClock()
    lane = Batcher(clock)
    take_batch(lane, clock, records=GATHERED_RECORDS_MIN - 1, took_s=LONG_S)
    put(lane, 1)
    assert not await is_waiting(asyncio.ensure_future(lane.gather()))


async def test_a_lane_that_falls_behind_does_not_wait() -> None:
    """More than the last batch had are there already."""
    clock = ManualClock()
    lane = Batcher(clock)
    take_batch(lane, clock, records=LOAD, took_s=LONG_S)
    put(lane, LOAD + 1)
    assert not await is_waiting(asyncio.ensure_future(lane.gather()))


async def test_a_lane_that_is_to_end_waits_no_more() -> None:
    """Nothing more will come: what it has is taken now."""
    clock = ManualClock()
    lane = Batcher(clock)
    take_batch(lane, clock, records=LOAD, took_s=LONG_S)
    put(lane, 1)
    gathering = asyncio.ensure_future(lane.gather())
    assert await is_waiting(gathering)
    lane.wait_no_more()
    assert not await is_waiting(gathering)
