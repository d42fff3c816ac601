"""What the order desk takes for an order."""

import pytest

from domain.orders import check
from saga import Refused
from topics.orders import CheckOrder, OrderLine


def order(*lines: tuple[str, int, int], total_cents: int | None = None) -> CheckOrder:
    """An order of (product, quantity, cents) lines, whose total is right unless it is given."""
    return CheckOrder(
        order_id="a",
        total_cents=sum(cents for _, _, cents in lines) if total_cents is None else total_cents,
        lines=tuple(
            OrderLine(product_id=product_id, quantity=quantity, paid_cents=cents)
            for product_id, quantity, cents in lines
        ),
    )


def test_accepted_order_is_priced_and_counted():
    checked = check(order(("11", 2, 398), ("12", 1, 100)))

    assert (checked.total_cents, checked.units) == (498, 3)
    assert [(line.product_id, line.quantity) for line in checked.lines] == [("11", 2), ("12", 1)]


def test_product_scanned_twice_is_one_line():
    checked = check(order(("11", 2, 200), ("12", 1, 100), ("11", 3, 300)))

    assert [(line.product_id, line.quantity) for line in checked.lines] == [("11", 5), ("12", 1)]


@pytest.mark.parametrize(
    "line", [pytest.param(("11", 8725, 2006), id="fuel"), pytest.param(("11", 1, 0), id="free")]
)
def test_unusual_line_is_legal(line):
    assert check(order(line)).units == line[1]


@pytest.mark.parametrize("quantity", [0, -1])
def test_line_without_units_refuses_the_whole_order(quantity):
    with pytest.raises(Refused) as refused:
        check(order(("11", 1, 100), ("12", quantity, 0)))

    assert refused.value.code == "bad_line"
    assert str(refused.value) == f"line 2, product 12: a quantity of {quantity} cannot be ordered"


def test_total_that_does_not_add_up_is_refused():
    with pytest.raises(Refused, match="come to 100 cents, the till says 99") as refused:
        check(order(("11", 1, 100), total_cents=99))

    assert refused.value.code == "wrong_total"


def test_order_for_nothing_is_refused():
    with pytest.raises(Refused) as refused:
        check(order())

    assert refused.value.code == "no_lines"
