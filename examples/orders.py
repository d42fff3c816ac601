"""An order is paid and shipped by services that know nothing of this library, only the wire."""

from saga import Context, Event, Intent, Retry, SagaApp, saga


class OrderPlaced(Event, topic="bakery.order-placed", version=1, key="order_id"):
    """Somebody wants something sent to a place."""

    order_id: str
    amount: int
    place: str = "Berlin"


class Paid(Event, topic="tills.paid", version=1):
    """The answer to `Pay`."""

    receipt: str


class Pay(Intent[Paid], topic="tills.pay", version=1):
    """Handled by `plain_aiokafka.py`."""

    order_id: str
    amount: int


class Refund(Intent[None], topic="tills.refund", version=1):
    """Undoes `Pay`; by then there may be no receipt."""

    order_id: str
    receipt: str | None = None


class Ship(Intent[None], topic="vans.ship", version=1):
    """Handled by `plain_faststream.py`."""

    order_id: str
    place: str


class OrderConfirmed(Event, topic="bakery.order-confirmed", version=1):
    """Paid and on its way."""

    order_id: str
    receipt: str


class OrderRejected(Event, topic="bakery.order-rejected", version=1):
    """Nothing is paid, nothing is sent."""

    order_id: str
    reason: str


@saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    """Pay, then ship; what cannot be shipped is paid back."""
    pay = Pay(order_id=placed.order_id, amount=placed.amount)
    paid = await ctx.do(pay, undo=Refund, retry=Retry(attempts=3))
    await ctx.do(Ship(order_id=placed.order_id, place=placed.place))
    return OrderConfirmed(order_id=placed.order_id, receipt=paid.receipt)


app = SagaApp(sagas=[order])
