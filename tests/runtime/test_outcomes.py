"""Those who wait for a saga's outcome are told once, and leave nothing behind."""

import asyncio

import pytest
from pydantic import field_validator

from saga.contracts import ContractRegistry, Event
from saga.core.events import Message
from saga.core.identity import SagaId
from saga.core.status import SagaStatus
from saga.errors import MalformedMessage
from saga.runtime.outcomes import Outcome, OutcomeWaiters

END = Outcome(SagaStatus.COMPLETED, None, None, ())
A, B = SagaId("a"), SagaId("b")


async def test_everybody_who_waits_for_a_saga_is_told():
    """Those who wait for another one are not."""
    waiters = OutcomeWaiters(ContractRegistry([]))
    with waiters.waiting(A) as first, waiters.waiting(A) as second, waiters.waiting(B) as b:
        assert sorted(waiters.awaited) == [A, B]
        waiters.tell(A, SagaStatus.COMPLETED)

        assert await first == END
        assert await second == END
        assert not b.done()
        assert [*waiters.awaited] == [B]


async def test_to_stop_waiting_leaves_nothing_behind():
    """Also when it ends with an error, and also for one of two."""
    waiters = OutcomeWaiters(ContractRegistry([]))
    with waiters.waiting(A) as first:
        with pytest.raises(TimeoutError), waiters.waiting(A) as second:
            async with asyncio.timeout(0):
                await second
        assert A in waiters.awaited
        waiters.tell(A, SagaStatus.COMPLETED)
        assert first.result() == END

    assert A not in waiters.awaited
    assert not waiters.awaited


async def test_to_tell_nobody_is_nothing():
    """Nobody waits for most sagas, and asking does not change that."""
    waiters = OutcomeWaiters(ContractRegistry([]))
    waiters.tell(A, SagaStatus.COMPLETED)

    assert A not in waiters.awaited
    assert not waiters.awaited


async def test_an_event_is_read_for_those_who_wait_and_for_nobody_else():
    """What tells second, of a turn and a look at the store, reads nothing."""
    read: list[str] = []

    class Noted(Event, topic="toys.noted", version=1):
        name: str

        @field_validator("name")
        @classmethod
        def _note(cls, name: str) -> str:
            read.append(name)
            return name

    waiters = OutcomeWaiters(ContractRegistry([Noted]))
    message = Message("toys.evt.noted.v1", '{"name":"x"}')
    with waiters.waiting(A):
        waiters.tell(A, SagaStatus.COMPLETED, message)
        waiters.tell(A, SagaStatus.COMPLETED, message)

    assert read == ["x"]


async def test_an_end_whose_event_cannot_be_read_fails_those_who_wait():
    """And nobody else."""

    class Picky(Event, topic="toys.picky", version=1):
        name: int

    waiters = OutcomeWaiters(ContractRegistry([Picky]))
    with waiters.waiting(A) as future:
        waiters.tell(A, SagaStatus.COMPLETED, Message("toys.evt.picky.v1", '{"name":"x"}'))

        with pytest.raises(MalformedMessage, match="name: expected a valid integer"):
            await future
