"""The delivery service: books a place on a store's vans for an order, and gives it back."""

from __future__ import annotations

from typing import Final

from domain.baskets import read_baskets
from domain.rows import open_tables
from domain.stocking import opening_slots
from saga import EffectContext, Effects, Refused
from saga.effects import Database
from topics.delivery import NO_DELIVERY, SLOT_FULL, BookSlot, CancelSlot, SlotBooked

# Days are text as ISO 8601 has them: both stores order and compare them alike.
_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS delivery_slots (
        store_id TEXT NOT NULL,
        day TEXT NOT NULL,
        capacity BIGINT NOT NULL,
        booked BIGINT NOT NULL CHECK (booked BETWEEN 0 AND capacity),
        PRIMARY KEY (store_id, day))""",
    """CREATE TABLE IF NOT EXISTS delivery_bookings (
        order_id TEXT PRIMARY KEY,
        store_id TEXT NOT NULL,
        day TEXT NOT NULL)""",
)
_TAKE: Final = """
    UPDATE delivery_slots SET booked = booked + 1
    WHERE store_id = :store_id AND day = :day AND booked < capacity"""
_CAPACITY: Final = """
    SELECT capacity FROM delivery_slots WHERE store_id = :store_id AND day = :day"""
_BOOK: Final = """
    INSERT INTO delivery_bookings (order_id, store_id, day) VALUES (:order_id, :store_id, :day)"""
_GIVE_BACK: Final = """
    UPDATE delivery_slots SET booked = booked - 1
    FROM delivery_bookings AS booking
    WHERE booking.order_id = :order_id
      AND booking.store_id = delivery_slots.store_id AND booking.day = delivery_slots.day"""
_FORGET: Final = "DELETE FROM delivery_bookings WHERE order_id = :order_id"

delivery = Effects("delivery")


@delivery.on_start
async def open_vans(db: Database) -> None:
    def places() -> list[tuple[str, str, int, int]]:
        slots = opening_slots(read_baskets())
        return [(store_id, day.isoformat(), free, 0) for (store_id, day), free in slots.items()]

    columns = ("store_id", "day", "capacity", "booked")
    await open_tables(db, _TABLES, "delivery_slots", columns, places)


@delivery.on(BookSlot)
async def book_slot(intent: BookSlot, ctx: EffectContext) -> SlotBooked:
    """Book a place, if one is free."""
    store_id, day = intent.store_id, intent.day.isoformat()
    taken = await ctx.db.execute(_TAKE, store_id=store_id, day=day)
    if not taken:
        raise await _refusal(intent, ctx)
    await ctx.db.execute(_BOOK, order_id=intent.order_id, store_id=store_id, day=day)
    return SlotBooked(order_id=intent.order_id, store_id=store_id, day=intent.day)


@delivery.on(CancelSlot)
async def cancel_slot(intent: CancelSlot, ctx: EffectContext) -> None:
    """Give back an order's place; the second time there is none to give back."""
    await ctx.db.execute(_GIVE_BACK, order_id=intent.order_id)
    await ctx.db.execute(_FORGET, order_id=intent.order_id)


async def _refusal(intent: BookSlot, ctx: EffectContext) -> Refused:
    day = intent.day.isoformat()
    rows = await ctx.db.fetch(_CAPACITY, store_id=intent.store_id, day=day)
    if not rows:
        return Refused(f"store {intent.store_id} does not deliver on {day}", code=NO_DELIVERY)
    return Refused(
        f"all {rows[0]['capacity']} places of store {intent.store_id} on {day} are taken",
        code=SLOT_FULL,
    )
