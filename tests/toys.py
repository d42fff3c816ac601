"""The toy domain of all tests: an order is reserved, paid and shipped; each test varies a part.

Contracts have defaults, so that a test names only the fields that it is about. Rooms add sagas and
services of their own to these contracts, rather than contracts.
"""

from collections.abc import Callable
from typing import Any

from saga.authoring import Context, FunctionDefinition, saga
from saga.contracts import Event, Intent
from saga.core.retry import ONCE, Retry

EXACT = Retry(attempts=3, initial="10s", factor=2, cap="1h", jitter=0)


class OrderPlaced(Event, topic="shop.order-placed", version=1, key="order_id"):
    order_id: str = "o-1"
    amount: int = 3
    wants_approval: bool = False


class Reserved(Event, topic="shop.reserved", version=1):
    shelf: str = "s-1"


class Paid(Event, topic="shop.paid", version=1):
    receipt: str = "r-1"


class Reserve(Intent[Reserved], topic="shop.reserve", version=1):
    order_id: str = "o-1"


class Unreserve(Intent[None], topic="shop.unreserve", version=1):
    order_id: str = "o-1"
    shelf: str | None = None


class Pay(Intent[Paid], topic="shop.pay", version=1):
    order_id: str = "o-1"
    amount: int = 3


class Refund(Intent[None], topic="shop.refund", version=1):
    order_id: str = "o-1"
    receipt: str | None = None


class Ship(Intent[None], topic="shop.ship", version=1):
    order_id: str = "o-1"


class Unship(Intent[None], topic="shop.unship", version=1):
    order_id: str = "o-1"


class Notify(Intent[None], topic="shop.notify", version=1):
    order_id: str = "o-1"


class OrderConfirmed(Event, topic="shop.order-confirmed", version=1):
    order_id: str = "o-1"
    shelf: str = "s-1"


class OrderSeen(Event, topic="shop.order-seen", version=1):
    order_id: str = "o-1"


class OrderRejected(Event, topic="shop.order-rejected", version=1):
    order_id: str = "o-1"
    reason: str
    code: str | None = None
    failed_step: str | None = None
    residue: tuple[str, ...] = ()


CONTRACTS = (
    Reserve,
    Unreserve,
    Pay,
    Refund,
    Ship,
    Unship,
    Notify,
    OrderConfirmed,
    OrderSeen,
    OrderRejected,
)


def order_saga(
    *, retry: Retry = ONCE, timeout: str | None = None, **options: Any
) -> FunctionDefinition:
    """Reserve, pay, ship: each with its undo."""

    @saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected, **options)
    async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
        await ctx.do(Reserve(), undo=Unreserve, retry=retry, timeout=timeout)
        await ctx.do(Pay(amount=placed.amount), undo=Refund, retry=retry, timeout=timeout)
        await ctx.do(Ship(), undo=Unship, retry=retry, timeout=timeout)
        return OrderConfirmed()

    return order


def as_saga(function: Callable[..., Any], **options: Any) -> FunctionDefinition:
    """A saga of any function of context and trigger."""
    defaults: dict[str, Any] = {
        "version": 1,
        "starts_on": OrderPlaced,
        "rolled_back": OrderRejected,
    }
    return saga("order", **{**defaults, **options})(function)


class Shipped(Event, topic="carrier.shipped", version=1, key="order_id"):
    """What a service says that this order's saga has asked for nothing."""

    order_id: str = "o-1"
    parcel: int = 1


class Settled(Event, topic="bank.settled", version=1):
    order_ref: str | None = "o-1"
    amount: int = 3
