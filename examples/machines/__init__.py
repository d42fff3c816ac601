"""Sagas as state machines; each file runs by itself: `python examples/machines/order.py`."""
