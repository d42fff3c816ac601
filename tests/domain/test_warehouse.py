"""The warehouse's service on real tables: all or nothing, and put back once."""

import pytest

from domain.warehouse import warehouse
from saga import Refused
from tests.domain.conftest import basket
from topics.warehouse import ReleaseStock, ReserveStock, StockLine


def reserve(order_id: str, **wanted: int) -> ReserveStock:
    """An intent that wants some of the products p11, p12, …."""
    lines = tuple(
        StockLine(product_id=name.removeprefix("p"), quantity=quantity)
        for name, quantity in wanted.items()
    )
    return ReserveStock(order_id=order_id, lines=lines)


@pytest.fixture
async def shelves(services, stocked_from):
    """A warehouse with 5 units of product 11 and 12 of product 12."""
    stocked_from(basket("1", ("11", 5, "1.00"), ("12", 13, "1.00")))
    await services.open(warehouse)
    return services


async def on_hand(services):
    rows = await services.fetch("SELECT product_id, on_hand FROM warehouse_stock")
    return {row["product_id"]: row["on_hand"] for row in rows}


async def reserved(services):
    """What is set aside, by order and product."""
    rows = await services.fetch("SELECT * FROM warehouse_reservations")
    return {(row["order_id"], row["product_id"]): row["quantity"] for row in rows}


async def test_reserved_units_leave_the_shelf(shelves):
    reply = await shelves.ask(warehouse, reserve("a", p11=2, p12=12))

    assert (reply.order_id, reply.units) == ("a", 14)
    assert await on_hand(shelves) == {"11": 3, "12": 0}
    assert await reserved(shelves) == {("a", "11"): 2, ("a", "12"): 12}


async def test_order_that_is_short_of_one_product_gets_nothing(shelves):
    with pytest.raises(Refused) as refused:
        await shelves.ask(warehouse, reserve("a", p11=5, p12=13))

    assert refused.value.code == "out_of_stock"
    assert str(refused.value) == "product 12: 13 wanted, 12 on hand"
    assert await on_hand(shelves) == {"11": 5, "12": 12}
    assert await reserved(shelves) == {}


async def test_unknown_product_is_out_of_stock(shelves):
    """What never stood on a shelf cannot be reserved."""
    with pytest.raises(Refused, match="product 99: 1 wanted, 0 on hand"):
        await shelves.ask(warehouse, reserve("a", p11=1, p99=1))


async def test_refusal_names_a_few_products_and_counts_the_rest(shelves):
    wanted = {f"p{number}": 1 for number in range(100, 108)}

    with pytest.raises(Refused) as refused:
        await shelves.ask(warehouse, reserve("a", **wanted))

    assert str(refused.value).count("wanted") == 5
    assert str(refused.value).endswith("; and 3 more")


async def test_release_puts_back_the_lines_of_the_order(shelves):
    await shelves.ask(warehouse, reserve("a", p11=2, p12=1))
    await shelves.ask(warehouse, reserve("b", p11=1))

    await shelves.ask(warehouse, ReleaseStock(order_id="a"))

    assert await on_hand(shelves) == {"11": 4, "12": 12}
    assert await reserved(shelves) == {("b", "11"): 1}


async def test_release_of_nothing_changes_nothing(shelves):
    await shelves.ask(warehouse, reserve("a", p11=2))
    for order_id in ("a", "a", "never"):
        await shelves.ask(warehouse, ReleaseStock(order_id=order_id))

    assert await on_hand(shelves) == {"11": 5, "12": 12}


async def test_largest_order_is_reserved_in_one_go(services, stocked_from):
    products = [str(number) for number in range(1000)]
    stocked_from(basket("1", *((product, 1, "1.00") for product in products)))
    await services.open(warehouse)

    reply = await services.ask(
        warehouse, reserve("a", **{f"p{product}": 1 for product in products})
    )

    assert reply.units == 1000
    assert set((await on_hand(services)).values()) == {0}


async def test_second_start_does_not_restock(shelves, stocked_from):
    """What was sold stays sold, whatever the baskets say by now."""
    await shelves.ask(warehouse, reserve("a", p11=2))
    stocked_from(basket("1", ("11", 9, "1.00"), ("13", 9, "1.00")))

    await shelves.open(warehouse)

    assert await on_hand(shelves) == {"11": 3, "12": 12}
