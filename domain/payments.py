"""The payments service: charges a household's wallet for an order, and refunds it.

Entries of the ledger are only added. Its key allows one charge and one refund an order.
"""

from __future__ import annotations

from typing import Final

from domain.baskets import read_baskets
from domain.rows import open_tables
from domain.stocking import opening_wallets
from saga import EffectContext, Effects, Refused
from saga.effects import Database
from topics.payments import (
    NO_WALLET,
    WALLET_TOO_SMALL,
    ChargeHousehold,
    HouseholdCharged,
    RefundHousehold,
)

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS payments_wallets (
        household_id TEXT PRIMARY KEY,
        budget_cents BIGINT NOT NULL,
        balance_cents BIGINT NOT NULL CHECK (balance_cents >= 0))""",
    """CREATE TABLE IF NOT EXISTS payments_ledger (
        order_id TEXT NOT NULL,
        entry TEXT NOT NULL CHECK (entry IN ('charge', 'refund')),
        household_id TEXT NOT NULL,
        cents BIGINT NOT NULL CHECK (cents >= 0),
        PRIMARY KEY (order_id, entry))""",
)
_TAKE: Final = """
    UPDATE payments_wallets SET balance_cents = balance_cents - :amount_cents
    WHERE household_id = :household_id AND balance_cents >= :amount_cents"""
_BALANCE: Final = "SELECT balance_cents FROM payments_wallets WHERE household_id = :household_id"
_CHARGE: Final = """
    INSERT INTO payments_ledger (order_id, entry, household_id, cents)
    VALUES (:order_id, 'charge', :household_id, :amount_cents)"""
_REFUND: Final = """
    INSERT INTO payments_ledger (order_id, entry, household_id, cents)
    SELECT order_id, 'refund', household_id, cents FROM payments_ledger
    WHERE order_id = :order_id AND entry = 'charge'
    ON CONFLICT DO NOTHING"""
_GIVE_BACK: Final = """
    UPDATE payments_wallets SET balance_cents = payments_wallets.balance_cents + refund.cents
    FROM payments_ledger AS refund
    WHERE refund.order_id = :order_id AND refund.entry = 'refund'
      AND refund.household_id = payments_wallets.household_id"""

payments = Effects("payments")


@payments.on_start
async def open_wallets(db: Database) -> None:
    def budgets() -> list[tuple[str, int, int]]:
        wallets = opening_wallets(read_baskets())
        return [(household, cents, cents) for household, cents in wallets.items()]

    columns = ("household_id", "budget_cents", "balance_cents")
    await open_tables(db, _TABLES, "payments_wallets", columns, budgets)


@payments.on(ChargeHousehold)
async def charge_household(intent: ChargeHousehold, ctx: EffectContext) -> HouseholdCharged:
    """Take an order's price, if the wallet holds it."""
    household_id, amount_cents = intent.household_id, intent.amount_cents
    taken = await ctx.db.execute(_TAKE, household_id=household_id, amount_cents=amount_cents)
    if not taken:
        raise await _refusal(intent, ctx)
    await ctx.db.execute(
        _CHARGE, order_id=intent.order_id, household_id=household_id, amount_cents=amount_cents
    )
    return HouseholdCharged(
        order_id=intent.order_id, amount_cents=amount_cents, receipt=f"R-{intent.order_id}"
    )


@payments.on(RefundHousehold)
async def refund_household(intent: RefundHousehold, ctx: EffectContext) -> None:
    """Give back what the ledger says was taken for an order, unless it says that was given back."""
    is_new = await ctx.db.execute(_REFUND, order_id=intent.order_id)
    if is_new:
        await ctx.db.execute(_GIVE_BACK, order_id=intent.order_id)


async def _refusal(intent: ChargeHousehold, ctx: EffectContext) -> Refused:
    rows = await ctx.db.fetch(_BALANCE, household_id=intent.household_id)
    if not rows:
        return Refused(f"household {intent.household_id} has no wallet", code=NO_WALLET)
    return Refused(
        f"household {intent.household_id} has {rows[0]['balance_cents']} cents left, the order"
        f" costs {intent.amount_cents}",
        code=WALLET_TOO_SMALL,
    )
