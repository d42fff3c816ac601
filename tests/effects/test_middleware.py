"""What is around the handlers of a service sees every call, and is part of its attempt."""

import asyncio

import pytest

from saga.effects import EffectContext, Effects, Refused
from saga.errors import DefinitionError
from tests.effects.fixtures import Scenario, intent, undo
from tests.toys import Paid, Pay, Refund

seen: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_seen():
    seen.clear()


def wallet() -> Effects:
    effects = Effects("wallet")

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        seen.append(f"pay {intent.amount}")
        if intent.amount > 500:
            raise Refused("over the limit", code="limit")
        return Paid(receipt="r-1")

    @effects.on(Refund)
    def refund(intent: Refund, ctx: EffectContext) -> None:
        seen.append("refund")

    return effects


def around(name: str, effects: Effects):
    @effects.around
    async def middleware(message, ctx, call_next):
        seen.append(f"{name} begins {type(message).__name__} {ctx.attempt}")
        try:
            return await call_next(message, ctx)
        finally:
            seen.append(f"{name} ends")


@pytest.mark.parametrize("threads", [0, 2])
async def test_each_handler_is_called_within_all_in_their_order(threads: int) -> None:
    """Async ones as well as those in threads."""
    effects = wallet()
    around("outer", effects)
    around("inner", effects)
    async with Scenario(effects, threads=threads) as scenario:
        await scenario.send(intent(Pay()))
        await scenario.send(undo(Refund(order_id="o-1")))

        assert [answer for answer, _ in scenario.answers()] == [
            "shop.evt.paid.v1",
            "shop.evt.intent-done.v1",
        ]
    assert seen == [
        *("outer begins Pay 1", "inner begins Pay 1", "pay 3", "inner ends", "outer ends"),
        *("outer begins Refund 1", "inner begins Refund 1", "refund", "inner ends", "outer ends"),
    ]


async def test_it_may_change_the_message_and_the_answer() -> None:
    effects = wallet()

    @effects.around
    async def halve(message, ctx, call_next):
        paid = await call_next(message.model_copy(update={"amount": message.amount // 2}), ctx)
        return Paid(receipt=f"half {paid.receipt}")

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay(amount=600)))

        assert scenario.answers() == [("shop.evt.paid.v1", '{"receipt":"half r-1"}')]
    assert seen == ["pay 300"]


async def test_it_may_refuse_and_nothing_is_called() -> None:
    effects = wallet()

    @effects.around
    async def closed(message, ctx, call_next):
        raise Refused("closed on Sundays", code="closed")

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay()))

        ((contract, payload),) = scenario.answers()
    assert (contract, "closed on Sundays" in payload) == ("shop.evt.intent-failed.v1", True)
    assert seen == []


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), asyncio.CancelledError()])
async def test_what_it_raises_fails_that_attempt_alone(error: BaseException) -> None:
    effects = wallet()

    @effects.around
    async def broken(message, ctx, call_next):
        if message.amount == 1:
            raise error
        return await call_next(message, ctx)

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay(amount=1), step="a"), intent(Pay(amount=2), step="b"))

        assert [contract for contract, _ in scenario.answers()] == [
            "shop.evt.intent-failed.v1",
            "shop.evt.paid.v1",
        ]


async def test_an_answer_that_it_swallows_is_a_wrong_reply() -> None:
    effects = wallet()

    @effects.around
    async def forgets(message, ctx, call_next):
        await call_next(message, ctx)

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay()))

        ((_, payload),) = scenario.answers()
    assert "wrong_reply" in payload


def test_what_cannot_be_around_a_handler_is_refused() -> None:
    effects = Effects("wallet")

    def sync(message, ctx, call_next):
        """Cannot await the next one."""

    async def short(message, ctx):
        """Has nobody to call."""

    for function in (sync, short):
        with pytest.raises(DefinitionError, match="async def") as refused:
            effects.around(function)
        assert __file__ in str(refused.value)
