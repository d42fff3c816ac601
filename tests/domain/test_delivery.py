"""The delivery service on real tables: no van carries more than it can."""

from datetime import date

import pytest

from domain.delivery import delivery
from saga import Refused
from tests.domain.conftest import basket
from topics.delivery import BookSlot, CancelSlot

DAY = date(2017, 1, 1)


def book(order_id: str, store_id: str = "2", day: date = DAY) -> BookSlot:
    """An intent to book with store 2 on the first day, or elsewhere."""
    return BookSlot(order_id=order_id, store_id=store_id, day=day)


@pytest.fixture
async def vans(services, stocked_from):
    """Store 2 with two places, on one day."""
    stocked_from(basket("1"))
    await services.open(delivery)
    return services


async def booked(services):
    """How many places are taken, and by whom."""
    [slot] = await services.fetch("SELECT booked FROM delivery_slots")
    bookings = await services.fetch("SELECT order_id FROM delivery_bookings ORDER BY order_id")
    return slot["booked"], [row["order_id"] for row in bookings]


async def test_place_is_booked_for_the_order(vans):
    reply = await vans.ask(delivery, book("a"))

    assert (reply.order_id, reply.store_id, reply.day) == ("a", "2", DAY)
    assert await booked(vans) == (1, ["a"])


async def test_full_day_is_refused(vans):
    await vans.ask(delivery, book("a"))
    await vans.ask(delivery, book("b"))

    with pytest.raises(Refused) as refused:
        await vans.ask(delivery, book("c"))

    assert refused.value.code == "slot_full"
    assert str(refused.value) == "all 2 places of store 2 on 2017-01-01 are taken"
    assert await booked(vans) == (2, ["a", "b"])


@pytest.mark.parametrize(("store_id", "day"), [("99", DAY), ("2", date(2017, 2, 1))])
async def test_store_without_vans_that_day_differs_from_a_full_one(vans, store_id, day):
    with pytest.raises(Refused, match="does not deliver") as refused:
        await vans.ask(delivery, book("a", store_id, day))

    assert refused.value.code == "no_delivery"


async def test_cancelled_place_is_free_again(vans):
    await vans.ask(delivery, book("a"))
    await vans.ask(delivery, book("b"))
    for order_id in ("a", "a", "never"):
        await vans.ask(delivery, CancelSlot(order_id=order_id))

    assert await booked(vans) == (1, ["b"])
