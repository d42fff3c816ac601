"""The books: both sides agree on honest services, and every dishonesty is found and named."""

import pytest

from domain.baskets import order_placed, read_baskets
from domain.books import Account, accounts_of_histories, accounts_of_services, compare, read_books
from domain.delivery import delivery
from domain.payments import payments
from domain.warehouse import warehouse
from saga import Refused
from saga.contracts import ContractRegistry, contract_of, decode, encode, message_of
from saga.core.events import Message, SagaStarted
from saga.core.history import Entry
from saga.core.intents import SagaAbandoned, SagaCompleted, SagaRolledBack
from tests.domain.conftest import basket, looking_at
from tests.domain.oracle import fulfil_all
from topics.delivery import BookSlot, CancelSlot
from topics.orders import OrderConfirmed, OrderPlaced
from topics.payments import ChargeHousehold, RefundHousehold
from topics.warehouse import ReleaseStock, ReserveStock, StockLine

REGISTRY = ContractRegistry([OrderPlaced])
BASKETS = [
    basket("1", ("11", 2, "2.00"), ("12", 1, "1.00")),
    basket("2", ("11", 1, "1.00"), household_id="8"),
    basket("3", ("11", 0, "0.00")),
]


def trigger(one):
    """The trigger that a saga records for a basket."""
    placed = order_placed(one)
    name = contract_of(type(placed)).contract_name
    read = decode(REGISTRY, name, encode(placed).encode())
    return Message(read.contract_name, read.payload)


def confirmed(one):
    return message_of(
        OrderConfirmed(
            order_id=one.basket_id,
            household_id=one.household_id,
            store_id=one.store_id,
            units=sum(line.quantity for line in one.lines),
            total_cents=one.total_cents,
            receipt="R",
            delivery_day=one.at.date(),
        )
    )


def started(one, definition="order", **more):
    """The first entry's body of a basket's saga."""
    said = {"fingerprint": "f", "key": one.basket_id, "trigger": trigger(one)} | more
    return SagaStarted(definition=definition, definition_version=1, **said)


def rolled_back():
    """The last entry's body of a saga that was undone."""
    return SagaRolledBack(reason="no", code="no", failed_step=None, residue=(), outcome=None)


async def log(*bodies):
    """A log of (saga, body) pairs."""
    for place, (saga_id, body) in enumerate(bodies, 1):
        yield place, Entry(saga_id, place, place, "cause", body)


async def test_confirmed_orders_are_entitled_to_their_lines():
    one, two, three = BASKETS

    accounts = await accounts_of_histories(
        log(
            ("a", started(one)),
            ("b", started(two)),
            ("c", started(three)),
            ("d", started(two, definition="another")),
            ("d", SagaCompleted(outcome=confirmed(two))),
            ("a", SagaCompleted(outcome=confirmed(one))),
            ("b", rolled_back()),
            ("c", SagaAbandoned(reason="enough", residue=())),
        )
    )

    assert accounts == {"1": Account(units=3, cents=300, slots=1)}


async def test_orders_under_way_are_entitled_to_nothing_yet():
    assert await accounts_of_histories(log(("a", started(BASKETS[0])))) == {}


async def test_orders_of_old_tills_count_alike():
    old = basket("1", ("11", 2, "2.00"), store_id="3")
    placed = order_placed(old)
    body = started(old, trigger=message_of(placed))
    assert body.trigger.contract.endswith(".v1")

    accounts = await accounts_of_histories(
        log(("a", body), ("a", SagaCompleted(outcome=confirmed(old))))
    )

    assert accounts == {"1": Account(units=2, cents=200, slots=1)}


def test_difference_names_the_order_and_the_counts():
    right, wrong = Account(units=3, cents=300, slots=1), Account(units=3, cents=200, slots=1)

    books = compare({"1": wrong, "2": right}, {"1": right, "2": right})

    assert not books.is_balanced
    assert [str(difference) for difference in books.differences] == [
        "order 1: cents: 200 in the services, 300 in the histories"
    ]


def test_equal_totals_do_not_hide_swapped_orders():
    one, two = Account(units=1, cents=1, slots=1), Account(units=2, cents=2, slots=1)

    books = compare({"1": one, "2": two}, {"1": two, "2": one})

    assert books.services == books.histories
    assert len(books.differences) == 2
    assert not books.is_balanced


def test_order_on_one_side_only_is_a_difference():
    """What was never confirmed may hold nothing, and what was confirmed may not hold nothing."""
    held = Account(units=1, cents=1, slots=1)

    assert [d.order_id for d in compare({"1": held}, {"2": held}).differences] == ["1", "2"]


def test_empty_books_balance():
    assert compare({}, {}).is_balanced


