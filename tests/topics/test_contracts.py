"""What holds for every contract under `topics/`: names, keys, limits, and undo without
an answer.
"""

from pathlib import Path

import pytest
from pydantic import ValidationError

import topics.delivery
import topics.orders
import topics.payments
import topics.warehouse
from domain import app
from saga.contracts import Kind, contract_of, decode
from saga.contracts.lockfile import check, read_lock
from saga.contracts.registry import ContractRegistry
from tests.test_public_surface import sort_key

TEAMS = (topics.delivery, topics.orders, topics.payments, topics.warehouse)


def contracts(team):
    """The contracts that a team's package shows."""
    shown = [getattr(team, name) for name in team.__all__]
    return [contract_of(one) for one in shown if hasattr(one, "__saga_contract__")]


@pytest.mark.parametrize("team", TEAMS, ids=lambda team: team.__name__)
def test_team_owns_the_topics_in_its_folder(team):
    """A team's contracts carry its name as their domain."""
    domain = team.__name__.rpartition(".")[2]

    assert contracts(team)
    assert {contract.domain for contract in contracts(team)} == {domain}


@pytest.mark.parametrize("team", TEAMS, ids=lambda team: team.__name__)
def test_package_shows_all_its_contracts_in_order(team):
    """What version 1 shows, the package shows too, unless a newer version took its place."""
    names = {contract.name for contract in contracts(team)}

    assert list(team.__all__) == sorted(team.__all__, key=sort_key)
    assert names == {contract.name for contract in contracts(team.v1)}


def test_every_intent_names_its_order():
    """Each effect is about one order, so that its undo can be keyed by it."""
    intents = [one for team in TEAMS for one in contracts(team) if one.kind is Kind.INTENT]

    assert len(intents) == 7
    assert all("order_id" in one.model.model_fields for one in intents)


@pytest.mark.parametrize("quantity", [0, -1, 10**13])
def test_stock_is_reserved_in_whole_positive_units(quantity):
    """A line that cannot be an order line cannot even be said to the warehouse."""
    with pytest.raises(ValidationError, match="quantity"):
        topics.warehouse.StockLine(product_id="1", quantity=quantity)


def test_line_of_no_units_can_be_placed():
    """It is the order desk that refuses it, with a reason; the contract lets it be said."""
    line = topics.orders.OrderLine(product_id="1", quantity=0, paid_cents=0)

    assert line.quantity == 0


def test_order_of_too_many_lines_is_unreadable():
    """The size of an order is limited before anyone works on it."""
    line = '{"product_id":"1","quantity":1,"paid_cents":0}'
    value = (
        '{"order_id":"1","household_id":"1","store_id":"1","requested_at":"2017-01-01T00:00:00Z",'
        f'"total_cents":0,"lines":[{",".join([line] * 1001)}]}}'
    )

    found = decode(
        ContractRegistry([topics.orders.OrderPlaced]), "orders.evt.order-placed.v2", value.encode()
    )

    assert found.message.startswith("lines: ")


def test_lock_file_is_up_to_date():
    """Whoever changes a contract also says so in the lock file, where a reviewer sees it."""
    path = Path(topics.orders.__file__).parents[1] / "contracts.lock.json"

    lock = read_lock(path.read_text("utf-8"), where=str(path))

    assert [str(change) for change in check(app.contracts, lock)] == []
    assert set(lock) == {one.contract_name for team in TEAMS for one in contracts(team)} | {
        "orders.evt.order-placed.v1"
    }
