"""Kinds of field that the contracts of several teams share.

They are wide enough for whatever a till may send and still be read, and narrow enough that each
database can store them. Whether a quantity makes sense is for the order desk to say, with a reason;
a contract would park the whole record instead.
"""

from typing import Annotated

from pydantic import Field

__all__ = ["LINES_MAX", "Cents", "Identifier", "Quantity", "Units"]

LINES_MAX = 1_000
"""Lines of one order; the longest real one has 153."""

Identifier = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Names an order, household, store or product; no control characters, so it fits on one line."""

Cents = Annotated[int, Field(ge=0, le=10**12)]
"""An amount of money in hundredths of a US dollar."""

Quantity = Annotated[int, Field(ge=-(10**9), le=10**9)]
"""What a till wrote as the quantity of a line; nobody has checked it."""

Units = Annotated[int, Field(ge=1, le=10**12)]
"""Units of a product, or thousandths of a gallon where it is sold by volume."""
