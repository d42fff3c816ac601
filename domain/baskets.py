"""The real baskets in `data/`, and each of them as the order that a till publishes for it.

A line of the file that is no basket stops the reading, with file and line. Odd things that can be
written down, such as a line of no units, are left for the order desk.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from saga.errors import SagaError
from topics.orders import OrderLine, v1, v2

BASKETS: Final = Path(__file__).parent / "data" / "baskets.jsonl.gz"
LINE_BYTES_MAX: Final = 1_000_000

Digits = Annotated[str, Field(pattern=r"^[0-9]{1,20}$")]
Dollars = Annotated[str, Field(pattern=r"^[0-9]{1,10}\.[0-9]{2}$")]
OrderPlaced = v1.OrderPlaced | v2.OrderPlaced


@dataclass(eq=False)
class BadBasket(SagaError):
    """Raised when a file of baskets cannot be read; *line* counts from 1; 0 is the whole file."""

    path: Path
    line: int
    problem: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.problem}"


class BasketLine(BaseModel):
    """One line of a receipt; *paid* and *discount* are US dollars for the whole line."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    product_id: Digits
    department: str | None
    quantity: int
    paid: Dollars
    discount: Dollars

    @property
    def paid_cents(self) -> int:
        return _cents(self.paid)

    @property
    def discount_cents(self) -> int:
        return _cents(self.discount)


class Basket(BaseModel):
    """What a household took out of a store."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    basket_id: Digits
    household_id: Digits
    store_id: Digits
    at: AwareDatetime
    lines: tuple[BasketLine, ...]

    @property
    def total_cents(self) -> int:
        """What was paid for all its lines."""
        return sum(line.paid_cents for line in self.lines)

    @property
    def has_old_till(self) -> bool:
        """Whether its store still has tills that publish version 1: those with odd numbers do."""
        return int(self.store_id) % 2 == 1


def read_baskets(path: Path = BASKETS) -> Iterator[Basket]:
    """The baskets in *path*, in the order of the file.

    Raises:
        BadBasket: the file cannot be read, or a line of it is no basket.
    """
    number = 0
    try:
        with gzip.open(path, "rb") as file:
            while line := file.readline(LINE_BYTES_MAX):
                number += 1
                yield _basket(path, number, line)
    except OSError as error:
        raise BadBasket(path, number, error.strerror or str(error)) from error
    except (EOFError, zlib.error) as error:
        raise BadBasket(path, number, f"the file is damaged: {error}") from error


def order_placed(basket: Basket) -> OrderPlaced:
    """What the till publishes when *basket* is ordered."""
    return _as_version_1(basket) if basket.has_old_till else _as_version_2(basket)


def _basket(path: Path, number: int, line: bytes) -> Basket:
    try:
        return Basket.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        text = f"{place}: {problem['msg']}" if place else problem["msg"]
        raise BadBasket(path, number, text) from error


def _as_version_1(basket: Basket) -> v1.OrderPlaced:
    at = basket.at.astimezone(UTC)
    dollars, cents = divmod(basket.total_cents, 100)
    return v1.OrderPlaced(
        order_id=basket.basket_id,
        customer=basket.household_id,
        store=basket.store_id,
        sold_on=at.date(),
        sold_at=at.time(),
        total=f"{dollars}.{cents:02}",
        lines=tuple(
            v1.TillLine(
                product=line.product_id,
                department=line.department or "",
                quantity=str(line.quantity),
                paid=line.paid,
                discount=line.discount,
            )
            for line in basket.lines
        ),
    )


def _as_version_2(basket: Basket) -> v2.OrderPlaced:
    return v2.OrderPlaced(
        order_id=basket.basket_id,
        household_id=basket.household_id,
        store_id=basket.store_id,
        requested_at=basket.at,
        total_cents=basket.total_cents,
        lines=tuple(
            OrderLine(
                product_id=line.product_id,
                department=line.department,
                quantity=line.quantity,
                paid_cents=line.paid_cents,
                discount_cents=line.discount_cents,
            )
            for line in basket.lines
        ),
    )


def _cents(dollars: str) -> int:
    # Two places are promised, so leaving out the point is exact.
    return int(dollars.replace(".", ""))
