"""The warehouse: what stands on the shelves, and for which order it is set aside."""

from domain.warehouse.service import warehouse

__all__ = ["warehouse"]
