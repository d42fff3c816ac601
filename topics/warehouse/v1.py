"""The warehouse's contracts, version 1."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from saga import Event, Intent
from topics.fields import LINES_MAX, Identifier, Units

__all__ = ["OUT_OF_STOCK", "ReleaseStock", "ReserveStock", "StockLine", "StockReserved"]

OUT_OF_STOCK: Final = "out_of_stock"
"""Refusal of `ReserveStock`: of some product there is less than is wanted; nothing is reserved."""


class StockLine(BaseModel):
    """Units of one product."""

    model_config = ConfigDict(frozen=True)

    product_id: Identifier
    quantity: Units


class StockReserved(Event, topic="warehouse.stock-reserved", version=1):
    """All that an order wanted is set aside for it."""

    order_id: Identifier
    units: Units


class ReserveStock(Intent[StockReserved], topic="warehouse.reserve-stock", version=1):
    """Set aside all of *lines* for an order, or nothing. Each product has one line."""

    order_id: Identifier
    lines: Annotated[tuple[StockLine, ...], Field(min_length=1, max_length=LINES_MAX)]


class ReleaseStock(Intent[None], topic="warehouse.release-stock", version=1):
    """Put back whatever is set aside for an order."""

    order_id: Identifier
