"""The measured order in each way that it can be written: the same order, and what each costs."""

import pytest

from benchmarks import ways
from benchmarks.measuring import Plan
from benchmarks.order import (
    Charge,
    Charged,
    OrderConfirmed,
    OrderRejected,
    Refund,
    Release,
    Reserve,
    Reserved,
    Ship,
    Shipped,
    placed,
)
from saga.testing import completed, given, issued, refused, replied, rolled_back, undo_issued


def shipping(way: str):
    """An order that is about to be shipped."""
    return (
        given(ways.app_of(way).sagas[0], placed(1))
        .then(issued(Reserve(order_id="order-1", amount=101)))
        .when(replied(Reserve, Reserved(reservation="s-1")))
        .then(issued(Charge(order_id="order-1", amount=101)))
        .when(replied(Charge, Charged(receipt="r-1")))
        .then(issued(Ship(order_id="order-1", is_shippable=True)))
    )


@pytest.mark.parametrize("way", ways.WAYS)
def test_each_way_is_the_same_order(way):
    confirmed = OrderConfirmed(order_id="order-1", parcel="p-1")
    shipping(way).when(replied(Ship, Shipped(parcel="p-1"))).then(completed(confirmed))

    (
        shipping(way)
        .when(refused(Ship, "nobody delivers there", code="no_delivery"))
        .then(undo_issued(Refund(order_id="order-1", receipt="r-1")))
        .when(replied(Refund))
        .then(undo_issued(Release(order_id="order-1", reservation="s-1")))
        .when(replied(Release))
        .then(rolled_back(OrderRejected(order_id="order-1", reason="nobody delivers there")))
    )


def test_what_a_way_costs_is_told_beside_the_function():
    """Each run with the run of the function beside it; the goal stands in the table."""
    runs = []
    instructions = {"function": 1000.0, "machine": 1200.0, "graph": 1400.0}

    def run(child, name, sagas, in_flight):
        runs.append((child, name, sagas, in_flight))
        if child == "counting":
            return {"instructions": instructions[name]}
        return {"cpu_us_per_saga": 2 * instructions[name] + len(runs)}

    measured = ways.measure(Plan((1, 64), 6_000, 3, 0), run)
    table = ways.ways_table(measured)

    assert [each for each in runs if each[0] == "counting"] == [
        ("counting", name, ways.SAMPLE_SAGAS, 64) for name in ways.WAYS
    ]
    assert [each[1] for each in runs if each[0] == "way"][:4] == [
        *("graph", "machine", "function"),
        "function",
    ]
    assert [row[:3] for row in table.rows] == [
        ("function", "1,000", "1.00"),
        ("machine", "1,200", "1.20"),
        ("graph", "1,400", "1.40"),
    ]
    assert [row[4][:4] for row in table.rows] == ["1.00", "1.20", "1.40"]
    assert table.columns[2] == "beside the function (goal 1.3)"
