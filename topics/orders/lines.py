"""The lines of an order, as several of the desk's contracts hold them."""

from pydantic import BaseModel, ConfigDict

from topics.fields import Cents, Identifier, Quantity, Units

__all__ = ["AcceptedLine", "OrderLine"]


class OrderLine(BaseModel):
    """One line as it was placed, fit to be an order line or not.

    *paid_cents* is the price of the whole line, after *discount_cents* were taken off.
    """

    model_config = ConfigDict(frozen=True)

    product_id: Identifier
    department: str | None = None
    quantity: Quantity
    paid_cents: Cents
    discount_cents: Cents = 0


class AcceptedLine(BaseModel):
    """How much of one product an accepted order asks for; each product has one line."""

    model_config = ConfigDict(frozen=True)

    product_id: Identifier
    quantity: Units
