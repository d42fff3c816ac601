"""Whoever waits for a saga's end is told, once, and leaves nothing behind."""

import asyncio

import pytest

from saga.core.identity import SagaId
from saga.core.status import SagaStatus
from saga.runtime.outcome_waiters import OutcomeWaiters, SagaOutcome

END = SagaOutcome(SagaStatus.COMPLETED, None, None, ())
A, B = SagaId("a"), SagaId("b")


async def test_everybody_who_waits_for_a_saga_is_told() -> None:
    """And nobody who waits for another one."""
    watchers = OutcomeWaiters()
    with watchers.watching(A) as first, watchers.watching(A) as second, watchers.watching(B) as b:
        assert sorted(watchers.watched()) == [A, B]
        watchers.tell(A, END)

        assert await first is END
        assert await second is END
        assert not b.done()
        assert watchers.watched() == [B]


async def test_to_stop_waiting_leaves_nothing_behind() -> None:
    """Also when it ends with an error, and also for one of two."""
    watchers = OutcomeWaiters()
    with watchers.watching(A) as first:
        with pytest.raises(TimeoutError), watchers.watching(A) as second:
            async with asyncio.timeout(0):
                await second
        assert watchers.is_watched(A)
        watchers.tell(A, END)
        assert first.result() is END

    assert not watchers.is_watched(A)
    assert watchers.watched() == []


async def test_to_tell_nobody_is_nothing() -> None:
    """Most sagas end unwatched; asking does not make them watched."""
    watchers = OutcomeWaiters()
    watchers.tell(A, END)

    assert not watchers.is_watched(A)
    assert watchers.watched() == []
