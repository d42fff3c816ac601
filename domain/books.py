"""The books: what the services' own tables hold for orders, against what the sagas' histories say.

The two sides are worked out independently: one reads the tables of the services, the other folds
the log. So they agree only if both are right. They are to be compared when no saga is running:
until then the tables hold what may yet be given back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, astuple
from operator import add
from typing import Any, Final

from saga.contracts import ContractRegistry, read
from saga.core.events import SagaStarted
from saga.core.history import Entry
from saga.core.identity import SagaId
from saga.core.intents import SagaAbandoned, SagaCompleted, SagaRolledBack
from saga.core.values import value
from saga.effects import Database
from topics.orders import OrderConfirmed, OrderPlaced

DEFINITION: Final = "order"


@value(kw_only=True)
class Account:
    """Units reserved, cents charged and slots booked, all net of what was given back."""

    units: int = 0
    cents: int = 0
    slots: int = 0

    def __add__(self, other: Account) -> Account:
        units, cents, slots = map(add, astuple(self), astuple(other))
        return Account(units=units, cents=cents, slots=slots)


NOTHING: Final = Account()


@value(kw_only=True)
class Difference:
    """One order on which the two sides do not agree."""

    order_id: str
    in_services: Account
    in_histories: Account

    def __str__(self) -> str:
        theirs, ours = asdict(self.in_services), asdict(self.in_histories)
        parts = [
            f"{name}: {count} in the services, {ours[name]} in the histories"
            for name, count in theirs.items()
            if count != ours[name]
        ]
        return f"order {self.order_id}: {'; '.join(parts)}"


@value(kw_only=True)
class Books:
    """Both sides in total, and all that does not agree.

    *leaks* are sentences about a service whose shelves, wallets or vans do not agree with its own
    reservations, ledger or bookings.
    """

    services: Account
    histories: Account
    confirmed_orders: int
    differences: tuple[Difference, ...]
    leaks: tuple[str, ...]

    @property
    def is_balanced(self) -> bool:
        """Whether both sides agree on every order, and no service has lost anything."""
        return self.services == self.histories and not self.differences and not self.leaks


async def read_books(db: Database, log: AsyncIterator[tuple[int, Entry]]) -> Books:
    """The books as they stand: *db* has the tables of the services, *log* is that of the sagas.

    Raises:
        StoreUnavailable: one of the two cannot be read.
    """
    services, histories = await accounts_of_services(db), await accounts_of_histories(log)
    return compare(services, histories, leaks=await _leaks(db))


def compare(
    services: Mapping[str, Account],
    histories: Mapping[str, Account],
    *,
    leaks: tuple[str, ...] = (),
) -> Books:
    """The books from what each side holds for each order."""
    differences = tuple(
        Difference(
            order_id=order_id,
            in_services=services.get(order_id, NOTHING),
            in_histories=histories.get(order_id, NOTHING),
        )
        for order_id in sorted(services.keys() | histories.keys())
        if services.get(order_id, NOTHING) != histories.get(order_id, NOTHING)
    )
    return Books(
        services=sum(services.values(), NOTHING),
        histories=sum(histories.values(), NOTHING),
        confirmed_orders=len(histories),
        differences=differences,
        leaks=leaks,
    )


# Sums are cast because PostgreSQL adds whole numbers up to a decimal one.
_UNITS: Final = """
    SELECT order_id, CAST(SUM(quantity) AS BIGINT) AS amount
    FROM warehouse_reservations GROUP BY order_id"""
_CENTS: Final = """
    SELECT order_id,
           CAST(SUM(CASE entry WHEN 'charge' THEN cents ELSE -cents END) AS BIGINT) AS amount
    FROM payments_ledger GROUP BY order_id"""
_SLOTS: Final = """
    SELECT order_id, CAST(COUNT(*) AS BIGINT) AS amount
    FROM delivery_bookings GROUP BY order_id"""
_LEAKS: Final = (
    (
        "units have left the shelves",
        "are reserved",
        """SELECT (SELECT CAST(COALESCE(SUM(stocked - on_hand), 0) AS BIGINT)
                   FROM warehouse_stock) AS gone,
                  (SELECT CAST(COALESCE(SUM(quantity), 0) AS BIGINT)
                   FROM warehouse_reservations) AS kept""",
    ),
    (
        "cents have left the wallets",
        "are in the ledger",
        """SELECT (SELECT CAST(COALESCE(SUM(budget_cents - balance_cents), 0) AS BIGINT)
                   FROM payments_wallets) AS gone,
                  (SELECT CAST(COALESCE(
                       SUM(CASE entry WHEN 'charge' THEN cents ELSE -cents END), 0) AS BIGINT)
                   FROM payments_ledger) AS kept""",
    ),
    (
        "places on vans are taken",
        "are booked",
        """SELECT (SELECT CAST(COALESCE(SUM(booked), 0) AS BIGINT) FROM delivery_slots) AS gone,
                  (SELECT CAST(COUNT(*) AS BIGINT) FROM delivery_bookings) AS kept""",
    ),
)


async def accounts_of_services(db: Database) -> dict[str, Account]:
    """What the services' own tables hold for each order; orders without anything are left out."""
    units = await _amounts(db, _UNITS)
    cents = await _amounts(db, _CENTS)
    slots = await _amounts(db, _SLOTS)
    accounts = {
        each: Account(units=units[each], cents=cents[each], slots=slots[each])
        for each in units.keys() | cents.keys() | slots.keys()
    }
    return {order_id: account for order_id, account in accounts.items() if account != NOTHING}


async def _amounts(db: Database, sql: str) -> Counter[str]:
    rows: Any = await db.fetch(sql)
    return Counter({row["order_id"]: row["amount"] for row in rows})


async def _leaks(db: Database) -> tuple[str, ...]:
    leaks: list[str] = []
    for moved, recorded, sql in _LEAKS:
        rows: Any = await db.fetch(sql)
        gone, kept = rows[0]["gone"], rows[0]["kept"]
        if gone != kept:
            leaks.append(f"{gone} {moved}, {kept} {recorded}")
    return tuple(leaks)


_CONTRACTS: Final = ContractRegistry([OrderPlaced, OrderConfirmed])


async def accounts_of_histories(log: AsyncIterator[tuple[int, Entry]]) -> dict[str, Account]:
    """What each confirmed order is entitled to, by the triggers and outcomes recorded in *log*.

    Units are those that the household ordered, cents are the confirmed total. Only running orders
    are kept in memory while the log is read.
    """
    ordered: dict[SagaId, tuple[str, int]] = {}
    accounts: dict[str, Account] = {}
    async for _, entry in log:
        match entry.body:
            case SagaStarted(definition=definition, trigger=trigger) if definition == DEFINITION:
                placed = read(_CONTRACTS, trigger)
                assert isinstance(placed, OrderPlaced), placed
                units = sum(line.quantity for line in placed.lines)
                ordered[entry.saga_id] = placed.order_id, units
            case SagaCompleted(outcome=outcome) if outcome and entry.saga_id in ordered:
                confirmed = read(_CONTRACTS, outcome)
                assert isinstance(confirmed, OrderConfirmed), confirmed
                order_id, units = ordered.pop(entry.saga_id)
                accounts[order_id] = Account(units=units, cents=confirmed.total_cents, slots=1)
            case SagaRolledBack() | SagaAbandoned():
                ordered.pop(entry.saga_id, None)
            case _:
                pass
    return accounts
