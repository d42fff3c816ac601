"""Payments: households charged for an order and refunded again."""

from topics.payments.v1 import (
    NO_WALLET,
    WALLET_TOO_SMALL,
    ChargeHousehold,
    HouseholdCharged,
    RefundHousehold,
)

__all__ = [
    "NO_WALLET",
    "WALLET_TOO_SMALL",
    "ChargeHousehold",
    "HouseholdCharged",
    "RefundHousehold",
]