async def fulfil(services, one):
    """Ask the services for all that a basket needs, in turn; raises the first `Refused`."""
    lines = tuple(
        StockLine(product_id=line.product_id, quantity=line.quantity) for line in one.lines
    )
    order_id = one.basket_id
    charge = ChargeHousehold(
        order_id=order_id, household_id=one.household_id, amount_cents=one.total_cents
    )
    await services.ask(warehouse, ReserveStock(order_id=order_id, lines=lines))
    await services.ask(payments, charge)
    day = one.at.date()
    await services.ask(delivery, BookSlot(order_id=order_id, store_id=one.store_id, day=day))


@pytest.fixture
async def sold(services, stocked_from):
    """Services that have sold the first two baskets."""
    stocked_from(*BASKETS)
    await services.open(warehouse, payments, delivery)
    for one in BASKETS[:2]:
        await fulfil(services, one)
    return services


async def books_of(services):
    """The books beside histories that say: both baskets are confirmed."""
    bodies = [
        (one.basket_id, body)
        for one in BASKETS[:2]
        for body in (started(one), SagaCompleted(outcome=confirmed(one)))
    ]
    async with looking_at(services.store) as db:
        return await read_books(db, log(*bodies))


async def test_honest_services_balance(sold):
    books = await books_of(sold)

    assert books.is_balanced, books
    assert books.services == Account(units=4, cents=400, slots=2)
    assert books.confirmed_orders == 2


@pytest.mark.parametrize(
    ("tampering", "expected"),
    [
        pytest.param(
            "DELETE FROM warehouse_reservations WHERE order_id = '2'",
            ["order 2: units: 0 in the services, 1 in the histories"],
            id="a reservation is lost",
        ),
        pytest.param(
            "UPDATE payments_ledger SET cents = cents + 1 WHERE order_id = '1'",
            ["order 1: cents: 301 in the services, 300 in the histories"],
            id="a charge is too high",
        ),
        pytest.param(
            "INSERT INTO delivery_bookings VALUES ('9', '2', '2017-01-01')",
            ["order 9: slots: 1 in the services, 0 in the histories"],
            id="a booking nobody asked for",
        ),
    ],
)
async def test_false_entry_is_a_difference_and_a_leak(sold, tampering, expected):
    await sold.execute(tampering)

    books = await books_of(sold)

    assert not books.is_balanced
    assert [str(difference) for difference in books.differences] == expected
    assert len(books.leaks) == 1


@pytest.mark.parametrize(
    ("tampering", "expected"),
    [
        (
            "UPDATE warehouse_stock SET on_hand = on_hand - 1 WHERE product_id = '12'",
            "5 units have left the shelves, 4 are reserved",
        ),
        (
            "UPDATE payments_wallets SET balance_cents = balance_cents - 7",
            "414 cents have left the wallets, 400 are in the ledger",
        ),
        ("UPDATE delivery_slots SET booked = 0", "0 places on vans are taken, 2 are booked"),
    ],
    ids=["shelves", "wallets", "vans"],
)
async def test_a_leak_of_a_service_is_named(sold, tampering, expected):
    """Orders may agree while a service has lost something of its own."""
    # One more unit of product 12 than was sold, so that there is one to lose.
    await sold.execute(
        "UPDATE warehouse_stock SET stocked = stocked + 1, on_hand = on_hand + 1"
        " WHERE product_id = '12'"
    )
    await sold.execute(tampering)

    books = await books_of(sold)

    assert books.differences == ()
    assert books.leaks == (expected,)
    assert not books.is_balanced


async def test_services_agree_with_the_oracle_on_real_baskets(services):
    baskets = list(read_baskets())
    expected = fulfil_all(baskets[:600], stocked_from=baskets)
    await services.open(warehouse, payments, delivery)

    codes = {}
    for one in baskets[:600]:
        codes[one.basket_id] = await ending(services, one)

    async with looking_at(services.store) as db:
        held = await accounts_of_services(db)
    assert codes == expected.codes
    assert held == expected.accounts
    assert len(expected.by_code) >= 4


async def ending(services, one):
    """How a basket's order ends, undoing by hand what a saga would undo."""
    if any(line.quantity <= 0 for line in one.lines):
        return "bad_line"
    try:
        await fulfil(services, one)
    except Refused as refused:
        await undo(services, one.basket_id)
        return refused.code
    return "confirmed"


async def undo(services, order_id):
    """Everything that a rollback may ask for, in reverse order; what was never done is a no-op."""
    await services.ask(delivery, CancelSlot(order_id=order_id))
    await services.ask(payments, RefundHousehold(order_id=order_id))
    await services.ask(warehouse, ReleaseStock(order_id=order_id))
