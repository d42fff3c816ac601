"""Delivery: a store's slots booked for an order and given back."""

from topics.delivery.v1 import NO_DELIVERY, SLOT_FULL, BookSlot, CancelSlot, SlotBooked

__all__ = ["NO_DELIVERY", "SLOT_FULL", "BookSlot", "CancelSlot", "SlotBooked"]
