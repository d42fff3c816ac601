"""The order desk's contracts, version 1.

`OrderPlaced` is here as the older tills publish it: everything is text as it stands on the receipt.
The other contracts have known no other version.
"""

from datetime import date, time
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from saga import Event, Intent
from topics.fields import LINES_MAX, Cents, Identifier, Units
from topics.orders.lines import AcceptedLine, OrderLine

__all__ = [
    "BAD_LINE",
    "NO_LINES",
    "WRONG_TOTAL",
    "CheckOrder",
    "OrderChecked",
    "OrderConfirmed",
    "OrderPlaced",
    "OrderRejected",
    "TillLine",
]

BAD_LINE: Final = "bad_line"
"""Refusal of `CheckOrder`: a line cannot be an order line; the message names it and says why."""

NO_LINES: Final = "no_lines"
"""Refusal of `CheckOrder`: the order asks for nothing."""

WRONG_TOTAL: Final = "wrong_total"
"""Refusal of `CheckOrder`: the lines do not add up to what the till says."""

Dollars = Annotated[str, Field(pattern=r"^[0-9]{1,10}\.[0-9]{2}$")]
Count = Annotated[str, Field(pattern=r"^-?[0-9]{1,9}$")]


class TillLine(BaseModel):
    """A line of a receipt. *department* is empty where the till does not know it."""

    model_config = ConfigDict(frozen=True)

    product: Identifier
    department: str = ""
    quantity: Count
    paid: Dollars
    discount: Dollars


class OrderPlaced(Event, topic="orders.order-placed", version=1, key="order_id"):
    """A household has placed an order, in the words of an older till.

    Its clock shows UTC unless *sold_at* says otherwise. *total* is what the household was shown.
    """

    order_id: Identifier
    customer: Identifier
    store: Identifier
    sold_on: date
    sold_at: time
    total: Dollars
    lines: Annotated[tuple[TillLine, ...], Field(max_length=LINES_MAX)]


class OrderChecked(Event, topic="orders.order-checked", version=1):
    """An order can be fulfilled as it is written; *units* counts the units in its lines."""

    order_id: Identifier
    total_cents: Cents
    units: Units
    lines: Annotated[tuple[AcceptedLine, ...], Field(max_length=LINES_MAX)]


class CheckOrder(Intent[OrderChecked], topic="orders.check-order", version=1):
    """Say whether an order is one, and what it comes to. Changes nothing."""

    order_id: Identifier
    total_cents: Cents
    lines: Annotated[tuple[OrderLine, ...], Field(max_length=LINES_MAX)]


class OrderConfirmed(Event, topic="orders.order-confirmed", version=1):
    """An order is reserved, paid, and will be delivered on *delivery_day*."""

    order_id: Identifier
    household_id: Identifier
    store_id: Identifier
    units: Units
    total_cents: Cents
    receipt: str
    delivery_day: date


class OrderRejected(Event, topic="orders.order-rejected", version=1):
    """An order will not be fulfilled, and nothing is left of it but what *residue* lists.

    *code* is the refusal's, *failed_step* what could not be done; it is None for an order that was
    cancelled. *residue* names steps that could not be undone.
    """

    order_id: Identifier
    household_id: Identifier
    store_id: Identifier
    reason: str
    code: str | None = None
    failed_step: str | None = None
    residue: tuple[str, ...] = ()
