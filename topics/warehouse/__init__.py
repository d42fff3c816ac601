"""The warehouse: stock reserved for an order and released again."""

from topics.warehouse.v1 import OUT_OF_STOCK, ReleaseStock, ReserveStock, StockLine, StockReserved

__all__ = ["OUT_OF_STOCK", "ReleaseStock", "ReserveStock", "StockLine", "StockReserved"]
