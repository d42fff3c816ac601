"""The order desk: the saga of an order, and the check that every order starts with."""

from domain.orders.checking import desk
from domain.orders.fulfilment import order

__all__ = ["desk", "order"]
