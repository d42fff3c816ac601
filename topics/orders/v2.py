"""The order desk's contracts, version 2: an order as numbers, with the time it is wanted."""

from typing import Annotated

from pydantic import AwareDatetime, Field

from saga import Event
from topics.fields import LINES_MAX, Cents, Identifier
from topics.orders.lines import OrderLine

__all__ = ["OrderPlaced"]


class OrderPlaced(Event, topic="orders.order-placed", version=2, key="order_id"):
    """A household has placed an order with a store, to be delivered on the day of *requested_at*.

    *total_cents* is what the household was shown.
    """

    order_id: Identifier
    household_id: Identifier
    store_id: Identifier
    requested_at: AwareDatetime
    total_cents: Cents
    lines: Annotated[tuple[OrderLine, ...], Field(max_length=LINES_MAX)]
