"""The warehouse's service: reserves all that an order wants or nothing, and puts it back.

Reserved units have left `on_hand`, so the next order sees only free ones. The table itself refuses
to go below zero, also when orders race.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from domain.baskets import read_baskets
from domain.rows import insert_rows, open_tables
from domain.stocking import opening_stock
from saga import EffectContext, Effects, Refused
from saga.effects import Database
from topics.warehouse import OUT_OF_STOCK, ReleaseStock, ReserveStock, StockReserved

SHORT_NAMED_MAX: Final = 5
"""How many products a refusal names; a large order may be short of a hundred."""

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS warehouse_stock (
        product_id TEXT PRIMARY KEY,
        stocked BIGINT NOT NULL,
        on_hand BIGINT NOT NULL CHECK (on_hand >= 0))""",
    """CREATE TABLE IF NOT EXISTS warehouse_reservations (
        order_id TEXT NOT NULL,
        product_id TEXT NOT NULL,
        quantity BIGINT NOT NULL CHECK (quantity > 0),
        PRIMARY KEY (order_id, product_id))""",
)
_SHORT: Final = """
    SELECT wanted.product_id, wanted.quantity, COALESCE(stock.on_hand, 0) AS on_hand
    FROM warehouse_reservations AS wanted
    LEFT JOIN warehouse_stock AS stock ON stock.product_id = wanted.product_id
    WHERE wanted.order_id = :order_id AND COALESCE(stock.on_hand, 0) < wanted.quantity
    ORDER BY wanted.product_id"""
_TAKE: Final = """
    UPDATE warehouse_stock SET on_hand = warehouse_stock.on_hand - wanted.quantity
    FROM warehouse_reservations AS wanted
    WHERE wanted.order_id = :order_id AND wanted.product_id = warehouse_stock.product_id"""
_PUT_BACK: Final = """
    UPDATE warehouse_stock SET on_hand = warehouse_stock.on_hand + reserved.quantity
    FROM warehouse_reservations AS reserved
    WHERE reserved.order_id = :order_id AND reserved.product_id = warehouse_stock.product_id"""
_FORGET: Final = "DELETE FROM warehouse_reservations WHERE order_id = :order_id"

warehouse = Effects("warehouse")


@warehouse.on_start
async def open_warehouse(db: Database) -> None:
    def shelves() -> list[tuple[str, int, int]]:
        stock = opening_stock(read_baskets())
        return [(product, units, units) for product, units in stock.items()]

    columns = ("product_id", "stocked", "on_hand")
    await open_tables(db, _TABLES, "warehouse_stock", columns, shelves)


@warehouse.on(ReserveStock)
async def reserve_stock(intent: ReserveStock, ctx: EffectContext) -> StockReserved:
    """Set aside all lines of an order.

    The lines are written down first and compared with the shelves in one statement. A refusal
    rolls the writing back.
    """
    wanted = [(intent.order_id, line.product_id, line.quantity) for line in intent.lines]
    columns = ("order_id", "product_id", "quantity")
    await insert_rows(ctx.db, "warehouse_reservations", columns, wanted)
    short = await ctx.db.fetch(_SHORT, order_id=intent.order_id)
    if short:
        raise Refused(_shortage(short), code=OUT_OF_STOCK)
    taken = await ctx.db.execute(_TAKE, order_id=intent.order_id)
    assert taken == len(wanted), f"{taken} shelves for {len(wanted)} lines of {intent.order_id}"
    return StockReserved(
        order_id=intent.order_id, units=sum(line.quantity for line in intent.lines)
    )


@warehouse.on(ReleaseStock)
async def release_stock(intent: ReleaseStock, ctx: EffectContext) -> None:
    """Put back what is set aside for an order; the second time there is nothing left to do."""
    await ctx.db.execute(_PUT_BACK, order_id=intent.order_id)
    await ctx.db.execute(_FORGET, order_id=intent.order_id)


def _shortage(short: Sequence[dict[str, object]]) -> str:
    named = [
        f"product {row['product_id']}: {row['quantity']} wanted, {row['on_hand']} on hand"
        for row in short[:SHORT_NAMED_MAX]
    ]
    if len(short) > SHORT_NAMED_MAX:
        named.append(f"and {len(short) - SHORT_NAMED_MAX} more")
    return "; ".join(named)
