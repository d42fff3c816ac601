"""Payments: the households' wallets, and a ledger of every charge and refund."""

from domain.payments.service import payments

__all__ = ["payments"]
