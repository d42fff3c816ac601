"""The payments team's contracts, version 1."""

from typing import Final

from saga import Event, Intent
from topics.fields import Cents, Identifier

__all__ = [
    "NO_WALLET",
    "WALLET_TOO_SMALL",
    "ChargeHousehold",
    "HouseholdCharged",
    "RefundHousehold",
]

NO_WALLET: Final = "no_wallet"
"""Refusal of `ChargeHousehold`: nobody knows this household."""

WALLET_TOO_SMALL: Final = "wallet_too_small"
"""Refusal of `ChargeHousehold`: the wallet holds less than the amount; nothing is taken."""


class HouseholdCharged(Event, topic="payments.household-charged", version=1):
    """The amount was taken from the household's wallet."""

    order_id: Identifier
    amount_cents: Cents
    receipt: str


class ChargeHousehold(Intent[HouseholdCharged], topic="payments.charge-household", version=1):
    """Take the price of an order from a household's wallet, once."""

    order_id: Identifier
    household_id: Identifier
    amount_cents: Cents


class RefundHousehold(Intent[None], topic="payments.refund-household", version=1):
    """Give back what was taken for an order; *receipt* is for the statement, if there is one."""

    order_id: Identifier
    receipt: str | None = None
