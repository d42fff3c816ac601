"""Acts of people on running sagas, and the receipts of what came of them, on both stores."""

import pytest

from saga import Context, Effects, SagaApp, saga
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
    return OrderConfirmed(order_id=placed.order_id, receipt=paid.receipt)


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
