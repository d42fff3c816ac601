"""The delivery team's contracts, version 1."""

from datetime import date
from typing import Final

from saga import Event, Intent
from topics.fields import Identifier

__all__ = ["NO_DELIVERY", "SLOT_FULL", "BookSlot", "CancelSlot", "SlotBooked"]

NO_DELIVERY: Final = "no_delivery"
"""Refusal of `BookSlot`: the store does not deliver on that day."""

SLOT_FULL: Final = "slot_full"
"""Refusal of `BookSlot`: the store's vans are full on that day."""


class SlotBooked(Event, topic="delivery.slot-booked", version=1):
    """A place on a van is kept for an order."""

    order_id: Identifier
    store_id: Identifier
    day: date


class BookSlot(Intent[SlotBooked], topic="delivery.book-slot", version=1):
    """Keep one of the places that a store's vans have on a day."""

    order_id: Identifier
    store_id: Identifier
    day: date


class CancelSlot(Intent[None], topic="delivery.cancel-slot", version=1):
    """Give back the place that is kept for an order, if one is."""

    order_id: Identifier
