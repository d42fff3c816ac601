"""A saga that parks past its pivot is brought back before its next turn, whatever came with it."""

import pytest

from saga.authoring import Context, StepFailed, saga
from saga.contracts import CommandAct, IntentFailed
from tests.runtime.fixtures import Scenario, order_id
from tests.runtime.toys import OrderDone, OrderPlaced, Reserve, Reserved, Ship

REFUSED = IntentFailed(outcome="refused", code="van", message="no van", details={"until": 9})


@saga("order", version=1, starts_on=OrderPlaced)
async def order(ctx: Context, placed: OrderPlaced) -> OrderDone:
    ctx.tell(Ship(order_id="told"))
    await ctx.do(Reserve(order_id=placed.order_id), kind="pivot", id="pivot")
    both = ctx.do(Ship(order_id="a"), id="a"), ctx.do(Ship(order_id="b"), id="b")
    try:
        await ctx.all(*both, fail="fast")
    except StepFailed as failure:
        if failure.details["until"] > 10:
            raise
        await ctx.wait("never")
    await ctx.do(Ship(order_id="c"), id="c")
    return OrderDone(order_id=placed.order_id, shelf="s")


@saga("order", version=1, starts_on=OrderPlaced)
async def careless(ctx: Context, placed: OrderPlaced) -> OrderDone:
    await ctx.do(Reserve(order_id=placed.order_id), kind="pivot", id="pivot")
    both = ctx.do(Ship(order_id="a"), id="a"), ctx.do(Ship(order_id="b"), id="b")
    await ctx.all(*both, fail="fast")
    await ctx.do(Ship(order_id="c"), id="c")
    return OrderDone(order_id=placed.order_id, shelf="s")


async def past_pivot(definition) -> tuple[Scenario, str]:
    scenario = Scenario(definition, contracts=[OrderDone])
    await scenario.take(scenario.event(OrderPlaced(order_id="o-1", amount=1), "o-1"))
    reply = scenario.reply(f"{order_id()}/pivot/do/1", Reserved(shelf="s"))
    await scenario.take(reply)
    return scenario, order_id()


def answer(scenario, step, model=None, attempt=1):
    return scenario.reply(f"{order_id()}/{step}/do/{attempt}", model)


async def taken(scenario, *records) -> int:
    """Take a batch, and what was deferred in it; how many batches that took."""
    unit, batches = await scenario.take(*records), 1
    while scenario.deferred():
        unit, batches = await scenario.take(revisits=unit.revisits), batches + 1
    return batches


async def test_details_reach_the_code_and_a_caught_failure_parks_nobody():
    scenario, order = await past_pivot(globals()["order"])
    await scenario.take(answer(scenario, "a", REFUSED))

    assert scenario.status(order) == "running"
    assert scenario.bodies(order)[-2:] == ["BranchDropped", "SignalAwaited"]


async def test_answer_to_what_was_told_is_noted():
    scenario, order = await past_pivot(globals()["order"])
    unit = await scenario.take(answer(scenario, "ship"), answer(scenario, "ship", attempt=2))

    assert scenario.bodies(order)[-2:] == ["ReplyReceived", "Noted"]
    assert [letter.reason for letter in unit.unhandled.dead_letters] == ["unknown_intent"]


@pytest.mark.parametrize("comes_with_it", [True, False])
async def test_what_comes_behind_the_failure_finds_a_saga_that_was_not_told(comes_with_it):
    """In the same batch or a later one, in memory or read from the store."""
    scenario, order = await past_pivot(careless)
    failure, other = answer(scenario, "a", REFUSED), answer(scenario, "b")
    if comes_with_it:
        assert await taken(scenario, failure, other) == 2
    else:
        assert await taken(scenario, failure) + await taken(scenario, other) == 2
    assert scenario.status(order) == "parked"
    assert scenario.reason(order) == "step a failed for good and there is no way back: no van"
    assert scenario.deferred() == []

    await taken(scenario, scenario.command(order, CommandAct.RETRY, id="r", reason="van", step="a"))
    await taken(scenario, answer(scenario, "a", attempt=2))
    await taken(scenario, answer(scenario, "c"))

    assert scenario.status(order) == "completed"
    scenario.check()
