"""Acts of people on running sagas, and the receipts of what came of them, on both stores."""

import json
from datetime import UTC, datetime

import pytest

from saga import Context, Effects, SagaApp, saga
from saga.core.events import CancelMode, OperatorActed, SagaStarted
from saga.core.history import NAME_OF
from saga.core.identity import saga_id
from tests.toys import OrderConfirmed, OrderPlaced, Paid, Pay, Refund, Ship

AT_MOST_S = 120
O_1 = saga_id("order", "o-1")


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


def app_of(function):
    shop = Effects("shop")

    @shop.on(Pay)
    async def pay(intent: Pay, ctx) -> Paid:
        return Paid(receipt=f"r-{intent.order_id}")

    @shop.on(Refund)
    async def refund(intent: Refund, ctx) -> None: ...

    @shop.on(Ship)
    async def ship(intent: Ship, ctx) -> None: ...

    order = saga("order", version=1, starts_on=OrderPlaced)(function)
    return SagaApp(sagas=[order], effects=[shop], contracts=[OrderConfirmed])


async def approved(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    paid = await ctx.do(Pay(order_id=placed.order_id), undo=Refund)
    await ctx.wait("approval")
    return OrderConfirmed(order_id=placed.order_id, shelf=paid.receipt)


async def told(service, command_id, timeout=AT_MOST_S):
    receipt = await service.receipt(O_1, command_id, timeout=timeout)
    assert receipt.command_id == command_id
    assert receipt.accepted is (receipt.result == "applied")
    return str(receipt.result), receipt.detail


async def test_a_receipt_says_what_came_of_a_command(places):
    async with app_of(approved).service(**places) as service:
        await service.publish(OrderPlaced())
        await service.idle(timeout=AT_MOST_S)

        skip = await service.command(O_1, "skip", reason="r", step="pay")
        assert await told(service, skip) == (
            "refused",
            "only a step whose undo is stuck or under way can be skipped",
        )
        result, detail = await told(service, "never sent", timeout=0)
        assert result == "unknown"
        assert detail.endswith("it stays in line; the saga is running")
        cancel = await service.cancel(O_1, reason="enough")
        result, detail = await told(service, cancel)

        assert result == "applied"
        assert detail == "plans the rollback of pay; issues pay/undo/1"
        assert (await service.outcome(O_1, timeout=AT_MOST_S)).status == "rolled_back"
        late = await service.signal(O_1, "approval")
        assert await told(service, late) == ("refused", "the saga is rolled_back")


async def test_a_receipt_says_that_a_command_s_turn_failed(places):
    async def raising(ctx, placed):
        await ctx.wait("go")
        raise RuntimeError("bad luck")

    async with app_of(raising).service(**places) as service:
        await service.publish(OrderPlaced())
        await service.idle(timeout=AT_MOST_S)
        signal = await service.signal(O_1, "go")
        result, detail = await told(service, signal)

        assert result == "unknown"
        assert "RuntimeError: bad luck" in detail
        assert "when the saga is released" in detail


async def entries(service, saga=O_1):
    """What the entries of one saga are called, in order."""
    return [
        NAME_OF[type(each.body)]
        async for _, each in service.catalogue.log()
        if each.saga_id == saga
    ]


async def row(service, saga=O_1):
    [found] = await service.catalogue.summaries([saga])
    return found


async def test_a_paused_saga_records_what_comes_and_acts_on_resume(places):
    async with app_of(approved).service(**places) as service:
        await service.publish(OrderPlaced())
        await service.idle(timeout=AT_MOST_S)
        await told(service, await service.pause(O_1, reason="look first", actor="ann"))
        signal = await service.signal(O_1, "approval")
        assert await told(service, signal) == (
            "applied",
            "is recorded; nothing follows from it at once",
        )
        assert ((await row(service)).status, (await row(service)).paused) == ("running", "saga")

    async with app_of(approved).service(**places) as service:  # as after a crash
        resume = await service.resume(O_1, reason="all is well")
        assert await told(service, resume) == ("applied", "completes")
        assert (await row(service)).paused is None
        assert (await entries(service))[-4:] == [
            *("paused", "signal-received", "resumed", "saga-completed")
        ]
        again = await service.resume(O_1, reason="r")
        assert (await told(service, again))[0] == "refused"


async def test_a_paused_definition_holds_all_its_sagas(places):
    """Those that run, with the next event that reaches them, and those that begin."""
    other = saga_id("order", "o-2")
    async with app_of(approved).service(**places) as service:
        await service.publish(OrderPlaced())
        await service.idle(timeout=AT_MOST_S)
        pause = await service.pause_definition("order", reason="a bad release", actor="ann")
        receipt = await service.receipt("order", pause, timeout=AT_MOST_S)
        assert (receipt.accepted, receipt.detail) == (True, "order is paused")
        await service.publish(OrderPlaced(order_id="o-2"))
        await told(service, await service.signal(O_1, "approval"))
        await service.idle(timeout=AT_MOST_S)

        assert (await entries(service, other)) == ["saga-started", "paused"]
        assert (await entries(service))[-2:] == ["paused", "signal-received"]
        assert [(await row(service, each)).paused for each in (O_1, other)] == ["definition"] * 2

    async with app_of(approved).service(**places) as service:
        again = await service.pause_definition("order", reason="r")
        receipt = await service.receipt("order", again, timeout=AT_MOST_S)
        assert (receipt.result, receipt.detail) == ("refused", "order is paused already")
        resume = await service.resume_definition("order", reason="mended")
        assert (await service.receipt("order", resume, timeout=AT_MOST_S)).accepted
        assert (await service.outcome(O_1, timeout=AT_MOST_S)).status == "completed"
        await service.idle(timeout=AT_MOST_S)
        assert (await row(service, other)).paused is None
        assert (await row(service, other)).waiting_for == "signal approval"
        assert (await entries(service, other))[:4] == [
            *("saga-started", "paused", "resumed", "intent-issued")
        ]


async def test_a_definition_goes_on_although_nothing_comes_for_its_sagas(places):
    """Also where the worker died between the row and the histories: another one finds them."""

    async def slept(ctx, placed):
        await ctx.sleep("1ms")
        return OrderConfirmed(order_id=placed.order_id)

    async with app_of(slept).service(**places) as service:
        await service.pause_definition("order", reason="r")
        sagas = [await service.start(OrderPlaced(order_id=f"o-{number}")) for number in range(5)]
        await service.idle(timeout=AT_MOST_S)
        assert {(await row(service, each)).paused for each in sagas} == {"definition"}
        resume = await service.resume_definition("order", reason="r")
        assert (await service.receipt("order", resume, timeout=AT_MOST_S)).accepted

    async with app_of(slept).service(**places) as service:
        for each in sagas:
            assert (await service.outcome(each, timeout=AT_MOST_S)).status == "completed"


async def test_code_that_raises_when_its_definition_goes_on_parks_its_saga_alone(places):
    async def raising(ctx, placed):
        await ctx.wait("go")
        if placed.order_id == "o-1":
            raise RuntimeError("bad luck")

    other = saga_id("order", "o-2")
    async with app_of(raising).service(**places) as service:
        for name in ("o-1", "o-2"):
            await service.publish(OrderPlaced(order_id=name))
        await service.idle(timeout=AT_MOST_S)
        pause = await service.pause_definition("order", reason="r")
        assert (await service.receipt("order", pause, timeout=AT_MOST_S)).accepted
        for each in (O_1, other):
            signal = await service.signal(each, "go")
            assert (await service.receipt(each, signal, timeout=AT_MOST_S)).accepted
        await service.resume_definition("order", reason="r")

        assert (await service.outcome(other, timeout=AT_MOST_S)).status == "completed"
        assert (await service.outcome(O_1, timeout=AT_MOST_S)).status == "parked"
        assert "turn-failed" in await entries(service)


async def data(service, saga, kind):
    """The bodies of one kind in one saga's history."""
    found = [each.body async for _, each in service.catalogue.log() if each.saga_id == saga]
    return [body for body in found if isinstance(body, kind)]


async def test_a_rerun_starts_another_saga_and_both_name_each_other(places):
    again = saga_id("order", "o-1-again")
    async with app_of(approved).service(**places) as service:
        await service.publish(OrderPlaced(amount=7))
        await service.idle(timeout=AT_MOST_S)
        early = await service.rerun(O_1, key="o-1-again", reason="r")
        assert await told(service, early) == ("refused", "the saga has not ended: it is running")
        await told(service, await service.cancel(O_1, reason="enough"))
        assert (await service.outcome(O_1, timeout=AT_MOST_S)).status == "rolled_back"

        rerun = await service.rerun(O_1, key="o-1-again", reason="paid after all", actor="ann")
        assert await told(service, rerun) == (
            "applied",
            f"starts the saga of key o-1-again ({again})",
        )
        await service.idle(timeout=AT_MOST_S)

        [started] = await data(service, again, SagaStarted)
        assert (started.rerun_of, started.key) == (O_1, "o-1-again")
        assert json.loads(started.trigger.payload)["amount"] == 7
        [_, acted] = await data(service, O_1, OperatorActed)
        assert (acted.key, acted.saga_id, acted.actor) == ("o-1-again", again, "ann")
        assert (await row(service, again)).waiting_for == "signal approval"
        taken = await service.rerun(O_1, key="o-1-again", reason="r")
        assert await told(service, taken) == (
            "refused",
            "there is a saga of key 'o-1-again' already",
        )

    async with app_of(approved).service(**places) as service:  # it is replayed as any other
        await service.signal(again, "approval")
        assert (await service.outcome(again, timeout=AT_MOST_S)).status == "completed"


async def test_a_rerun_may_have_another_trigger(places):
    again = saga_id("order", "other")
    async with app_of(approved).service(**places) as service:
        await service.publish(OrderPlaced())
        await service.idle(timeout=AT_MOST_S)
        await told(service, await service.cancel(O_1, reason="r", mode=CancelMode.ABANDON))
        wrong = await service.rerun(O_1, key="other", reason="r", trigger=Paid())
        result, detail = await told(service, wrong)
        assert (result, "starts no saga 'order'" in detail) == ("refused", True)

        trigger = OrderPlaced(order_id="other", amount=9)
        rerun = await service.rerun(O_1, key="other", reason="r", trigger=trigger)

        assert (await told(service, rerun))[0] == "applied"
        [started] = await data(service, again, SagaStarted)
        assert json.loads(started.trigger.payload)["amount"] == 9


async def test_a_rerun_whose_code_raises_parks_and_begins_when_it_is_released(places):
    """What began it waits behind it."""
    is_broken = True

    async def fragile(ctx, placed):
        if ctx.key == "again" and is_broken:
            raise RuntimeError("bad luck")

    again = saga_id("order", "again")
    async with app_of(fragile).service(**places) as service:
        await service.start(OrderPlaced())
        assert (await service.outcome(O_1, timeout=AT_MOST_S)).status == "completed"
        await told(service, await service.rerun(O_1, key="again", reason="r"))
        assert (await service.outcome(again, timeout=AT_MOST_S)).status == "parked"
        is_broken = False
        release = await service.command(again, "release", reason="mended")
        assert (await service.receipt(again, release, timeout=AT_MOST_S)).accepted

        assert (await service.outcome(again, timeout=AT_MOST_S)).status == "completed"
        [started] = await data(service, again, SagaStarted)
        assert started.rerun_of == O_1


async def test_timers_are_fired_and_moved(places):
    async def slept(ctx, placed):
        await ctx.sleep("30d")
        return OrderConfirmed(order_id=placed.order_id)

    async with app_of(slept).service(**places) as service:
        sagas = [await service.start(OrderPlaced(order_id=f"o-{number}")) for number in (1, 2)]
        await service.idle(timeout=AT_MOST_S)
        first, second = await service.catalogue.timers()
        far = datetime(2090, 1, 1, tzinfo=UTC)
        move = await service.move_timer(second.timer_id, far, reason="not now")
        assert (await service.receipt(second.saga_id, move, timeout=AT_MOST_S)).accepted
        by_id = {each.timer_id: each.due_at for each in await service.catalogue.timers()}
        assert by_id[second.timer_id] == far.timestamp() * 1_000_000

        for timer in (first, second):
            fire = await service.fire_timer(timer.timer_id, reason="it is time", actor="ann")
            receipt = await service.receipt(timer.saga_id, fire, timeout=AT_MOST_S)
            assert receipt.detail == "has the timer fire now"
        for each in sagas:
            assert (await service.outcome(each, timeout=AT_MOST_S)).status == "completed"


async def test_a_step_is_marked_done_with_the_reply_that_its_service_owes(places):
    app = SagaApp(
        sagas=[saga("order", version=1, starts_on=OrderPlaced)(approved)],
        contracts=[OrderConfirmed],
    )
    async with app.service(**places) as service:
        await service.publish(OrderPlaced())
        await service.idle(timeout=AT_MOST_S)
        mark = await service.mark(
            O_1, "pay", "done", reply=Paid(receipt="r-9"), evidence="the bank says so", reason="r"
        )
        assert await told(service, mark) == (
            "applied",
            "settles pay as done; waits for signal approval",
        )
        await service.signal(O_1, "approval")
        outcome = await service.outcome(O_1, timeout=AT_MOST_S)

        assert outcome.event == OrderConfirmed(order_id="o-1", shelf="r-9")
