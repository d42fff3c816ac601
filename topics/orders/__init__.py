"""The order desk: orders placed, checked, confirmed and rejected.

Names are those of the current version. `OrderPlaced` has two: `topics.orders.v1` is what the older
tills still publish, and is read as the current one.
"""

from topics.orders.lines import AcceptedLine, OrderLine
from topics.orders.upcasts import order_of_old_till
from topics.orders.v1 import (
    BAD_LINE,
    NO_LINES,
    WRONG_TOTAL,
    CheckOrder,
    OrderChecked,
    OrderConfirmed,
    OrderRejected,
)
from topics.orders.v2 import OrderPlaced

__all__ = [
    "BAD_LINE",
    "NO_LINES",
    "WRONG_TOTAL",
    "AcceptedLine",
    "CheckOrder",
    "OrderChecked",
    "OrderConfirmed",
    "OrderLine",
    "OrderPlaced",
    "OrderRejected",
    "order_of_old_till",
]
