"""How an order is fulfilled: checked, reserved, paid, given a place on a van, and confirmed.

If a step is refused, the steps before it are undone, the last one first, and the order is rejected.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Final

from saga import Context, Retry, saga
from topics.delivery import BookSlot, CancelSlot
from topics.orders import CheckOrder, OrderConfirmed, OrderPlaced, OrderRejected
from topics.payments import ChargeHousehold, RefundHousehold
from topics.warehouse import ReleaseStock, ReserveStock, StockLine

__all__ = ["order"]

STEP_RETRY: Final = Retry(attempts=5)
STEP_TIMEOUT: Final = timedelta(seconds=30)


@saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    """Fulfil an order.

    The cheapest refusal comes first: a bad order never reaches a shelf, and goods that are not on a
    shelf are never charged.
    """
    checked = await ctx.do(
        CheckOrder(order_id=placed.order_id, total_cents=placed.total_cents, lines=placed.lines),
        kind="read_only",
        retry=STEP_RETRY,
        timeout=STEP_TIMEOUT,
    )
    await ctx.do(
        ReserveStock(
            order_id=placed.order_id,
            lines=tuple(
                StockLine(product_id=line.product_id, quantity=line.quantity)
                for line in checked.lines
            ),
        ),
        undo=ReleaseStock,
        retry=STEP_RETRY,
        timeout=STEP_TIMEOUT,
    )
    charged = await ctx.do(
        ChargeHousehold(
            order_id=placed.order_id,
            household_id=placed.household_id,
            amount_cents=checked.total_cents,
        ),
        undo=RefundHousehold,
        retry=STEP_RETRY,
        timeout=STEP_TIMEOUT,
    )
    booked = await ctx.do(
        BookSlot(
            order_id=placed.order_id,
            store_id=placed.store_id,
            day=placed.requested_at.astimezone(UTC).date(),
        ),
        undo=CancelSlot,
        retry=STEP_RETRY,
        timeout=STEP_TIMEOUT,
    )
    return OrderConfirmed(
        order_id=placed.order_id,
        household_id=placed.household_id,
        store_id=placed.store_id,
        units=checked.units,
        total_cents=checked.total_cents,
        receipt=charged.receipt,
        delivery_day=booked.day,
    )
