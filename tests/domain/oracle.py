"""What becomes of orders one after the other, worked out without services, SQL or sagas."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC

from domain.baskets import Basket
from domain.books import Account
from domain.stocking import opening_slots, opening_stock, opening_wallets


@dataclass
class Run:
    """The code with which each order ended, and what the confirmed ones hold."""

    codes: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)

    @property
    def by_code(self) -> Counter[str]:
        return Counter(self.codes.values())

    @property
    def total(self) -> Account:
        return sum(self.accounts.values(), Account())


def fulfil_all(baskets: Sequence[Basket], stocked_from: Sequence[Basket] | None = None) -> Run:
    """Fulfil *baskets* in their order, stocked from these or other baskets."""
    stocked_from = baskets if stocked_from is None else stocked_from
    stock = dict(opening_stock(stocked_from))
    wallets = dict(opening_wallets(stocked_from))
    slots = dict(opening_slots(stocked_from))
    run = Run()
    for basket in baskets:
        run.codes[basket.basket_id] = code = _fulfil(basket, stock, wallets, slots)
        if code == "confirmed":
            units = sum(line.quantity for line in basket.lines)
            run.accounts[basket.basket_id] = Account(units=units, cents=basket.total_cents, slots=1)
    return run


def _fulfil(basket: Basket, stock: dict, wallets: dict, slots: dict) -> str:
    if any(line.quantity <= 0 for line in basket.lines):
        return "bad_line"
    wanted = Counter()
    for line in basket.lines:
        wanted[line.product_id] += line.quantity
    if any(stock.get(product_id, 0) < units for product_id, units in wanted.items()):
        return "out_of_stock"
    if wallets.get(basket.household_id, 0) < basket.total_cents:
        return "wallet_too_small"
    slot = (basket.store_id, basket.at.astimezone(UTC).date())
    if slots.get(slot, 0) < 1:
        return "slot_full"
    for product_id, units in wanted.items():
        stock[product_id] -= units
    wallets[basket.household_id] -= basket.total_cents
    slots[slot] -= 1
    return "confirmed"
