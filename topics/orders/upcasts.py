"""How the order desk reads what is still published in older versions."""

from datetime import UTC, datetime

from saga import upcast
from topics.orders import v1, v2
from topics.orders.lines import OrderLine

__all__ = ["order_of_old_till"]


@upcast
def order_of_old_till(old: v1.OrderPlaced) -> v2.OrderPlaced:
    """Read an older till's order as a current one.

    Nothing is made up: such a till sells for delivery on the day of the sale, and an empty
    department is one that it does not know.
    """
    return v2.OrderPlaced(
        order_id=old.order_id,
        household_id=old.customer,
        store_id=old.store,
        requested_at=datetime.combine(old.sold_on, old.sold_at, tzinfo=old.sold_at.tzinfo or UTC),
        total_cents=_cents(old.total),
        lines=tuple(_line(line) for line in old.lines),
    )


def _line(old: v1.TillLine) -> OrderLine:
    return OrderLine(
        product_id=old.product,
        department=old.department or None,
        quantity=int(old.quantity),
        paid_cents=_cents(old.paid),
        discount_cents=_cents(old.discount),
    )


def _cents(dollars: v1.Dollars) -> int:
    # The contract promises two places, so leaving out the point is exact where a float is not.
    return int(dollars.replace(".", ""))
