"""Orders through the whole engine: each ends as it should, and the books balance."""

import asyncio

import pytest

from domain import app
from domain.baskets import order_placed, read_baskets
from domain.books import Account, read_books
from saga.adapters.sqlite import SqliteEffectsStore
from saga.core.intents import IntentIssued
from tests.domain.conftest import basket, looking_at
from tests.domain.oracle import fulfil_all
from tests.patience import HANG_S
from topics.orders import OrderConfirmed, OrderRejected


class Grocery:
    """The application on files of its own."""

    def __init__(self, folder):
        self.folder = folder

    def open(self):
        """Every role of it, as a context manager."""
        return app.service(
            bus=f"local:///{self.folder}/saga.db",
            store=f"sqlite:///{self.folder}/saga.db",
            effects_store=f"sqlite:///{self.folder}/effects.db",
        )

    async def books(self, service):
        store = SqliteEffectsStore(f"{self.folder}/effects.db")
        await store.open()
        try:
            async with looking_at(store) as db:
                return await read_books(db, service.catalogue.log())
        finally:
            await store.close()


@pytest.fixture
def grocery(tmp_path):
    return Grocery(tmp_path)


async def order(service, one):
    """Publish a basket's order and wait for its outcome."""
    saga_id = await service.publish(order_placed(one))
    return await service.outcome(saga_id, timeout=HANG_S)


async def steps(service, one):
    """The intents that a basket's saga has issued, in order."""
    saga_id = await service.publish(order_placed(one))
    return [
        f"{entry.body.step} {entry.body.direction}"
        async for _, entry in service.catalogue.log()
        if entry.saga_id == saga_id and isinstance(entry.body, IntentIssued)
    ]


async def test_confirmed_order_has_its_price_and_delivery_day(grocery, stocked_from):
    one = basket("1", ("11", 2, "2.50"), ("12", 1, "0.00"), store_id="3")
    stocked_from(one)

    async with grocery.open() as service:
        outcome = await order(service, one)

    assert outcome.status == "completed"
    assert outcome.event == OrderConfirmed(
        order_id="1",
        household_id="7",
        store_id="3",
        units=3,
        total_cents=250,
        receipt="R-1",
        delivery_day=one.at.date(),
    )


FIRST = basket("1", ("11", 3, "3.00"), store_id="2")
CHECK, RESERVE = "check-order do", "reserve-stock do"
CHARGE, BOOK = "charge-household do", "book-slot do"
RELEASE, REFUND = "reserve-stock undo", "charge-household undo"
REFUSALS = [
    pytest.param(
        basket("2", ("11", 1, "1.00"), ("12", 0, "0.00")),
        ["check-order", "bad_line", "line 2, product 12: a quantity of 0 cannot be ordered"],
        [CHECK],
        id="dirty line",
    ),
    pytest.param(
        basket("2", ("11", 10, "1.00")),
        ["reserve-stock", "out_of_stock", "product 11: 10 wanted, 9 on hand"],
        [CHECK, RESERVE],
        id="out of stock",
    ),
    pytest.param(
        basket("2", ("11", 1, "99.00")),
        [
            *("charge-household", "wallet_too_small"),
            "household 7 has 1500 cents left, the order costs 9900",
        ],
        [CHECK, RESERVE, CHARGE, RELEASE],
        id="wallet too small",
    ),
    pytest.param(
        basket("2", ("11", 1, "1.00"), store_id="4"),
        ["book-slot", "no_delivery", "store 4 does not deliver on 2017-01-01"],
        [CHECK, RESERVE, CHARGE, BOOK, REFUND, RELEASE],
        id="no van",
    ),
]


@pytest.mark.parametrize(("refused", "expected", "issued"), REFUSALS)
async def test_refused_order_is_undone_in_reverse_and_says_why(
    grocery, stocked_from, refused, expected, issued
):
    stocked_from(FIRST, basket("0", ("11", 9, "3.00")))

    async with grocery.open() as service:
        await order(service, FIRST)
        outcome = await order(service, refused)
        taken = await steps(service, refused)
        books = await grocery.books(service)

    failed_step, code, reason = expected
    assert outcome.status == "rolled_back"
    assert outcome.event == OrderRejected(
        order_id="2",
        household_id=refused.household_id,
        store_id=refused.store_id,
        reason=reason,
        code=code,
        failed_step=failed_step,
    )
    assert taken == issued
    assert books.is_balanced, books
    assert books.services == Account(units=3, cents=300, slots=1)


async def test_orders_one_after_the_other_end_as_the_oracle_says(grocery):
    everything = list(read_baskets())
    baskets = everything[250:330]
    expected = fulfil_all(baskets, stocked_from=everything)

    async with grocery.open() as service:
        codes = {}
        for one in baskets:
            outcome = await order(service, one)
            codes[one.basket_id] = getattr(outcome.event, "code", "confirmed")
        books = await grocery.books(service)

    assert codes == expected.codes
    assert books.is_balanced, books
    assert books.services == expected.total
    assert len(expected.by_code) > 1


async def test_books_balance_whatever_the_interleaving(grocery):
    """Orders all at once may end otherwise than in a row, but nothing is lost between them."""
    baskets = list(read_baskets())[-400:]

    async with grocery.open() as service:
        outcomes = await asyncio.gather(*(order(service, one) for one in baskets))
        books = await grocery.books(service)

    confirmed = [outcome.event for outcome in outcomes if outcome.status == "completed"]
    rejected = [outcome.event for outcome in outcomes if outcome.status == "rolled_back"]
    assert len(confirmed) + len(rejected) == len(baskets)
    assert all(event.residue == () for event in rejected)
    assert books.is_balanced, books
    assert books.confirmed_orders == len(confirmed)
    assert books.services.cents == sum(event.total_cents for event in confirmed)
    assert books.services.units == sum(event.units for event in confirmed)
