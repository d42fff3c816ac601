"""The payments service on real tables: charged once, refunded once, never below nothing."""

import pytest

from domain.payments import payments
from saga import Refused
from tests.domain.conftest import basket
from topics.payments import ChargeHousehold, RefundHousehold


def charge(order_id: str, amount_cents: int, household_id: str = "7") -> ChargeHousehold:
    """An intent to charge household 7, or another one."""
    return ChargeHousehold(order_id=order_id, household_id=household_id, amount_cents=amount_cents)


@pytest.fixture
async def wallets(services, stocked_from):
    """Households 7 and 8 with 600 cents each."""
    stocked_from(basket("1"), basket("2", household_id="8"))
    await services.open(payments)
    return services


async def balances(services):
    rows = await services.fetch("SELECT household_id, balance_cents FROM payments_wallets")
    return {row["household_id"]: row["balance_cents"] for row in rows}


async def ledger(services):
    """Every entry, as (order, entry, cents)."""
    rows = await services.fetch("SELECT * FROM payments_ledger ORDER BY order_id, entry")
    return [(row["order_id"], row["entry"], row["cents"]) for row in rows]


async def test_charge_is_taken_and_written_down(wallets):
    reply = await wallets.ask(payments, charge("a", 600))

    assert (reply.order_id, reply.amount_cents, reply.receipt) == ("a", 600, "R-a")
    assert await balances(wallets) == {"7": 0, "8": 600}
    assert await ledger(wallets) == [("a", "charge", 600)]


async def test_order_that_costs_nothing_is_charged_nothing(wallets):
    await wallets.ask(payments, charge("a", 600))

    await wallets.ask(payments, charge("b", 0))

    assert await ledger(wallets) == [("a", "charge", 600), ("b", "charge", 0)]


async def test_wallet_that_is_too_small_is_left_alone(wallets):
    """The refusal says what is left and what it would cost."""
    with pytest.raises(Refused) as refused:
        await wallets.ask(payments, charge("a", 601))

    assert refused.value.code == "wallet_too_small"
    assert str(refused.value) == "household 7 has 600 cents left, the order costs 601"
    assert await balances(wallets) == {"7": 600, "8": 600}
    assert await ledger(wallets) == []


async def test_stranger_has_no_wallet(wallets):
    with pytest.raises(Refused, match="household 99 has no wallet") as refused:
        await wallets.ask(payments, charge("a", 0, household_id="99"))

    assert refused.value.code == "no_wallet"


async def test_refund_gives_back_the_amount_in_the_ledger(wallets):
    await wallets.ask(payments, charge("a", 100))
    await wallets.ask(payments, charge("b", 200))

    await wallets.ask(payments, RefundHousehold(order_id="a", receipt="R-a"))

    assert await balances(wallets) == {"7": 400, "8": 600}
    assert await ledger(wallets) == [
        ("a", "charge", 100),
        ("a", "refund", 100),
        ("b", "charge", 200),
    ]


async def test_refund_of_nothing_changes_nothing(wallets):
    await wallets.ask(payments, charge("a", 100))
    for order_id in ("a", "a", "never"):
        await wallets.ask(payments, RefundHousehold(order_id=order_id))

    assert await balances(wallets) == {"7": 600, "8": 600}
    assert await ledger(wallets) == [("a", "charge", 100), ("a", "refund", 100)]
