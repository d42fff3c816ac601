"""What shelves, wallets and vans hold before the first order, worked out from the baskets.

Nothing is drawn by lot. Buyers, households and stores plan by what is usual, and real baskets are
not usual: so some meet an empty shelf, an empty wallet or a full van.
Each function reads the baskets once and gives the same on every machine.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date
from statistics import median
from typing import Final

from domain.baskets import Basket

CASE_UNITS: Final = 12
TANK_UNITS: Final = 10_000
BY_VOLUME_FROM_UNITS: Final = 1_000
"""A single line of so many units is no armful of packets: the product comes out of a tank."""

WALLET_BASKETS: Final = 6
"""A household sets aside three of its usual baskets a week, for two weeks."""

SLOTS_SPARE: Final = 1.5
"""A store has half as many places again on its vans as it usually needs in a day."""


def opening_stock(baskets: Iterable[Basket]) -> Mapping[str, int]:
    """Units of each product: all that the baskets want, in whole cases or tanks.

    The buyer rounds down, so the last units of products sold by the case are missing. A product
    that sells less than one case is bought by the piece.
    """
    wanted: Counter[str] = Counter()
    by_volume: set[str] = set()
    for basket in baskets:
        for line in basket.lines:
            wanted[line.product_id] += max(line.quantity, 0)
            if line.quantity >= BY_VOLUME_FROM_UNITS:
                by_volume.add(line.product_id)
    return {
        product_id: _bought(units, TANK_UNITS if product_id in by_volume else CASE_UNITS)
        for product_id, units in wanted.items()
    }


def opening_wallets(baskets: Iterable[Basket]) -> Mapping[str, int]:
    """Cents in each household's wallet: some of its usual baskets."""
    totals: defaultdict[str, list[int]] = defaultdict(list)
    for basket in baskets:
        totals[basket.household_id].append(basket.total_cents)
    return {
        household_id: math.floor(median(paid) * WALLET_BASKETS)
        for household_id, paid in totals.items()
    }


def opening_slots(baskets: Iterable[Basket]) -> Mapping[tuple[str, date], int]:
    """Places on each store's vans on each day: what it usually needs in a day, and some spare."""
    needed: defaultdict[str, Counter[date]] = defaultdict(Counter)
    days: set[date] = set()
    for basket in baskets:
        day = basket.at.astimezone(UTC).date()
        needed[basket.store_id][day] += 1
        days.add(day)
    capacity = {
        store_id: math.ceil(median(by_day.values()) * SLOTS_SPARE)
        for store_id, by_day in needed.items()
    }
    return {
        (store_id, day): places for store_id, places in capacity.items() for day in sorted(days)
    }


def _bought(units: int, lot: int) -> int:
    return units if units < lot else units // lot * lot
