"""The golden messages in `topics/*/golden`: what was once published is read the same for ever."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from saga.contracts import ContractRegistry, Decoded, Unreadable, decode
from topics.orders import OrderPlaced, v1

GOLDEN = Path(__file__).parents[2] / "topics" / "orders" / "golden"
REGISTRY = ContractRegistry([OrderPlaced])


@dataclass
class Received:
    """A record as it was received."""

    topic: str
    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes

    @property
    def contract(self) -> str:
        """The contract's name: the topic without environment and namespace."""
        return self.topic.split(".", 2)[2]


def received(name: str) -> Received:
    """A golden message as the bytes that came."""
    message = json.loads((GOLDEN / name).read_text("utf-8"))
    return Received(
        topic=message["topic"],
        key=message["key"].encode(),
        headers=tuple((header, value.encode()) for header, value in message["headers"].items()),
        value=message["value"].encode(),
    )


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("*.json")))
def test_golden_message_is_read_as_the_current_version(name):
    """Whatever version was published, an order of version 2 comes out, under the record's key."""
    record = received(name)

    found = decode(REGISTRY, record.contract, record.value)

    assert isinstance(found, Decoded)
    assert found.contract_name == "orders.evt.order-placed.v2"
    assert isinstance(found.model, OrderPlaced)
    assert found.model.order_id.encode() == record.key


def test_golden_version_1_becomes_golden_version_2_byte_for_byte():
    """The same order, once from an old till and once from a new one, is the same to every
    reader.
    """
    old, new = received("order-placed.v1.json"), received("order-placed.v2.json")

    upcast = decode(REGISTRY, old.contract, old.value)

    assert isinstance(upcast, Decoded)
    assert upcast.payload.encode() == new.value


def test_golden_messages_cover_both_versions():
    """No version of the contract is without a golden message."""
    contracts = {received(path.name).contract for path in GOLDEN.glob("*.json")}

    assert contracts == set(REGISTRY.names_read_as("orders.evt.order-placed.v2"))


def till_order(**changes):
    """An old till's order as it is sent, with *changes* in it."""
    order = json.loads(received("order-placed.v1.json").value)
    return json.dumps(order | changes).encode()


def read_old(**changes):
    """What becomes of an old till's order."""
    return decode(REGISTRY, "orders.evt.order-placed.v1", till_order(**changes))


def test_clock_of_an_old_till_is_utc_unless_it_says_otherwise():
    """A time with an offset keeps it; one without is UTC."""
    plain = read_old(sold_on="2017-01-02", sold_at="23:26:01")
    shifted = read_old(sold_on="2017-01-02", sold_at="23:26:01-06:00")

    assert plain.model.requested_at.isoformat() == "2017-01-02T23:26:01+00:00"
    assert shifted.model.requested_at.isoformat() == "2017-01-02T23:26:01-06:00"


@pytest.mark.parametrize(
    ("dollars", "cents"), [("0.00", 0), ("0.07", 7), ("4.35", 435), ("1138.50", 113850)]
)
def test_dollars_become_cents_exactly(dollars, cents):
    """No amount passes through a binary fraction, in which 4.35 would be 4.3499…."""
    assert read_old(total=dollars).model.total_cents == cents


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"total": "4.5"}, "total", id="one decimal place"),
        pytest.param({"total": "-4.00"}, "total", id="money below nothing"),
        pytest.param({"total": 4}, "total", id="a number where text was promised"),
        pytest.param({"sold_on": "2017-02-30"}, "sold_on", id="no such day"),
        pytest.param({"customer": ""}, "customer", id="nobody"),
        pytest.param({"customer": "2013\n"}, "customer", id="a line break in an id"),
        pytest.param({"lines": [{"product": "1"}]}, "lines[0].quantity", id="half a line"),
    ],
)
def test_old_order_that_cannot_be_one_is_unreadable_and_says_where(changes, field):
    """What version 1 does not promise is set aside before the upcast, naming the field."""
    found = read_old(**changes)

    assert isinstance(found, Unreadable)
    assert field in found.message


def test_upcast_makes_nothing_up():
    """Every fact of the older message is in the newer one, and the newer has no others."""
    old = v1.OrderPlaced.model_validate_json(received("order-placed.v1.json").value)

    new = read_old().model

    assert (new.household_id, new.store_id) == (old.customer, old.store)
    assert [(line.product_id, line.department or "", str(line.quantity)) for line in new.lines] == [
        (line.product, line.department, line.quantity) for line in old.lines
    ]
