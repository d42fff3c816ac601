"""The order desk: the saga of an order, and the check that every order starts with.

An order is checked, reserved, paid, given a place on a van, and confirmed. If a step is refused,
the steps before it are undone, the last one first, and the order is rejected.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, timedelta
from typing import Final, TypedDict

from saga import Context, EffectContext, Effects, Refused, Retry, saga
from topics.delivery import BookSlot, CancelSlot
from topics.orders import (
    BAD_LINE,
    NO_LINES,
    WRONG_TOTAL,
    AcceptedLine,
    CheckOrder,
    OrderChecked,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
)
from topics.payments import ChargeHousehold, RefundHousehold
from topics.warehouse import ReleaseStock, ReserveStock, StockLine

desk = Effects("orders")


class Policy(TypedDict):
    retry: Retry
    timeout: timedelta


POLICY: Final[Policy] = {"retry": Retry(attempts=5), "timeout": timedelta(seconds=30)}
"""How often and how long each step is tried."""


@saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    """Fulfil an order.

    The cheapest refusal comes first: a bad order never reaches a shelf, and goods that are not on a
    shelf are never charged.
    """
    order_id, household_id, store_id = placed.order_id, placed.household_id, placed.store_id
    checked = await ctx.do(
        CheckOrder(order_id=order_id, total_cents=placed.total_cents, lines=placed.lines),
        kind="read_only",
        **POLICY,
    )
    lines = tuple(
        StockLine(product_id=line.product_id, quantity=line.quantity) for line in checked.lines
    )
    await ctx.do(ReserveStock(order_id=order_id, lines=lines), undo=ReleaseStock, **POLICY)
    amount_cents = checked.total_cents
    charged = await ctx.do(
        ChargeHousehold(order_id=order_id, household_id=household_id, amount_cents=amount_cents),
        undo=RefundHousehold,
        **POLICY,
    )
    day = placed.requested_at.astimezone(UTC).date()
    booked = await ctx.do(
        BookSlot(order_id=order_id, store_id=store_id, day=day), undo=CancelSlot, **POLICY
    )
    return OrderConfirmed(
        order_id=order_id,
        household_id=household_id,
        store_id=store_id,
        units=checked.units,
        total_cents=amount_cents,
        receipt=charged.receipt,
        delivery_day=booked.day,
    )


@desk.on(CheckOrder)
async def check_order(intent: CheckOrder, _ctx: EffectContext) -> OrderChecked:
    """Accept or refuse an order."""
    return check(intent)


def check(order: CheckOrder) -> OrderChecked:
    """What *order* comes to.

    Nothing is repaired. A line that cannot be an order line refuses the whole order: a household
    that gets half of its list has not got its order. A till may scan the same thing twice, and a
    shelf is reached into once: each product has one line from here on.

    Raises:
        Refused: it is no order; the message names the first line that is wrong, counted from 1.
    """
    if not order.lines:
        raise Refused("the order has no lines", code=NO_LINES)
    for number, line in enumerate(order.lines, 1):
        if line.quantity <= 0:
            text = f"line {number}, product {line.product_id}: a quantity of {line.quantity}"
            raise Refused(f"{text} cannot be ordered", code=BAD_LINE)
    paid_cents = sum(line.paid_cents for line in order.lines)
    if paid_cents != order.total_cents:
        text = f"the lines come to {paid_cents} cents, the till says {order.total_cents}"
        raise Refused(text, code=WRONG_TOTAL)
    units: Counter[str] = Counter()
    for line in order.lines:
        units[line.product_id] += line.quantity
    return OrderChecked(
        order_id=order.order_id,
        total_cents=paid_cents,
        units=units.total(),
        lines=tuple(
            AcceptedLine(product_id=product_id, quantity=quantity)
            for product_id, quantity in units.items()
        ),
    )
