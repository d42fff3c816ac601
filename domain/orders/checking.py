"""The desk's own service: it checks whether a till's message is an order.

It repairs nothing. A line that cannot be an order line refuses the whole order: a household that
gets half of its list has not got its order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from saga import EffectContext, Effects, Refused
from topics.orders import (
    BAD_LINE,
    NO_LINES,
    WRONG_TOTAL,
    AcceptedLine,
    CheckOrder,
    OrderChecked,
    OrderLine,
)

__all__ = ["check", "desk"]

desk = Effects("orders")


@desk.on(CheckOrder)
async def check_order(intent: CheckOrder, _ctx: EffectContext) -> OrderChecked:
    """Accept or refuse an order."""
    return check(intent)


def check(order: CheckOrder) -> OrderChecked:
    """What *order* comes to.

    Raises:
        Refused: it is no order; the message names the first line that is wrong, counted from 1.
    """
    if not order.lines:
        raise Refused("the order has no lines", code=NO_LINES)
    for number, line in enumerate(order.lines, 1):
        if line.quantity <= 0:
            raise Refused(
                f"line {number}, product {line.product_id}: a quantity of {line.quantity} cannot be"
                " ordered",
                code=BAD_LINE,
            )
    paid_cents = sum(line.paid_cents for line in order.lines)
    if paid_cents != order.total_cents:
        raise Refused(
            f"the lines come to {paid_cents} cents, the till says {order.total_cents}",
            code=WRONG_TOTAL,
        )
    accepted = _by_product(order.lines)
    return OrderChecked(
        order_id=order.order_id,
        total_cents=paid_cents,
        units=sum(line.quantity for line in accepted),
        lines=accepted,
    )


def _by_product(lines: Sequence[OrderLine]) -> tuple[AcceptedLine, ...]:
    """One line a product: a till may scan the same thing twice, a shelf is reached into once."""
    units: Counter[str] = Counter()
    for line in lines:
        units[line.product_id] += line.quantity
    return tuple(
        AcceptedLine(product_id=product_id, quantity=quantity)
        for product_id, quantity in units.items()
    )
