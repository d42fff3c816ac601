"""Texts that a saga's code gives: any character, any length; what is found by a name is refused.

`tests/FAULTS.md`, number 3.
"""

import pytest
from pydantic import BaseModel, field_validator

from saga.adapters.mapper import to_state
from saga.authoring import RollBack, StepFailed, TimedOut
from saga.core.history import turn_of
from saga.core.state import waiting_for
from saga.core.texts import is_storable
from saga.errors import ReplayMismatch
from saga.testing import given, noted, replied, signalled
from tests.toys import (
    CONTRACTS,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderSeen,
    Paid,
    Pay,
    Refund,
    Reserve,
    Reserved,
    Ship,
    as_saga,
)

PLACED = OrderPlaced()
TEXT_CHARS_MAX = 6 * 11_000
"""Of a text, each character of it as an escape."""
ENTRY_BYTES_MAX = 500_000
"""Half of what a record may have."""
TEXTS = {
    "half a pair": "no\ud800 text",
    "NUL": "no\x00text",
    "a megabyte": "x" * 1_000_000,
    "all of it": "\udfff\x00" * 500_000,
    "other control characters": "\x01\x1b\u2028",
}


@pytest.fixture(params=TEXTS)
def text(request):
    """Each kind of what users' code may say."""
    return TEXTS[request.param]


def running(function, **options):
    """A saga of *function* to which nothing has happened yet."""
    return given(as_saga(function, **options), contracts=CONTRACTS)


def check_stored(scenario):
    """Whatever was decided can be written, and what people read of it is short."""
    for entry in scenario.history:
        assert len(to_state(turn_of([entry]))) < ENTRY_BYTES_MAX
    assert scenario.state.reason is not None
    assert is_storable(scenario.state.reason)
    assert len(scenario.state.reason) < TEXT_CHARS_MAX


def test_of_an_error(text):
    async def order(ctx, placed):
        raise ValueError(text)

    scenario = running(order).when(PLACED).then_parked("ValueError")
    check_stored(scenario)


def test_of_the_name_of_an_error():
    async def order(ctx, placed):
        raise type("No\ud800" + "x" * 10_000, (Exception,), {})

    check_stored(running(order).when(PLACED).then_parked())


def test_of_reason_and_code_of_a_rollback(text):
    async def order(ctx, placed):
        await ctx.do(Pay(), undo=Refund)
        raise RollBack(text, code=text)

    scenario = running(order).when(PLACED, replied(Pay, Paid()), replied(Refund))
    scenario.then_status("rolled_back")
    check_stored(scenario)
    assert len(scenario.state.code) < TEXT_CHARS_MAX


def test_of_a_rollback_that_is_past_its_pivot(text):
    async def order(ctx, placed):
        await ctx.do(Pay(), kind="pivot")
        raise RollBack(text)

    scenario = running(order).when(PLACED, replied(Pay, Paid())).then_parked("past its")
    check_stored(scenario)


MADE = {
    "StepFailed": lambda text: StepFailed(text, code=text, message=text, refused=False),
    "TimedOut": TimedOut,
    "no text": lambda _: RollBack({"no": "text"}, code=7),
    "nothing": lambda _: RollBack(None, code=None),
}


@pytest.mark.parametrize("kind", MADE)
def test_of_failures_that_the_function_makes_itself(kind, text):
    async def order(ctx, placed):
        raise MADE[kind](text)

    scenario = running(order).when(PLACED)
    scenario.then_status("rolled_back")
    check_stored(scenario)


def test_of_a_refusal_of_a_signal(text):
    class Stamp(BaseModel):
        count: int

        @field_validator("count")
        @classmethod
        def look(cls, count: int) -> int:
            raise ValueError(text)

    async def order(ctx, placed):
        await ctx.wait("stamp", Stamp)

    scenario = running(order).when(PLACED, signalled("stamp", {"count": 1}))
    scenario.then(noted("refused"))
    for entry in scenario.history:
        assert len(to_state(turn_of([entry]))) < ENTRY_BYTES_MAX


@pytest.mark.parametrize("name", ["", "no\ud800", "no\x00", "x" * 201, "x" * 1_000_000])
def test_a_signal_that_nobody_could_send_is_refused(name):
    async def order(ctx, placed):
        await ctx.wait(name)

    scenario = running(order).when(PLACED).then_parked("a signal's name has 1 to 200 characters")
    check_stored(scenario)


@pytest.mark.parametrize("name", ["no\ud800", "no\x00", "x" * 201, "x" * 1_000_000])
def test_a_step_that_nobody_could_name_is_refused(name):
    async def order(ctx, placed):
        await ctx.do(Ship(), id=name)

    scenario = running(order).when(PLACED).then_parked("1 to 200 characters without '/'")
    check_stored(scenario)


@pytest.mark.parametrize("give", ["do", "publish", "outcome", "undo"])
def test_half_a_pair_in_a_payload_parks(give):
    text = "no\ud800"

    async def order(ctx, placed):
        if give == "do":
            await ctx.do(Notify(order_id=text))
        if give == "publish":
            ctx.publish(OrderSeen(order_id=text))
        if give == "undo":
            await ctx.do(Pay(), undo=lambda intent, reply: Refund(order_id=text))
            raise RollBack("undo it")
        return OrderConfirmed(order_id=text)

    happens = (PLACED, replied(Pay, Paid())) if give == "undo" else (PLACED,)
    scenario = running(order).when(*happens).then_parked("surrogate")
    check_stored(scenario)


def test_of_a_difference_in_a_replay(text):
    """The payloads of both sides may be as long as a record."""

    def order_with(note):
        async def order(ctx, placed):
            await ctx.do(Reserve(order_id=note))
            return OrderConfirmed()

        return as_saga(order)

    long = "x" * 900_000
    old = given(order_with(long), PLACED, contracts=CONTRACTS).history
    with pytest.raises(ReplayMismatch) as differs:
        given(order_with(long + "y"), contracts=CONTRACTS, history=old)
    assert len(str(differs.value)) < 2 * TEXT_CHARS_MAX

    async def raising(ctx, placed):
        raise ValueError(text)

    with pytest.raises(ReplayMismatch) as differs:
        given(as_saga(raising), contracts=CONTRACTS, history=old)
    assert is_storable(str(differs.value))
    assert len(str(differs.value)) < TEXT_CHARS_MAX


def test_a_reason_as_long_as_a_service_may_answer_is_kept_whole():
    reason = "x" * 10_000

    async def order(ctx, placed):
        raise RollBack(reason)

    assert running(order).when(PLACED).state.reason == reason


def test_replies_are_what_they_were():
    """Only what is told of them is cut."""

    async def order(ctx, placed):
        reserved = await ctx.do(Reserve())
        return OrderConfirmed(shelf=reserved.shelf)

    scenario = running(order).when(PLACED, replied(Reserve, Reserved(shelf="y" * 20_000)))
    assert "y" * 20_000 in scenario.state.outcome.payload


def test_of_what_a_wide_saga_waits_for():
    """The index keeps it with every turn."""

    async def order(ctx, placed):
        await ctx.all(*(ctx.do(Ship(), id=f"{number}-{'x' * 190}") for number in range(100)))

    waits_for = waiting_for(running(order).when(PLACED).state)
    assert waits_for.startswith("reply to 0-x")
    assert waits_for.endswith(" and 80 more")
