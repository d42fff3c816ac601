"""Reading the real baskets, refusing what is none, and publishing each as its till would."""

import gzip
import json

import pytest

from domain.baskets import BASKETS, BadBasket, order_placed, read_baskets
from saga.contracts import ContractRegistry, contract_of, decode, encode
from tests.domain.conftest import basket
from topics.orders import OrderPlaced

GOOD = {
    "basket_id": "1",
    "household_id": "7",
    "store_id": "2",
    "at": "2017-01-01T10:00:00Z",
    "lines": [
        {"product_id": "11", "department": None, "quantity": 1, "paid": "1.00", "discount": "0.00"}
    ],
}


def test_shipped_file_agrees_with_its_description():
    baskets = list(read_baskets())
    lines = [line for one in baskets for line in one.lines]

    assert (len(baskets), len(lines)) == (3301, 35176)
    assert len({one.basket_id for one in baskets}) == len(baskets)
    assert [one.at for one in baskets] == sorted(one.at for one in baskets)
    assert sum(line.quantity == 0 for line in lines) == 161
    assert sum(line.quantity < 0 for line in lines) == 0
    assert sum(any(line.quantity <= 0 for line in one.lines) for one in baskets) == 140
    assert sum(line.quantity >= 1000 for line in lines) == 236
    assert sum(line.paid_cents == 0 and line.quantity > 0 for line in lines) == 22
    assert "84.51°" in (BASKETS.parent / "README.md").read_text("utf-8")


def write(path, *lines):
    with gzip.open(path, "wb") as file:
        file.writelines(line + b"\n" for line in lines)
    return path


def line(**changes):
    """A line of the file with *changes*."""
    return json.dumps(GOOD | changes).encode()


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        pytest.param(b"{", "Invalid JSON", id="no JSON"),
        pytest.param(b"", "Invalid JSON", id="an empty line"),
        pytest.param(line(at="yesterday"), "at: ", id="no time"),
        pytest.param(line(at="2017-01-01T10:00:00"), "at: ", id="a time that may be anywhere"),
        pytest.param(line(store_id="north"), "store_id: ", id="a store without a number"),
        pytest.param(line(lines=[{"product_id": "1"}]), "lines.0.department: ", id="half a line"),
        pytest.param(
            line(lines=[GOOD["lines"][0] | {"quantity": 1.5}]), "lines.0.quantity: ", id="a half"
        ),
        pytest.param(
            line(lines=[GOOD["lines"][0] | {"paid": "1"}]), "lines.0.paid: ", id="no cents"
        ),
        pytest.param(line(coupon="x"), "coupon: ", id="something nobody expected"),
    ],
)
def test_bad_line_is_refused_by_file_and_line(tmp_path, bad, expected):
    path = write(tmp_path / "baskets.jsonl.gz", line(), bad)
    reading = read_baskets(path)

    assert next(reading).basket_id == "1"
    with pytest.raises(BadBasket) as refused:
        next(reading)

    assert str(refused.value).startswith(f"{path}:2: ")
    assert expected in str(refused.value)


def test_line_without_end_is_not_read_into_memory(tmp_path):
    path = write(tmp_path / "baskets.jsonl.gz", b'{"basket_id": "' + b"1" * 2_000_000 + b'"}')

    with pytest.raises(BadBasket, match=":1: "):
        list(read_baskets(path))


def damaged(path):
    """A compressed file that ends in the middle."""
    write(path, *[line()] * 1000)
    path.write_bytes(path.read_bytes()[:-12])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: None, id="missing"),
        pytest.param(lambda path: path.mkdir(), id="a folder"),
        pytest.param(lambda path: path.write_bytes(b"basket_id\n"), id="not compressed"),
        pytest.param(damaged, id="cut off"),
    ],
)
def test_file_that_cannot_be_read_is_named(tmp_path, make):
    """Whatever is wrong with the file itself, the error is of one kind and names it."""
    path = tmp_path / "baskets.jsonl.gz"
    make(path)

    with pytest.raises(BadBasket, match=r"baskets\.jsonl\.gz"):
        list(read_baskets(path))


@pytest.mark.parametrize(("store_id", "version"), [("2", 2), ("293", 1)])
def test_odd_stores_publish_version_1(store_id, version):
    """The store's number decides, so that every run has the same traffic."""
    placed = order_placed(basket(store_id=store_id))

    assert contract_of(type(placed)).version == version


def test_both_kinds_of_till_say_the_same():
    """For each real basket, the published order is read as that basket, whatever the till."""
    registry = ContractRegistry([OrderPlaced])
    versions = set()
    for one in list(read_baskets())[::10]:
        placed = order_placed(one)
        contract = contract_of(type(placed))
        versions.add(contract.version)

        read = decode(registry, contract.contract_name, encode(placed).encode()).model

        assert read.order_id == one.basket_id
        assert (read.household_id, read.store_id) == (one.household_id, one.store_id)
        assert read.requested_at == one.at
        assert read.total_cents == one.total_cents
        assert [
            (line.product_id, line.department, line.quantity, line.paid_cents, line.discount_cents)
            for line in read.lines
        ] == [
            (line.product_id, line.department, line.quantity, line.paid_cents, line.discount_cents)
            for line in one.lines
        ]
    assert versions == {1, 2}
