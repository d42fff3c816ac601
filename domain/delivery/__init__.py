"""Delivery: the places on each store's vans, and which order has one."""

from domain.delivery.service import delivery

__all__ = ["delivery"]
