"""What `saga demo` shows of this business: the real baskets, and the books that they end in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from domain.baskets import order_placed, read_baskets
from domain.books import Books, read_books
from saga import Event
from saga.core.history import Entry
from saga.effects import Database

__all__ = ["BasketDemo", "ShownBooks", "demo"]


@dataclass(frozen=True, slots=True)
class ShownBooks:
    """The books, line by line."""

    books: Books

    @property
    def lines(self) -> list[tuple[str, int, int]]:
        """What is counted, the services' count, the histories' count."""
        services, histories = self.books.services, self.books.histories
        return [
            ("units reserved", services.units, histories.units),
            ("cents charged", services.cents, histories.cents),
            ("slots booked", services.slots, histories.slots),
        ]

    @property
    def problems(self) -> list[str]:
        """Whatever does not agree, in sentences."""
        return [*self.books.leaks, *(str(difference) for difference in self.books.differences)]

    @property
    def balanced(self) -> bool:
        """Whether everything agrees."""
        return self.books.balanced


class BasketDemo:
    """Every basket is ordered once, by a message whose id says which it is."""

    def events(self, limit: int | None) -> Iterator[tuple[str, Event]]:
        """The orders of the first *limit* baskets, each with its message id.

        Raises:
            BadBasket: the file of baskets cannot be read.
        """
        for basket in islice(read_baskets(), limit):
            yield f"basket-{basket.basket_id}", order_placed(basket)

    async def books(self, db: Database, log: AsyncIterator[tuple[int, Entry]]) -> ShownBooks:
        """The books, once every order has ended."""
        return ShownBooks(await read_books(db, log))


demo: Final = BasketDemo()
