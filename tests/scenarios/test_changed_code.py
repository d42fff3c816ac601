"""Sagas that go on under other code than they began with, over files and over PostgreSQL."""

import pytest
from pydantic import Field

from saga import Context, Effects, Event, Intent, SagaApp, TimedOut, saga
from saga.core.events import TimersAdded
from saga.core.intents import IntentIssued, Noted
from tests.toys import OrderConfirmed, OrderPlaced, Paid, Pay, Refund, Ship

AT_MOST_S = 120


@pytest.fixture(params=["files", pytest.param("postgres", marks=pytest.mark.connected)])
def places(request, tmp_path):
    store = f"sqlite:///{tmp_path}/saga.db"
    if request.param == "postgres":
        store = request.getfixturevalue("postgres")
    return {
        "bus": f"local:///{tmp_path}/bus.db",
        "store": store,
        "effects_store": f"sqlite:///{tmp_path}/effects.db",
    }


def app_of(function, *, version=1):
    shop = Effects("shop")

    @shop.on(Pay)
    async def pay(intent: Pay, ctx) -> Paid:
        return Paid(receipt=f"r-{intent.order_id}")

    @shop.on(Refund)
    async def refund(intent: Refund, ctx) -> None: ...

    @shop.on(Ship)
    async def ship(intent: Ship, ctx) -> None: ...

    order = saga("order", version=version, starts_on=OrderPlaced)(function)
    return SagaApp(sagas=[order], effects=[shop], contracts=[OrderConfirmed])


async def bodies(service, found):
    """What the entries of one saga are, as the store has them."""
    return [entry.body async for _, entry in service.catalogue.log() if entry.saga_id == found]


async def summary_of(service, found):
    (summary,) = await service.catalogue.summaries([found])
    return summary


async def test_new_timeout_runs_although_nothing_comes_for_the_saga(places):
    """A worker with the new code looks at the sagas that began under the old one."""

    async def before(ctx, placed):
        await ctx.wait("approved")

    async def now(ctx, placed):
        try:
            await ctx.wait("approved", timeout="10ms")
        except TimedOut:
            return OrderConfirmed(order_id="nobody came")

    async with app_of(before).service(**places) as service:
        found = await service.publish(OrderPlaced())
        await service.idle(timeout=AT_MOST_S)

    async with app_of(now).service(**places) as service:
        outcome = await service.outcome(found, timeout=AT_MOST_S)

        assert outcome.event == OrderConfirmed(order_id="nobody came")
        assert (await bodies(service, found)).count(TimersAdded()) == 1


async def test_saga_that_began_under_the_same_code_is_left_alone(places):
    async def order(ctx, placed):
        await ctx.wait("approved", timeout="1d")

    for _ in range(2):
        async with app_of(order).service(**places) as service:
            found = await service.publish(OrderPlaced())
            await service.idle(timeout=AT_MOST_S)
    async with app_of(order).service(**places) as service:
        await service.signal(found, "approved", "yes")
        await service.outcome(found, timeout=AT_MOST_S)

        assert TimersAdded() not in await bodies(service, found)


async def test_what_was_accepted_is_not_refused_by_stricter_contracts(places):
    """Trigger, intent, reply and signal; a new one that breaks the new rules is refused."""

    def app_with(rule):
        class Placed(Event, topic="strict.placed", version=1, key="name"):
            name: str
            amount: int = rule

        class Done(Event, topic="strict.done", version=1):
            amount: int = rule

        class Do(Intent[Done], topic="strict.do", version=1):
            amount: int = rule

        @saga("strict", version=1, starts_on=Placed)
        async def strict(ctx: Context, placed: Placed) -> Done:
            done = await ctx.do(Do(amount=placed.amount))
            first = await ctx.wait("first", Done)
            second = await ctx.wait("second", Done)
            return Done(amount=second.amount + 0 * (first.amount + done.amount))

        effects = Effects("strict")

        @effects.on(Do)
        async def do(intent: Do, ctx) -> Done:
            return Done(amount=intent.amount)

        return SagaApp(sagas=[strict], effects=[effects]), Placed, Done

    app, placed, _ = app_with(0)
    async with app.service(**places) as service:
        found = await service.publish(placed(name="a", amount=-3))
        await service.idle(timeout=AT_MOST_S)
        await service.signal(found, "first", {"amount": -4})
        await service.idle(timeout=AT_MOST_S)

    app, _, done = app_with(Field(default=1, gt=0))
    async with app.service(**places) as service:
        await service.signal(found, "second", {"amount": -5})
        await service.signal(found, "second", {"amount": 6})
        outcome = await service.outcome(found, timeout=AT_MOST_S)

        assert outcome.event == done(amount=6)
        notes = [body for body in await bodies(service, found) if isinstance(body, Noted)]
        assert [note.verdict for note in notes] == ["refused"]


async def test_loser_with_all_in_it_ends_also_across_a_restart(places):
    """Its nested branches pay nothing after the decision, and take none of the signals."""

    async def order(ctx, placed):
        async def greedy():
            async def takes():
                await ctx.wait("go")
                await ctx.do(Pay(), undo=Refund)

            await ctx.all(takes(), takes())

        async def decided():
            await ctx.wait("stop")

        await ctx.any(greedy(), decided())
        return OrderConfirmed(order_id=str(await ctx.wait("go")))

    app = app_of(order)
    async with app.service(**places) as service:
        found = await service.publish(OrderPlaced())
        await service.signal(found, "stop", None)
        await service.idle(timeout=AT_MOST_S)
    async with app.service(**places) as service:
        await service.signal(found, "go", 1)
        outcome = await service.outcome(found, timeout=AT_MOST_S)

        assert (outcome.event, outcome.residue) == (OrderConfirmed(order_id="1"), ())
        assert not any(isinstance(body, IntentIssued) for body in await bodies(service, found))


async def test_ended_saga_keeps_its_status_whatever_its_code_is_now(places):
    async def order(ctx, placed):
        await ctx.do(Ship())
        return OrderConfirmed()

    async def other(ctx, placed):
        await ctx.do(Pay(), undo=Refund)

    async with app_of(order).service(**places) as service:
        found = await service.publish(OrderPlaced())
        await service.outcome(found, timeout=AT_MOST_S)
    for app in (app_of(other), app_of(order, version=2)):
        async with app.service(**places) as service:
            await service.publish(OrderPlaced())
            await service.publish(OrderPlaced(amount=99))
            await service.idle(timeout=AT_MOST_S)
            assert (await summary_of(service, found)).status == "completed"


async def test_forgotten_call_parks_the_saga_with_its_place(places):
    """Which an operator sees."""

    async def order(ctx, placed):
        await ctx.do(Ship())
        assert ctx.do(Pay())

    async with app_of(order).service(**places) as service:
        found = await service.publish(OrderPlaced())
        await service.idle(timeout=AT_MOST_S)
        view = await summary_of(service, found)

    assert view.status == "parked"
    line = order.__code__.co_firstlineno + 2
    assert f"{__file__}:{line}: ctx.do(Pay(…)) was never awaited" in view.reason
