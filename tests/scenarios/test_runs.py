"""Sagas that continue as new, over files and over PostgreSQL: loaded from their last run on."""

import asyncio

import pytest

from saga import Context, Effects, SagaApp, saga
from saga.audit.replaying import replay_all
from saga.core.history import History
from saga.core.intents import Continued
from saga.runtime import saga_cache
from tests.toys import OrderConfirmed, OrderPlaced, Paid, Pay

RUNS = 12


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


def app_of(paid, *, waits=False):
    """Of each order one piece a run; every payment is noted in *paid*."""
    shop = Effects("shop")

    @shop.on(Pay)
    async def pay(intent: Pay, ctx) -> Paid:
        paid.append((intent.amount, ctx.intent_id.split("/")[1]))
        return Paid()

    @saga("order", version=1, starts_on=OrderPlaced)
    async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
        await ctx.do(Pay(amount=placed.amount))
        if waits:
            await ctx.wait("go")
        if placed.amount == 1:
            return OrderConfirmed()
        return await ctx.continue_as_new(OrderPlaced(amount=placed.amount - 1))

    return SagaApp(sagas=[order], effects=[shop])


async def test_each_run_does_its_steps_once_and_the_last_one_has_the_outcome(places):
    paid = []
    async with app_of(paid).service(**places) as service:
        found = await service.start(OrderPlaced(amount=RUNS))
        outcome = await service.outcome(found, timeout=60)
        assert outcome.event == OrderConfirmed()

    steps = ["pay", *(f"{run}.pay" for run in range(2, RUNS + 1))]
    assert paid == list(zip(range(RUNS, 0, -1), steps, strict=True))


async def test_a_service_that_starts_again_loads_the_last_run_only(places, monkeypatch):
    """Between any two runs; what was done is not done again, what was sent meanwhile arrives."""
    paid, loaded = [], []
    original = saga_cache._loaded  # noqa: SLF001  # how much was read can be seen nowhere else

    def spy(saga_id, decider, state, history):
        loaded.append((history.recorded[0].version, len(history)))
        return original(saga_id, decider, state, history)

    monkeypatch.setattr(saga_cache, "_loaded", spy)
    app = app_of(paid, waits=True)
    async with app.service(**places) as service:
        found = await service.start(OrderPlaced(amount=5))
        await waits_for_go(service, found, paid, 1)
    for run in range(2, 6):
        async with app.service(**places) as service:
            await service.signal(found, "go")
            await waits_for_go(service, found, paid, run)
    async with app.service(**places) as service:
        await service.signal(found, "go")
        assert (await service.outcome(found, timeout=60)).event == OrderConfirmed()
        store = service._store  # noqa: SLF001  # as above
        replays = [each async for each in replay_all(store, service.catalogue, app.registry)]
        last = (await store.load([found]))[found]
        whole = (await store.load([found], is_whole=True))[found]

    assert [amount for amount, _ in paid] == [5, 4, 3, 2, 1]
    assert [each.is_ok for each in replays] == [True]
    assert isinstance(last, History)
    assert any(isinstance(entry.body, Continued) for entry in last.recorded[0])
    assert (last.version, last.turns) == (whole.version, whole.turns)
    assert replays[0].entries == len(whole) == whole.version
    firsts = [first for first, _ in loaded]
    assert firsts == sorted(firsts)
    assert firsts[-1] >= 20
    assert max(length for _, length in loaded) < 12


async def waits_for_go(service, found, paid, count):
    """Until the saga has paid so often and waits on."""
    async with asyncio.timeout(60):
        while True:
            view = await service.find(found)
            if view is not None and view.waiting_for == "signal go" and len(paid) == count:
                return
            await asyncio.sleep(0.02)
