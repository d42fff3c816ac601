"""Two orders race for what is left of a customer's credit. One of them gets it, never both.

    python examples/09_credit_limit.py

A saga locks nothing, and others see what it has done so far. What must never be broken belongs into
one service: the limit is kept by a single statement on one row. And the order is pending until its
credit is reserved, so that nobody ships it before. It prints

    approved: 60 of 100, 40 are left
    rejected: 60 are too much, 40 are left
    credit-order/o-3 rolled_back: nobody is no customer
      do    create-order    undone
      do    reserve-credit  refused
      undo  create-order    undone
"""

import asyncio
from typing import Any

from saga import Context, EffectContext, Effects, Event, Intent, Refused, SagaApp, saga

LIMIT = 100


class OrderPlaced(Event, topic="sales.order-placed", version=1, key="order_id"):
    order_id: str
    customer: str
    total: int


class CreateOrder(Intent[None], topic="sales.create-order", version=1):
    order_id: str


class RejectOrder(Intent[None], topic="sales.reject-order", version=1):
    order_id: str


class CreditReserved(Event, topic="customers.credit-reserved", version=1):
    left: int


class ReserveCredit(Intent[CreditReserved], topic="customers.reserve-credit", version=1):
    customer: str
    total: int


class ApproveOrder(Intent[None], topic="sales.approve-order", version=1):
    order_id: str


class OrderApproved(Event, topic="sales.order-approved", version=1):
    total: int
    credit_left: int


class OrderRejected(Event, topic="sales.order-rejected", version=1):
    order_id: str
    reason: str


@saga("credit-order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> OrderApproved:
    await ctx.do(CreateOrder(order_id=placed.order_id), undo=RejectOrder)
    reserve = ReserveCredit(customer=placed.customer, total=placed.total)
    reserved = await ctx.do(reserve, kind="pivot")
    await ctx.do(ApproveOrder(order_id=placed.order_id), kind="retriable")
    return OrderApproved(total=placed.total, credit_left=reserved.left)


sales, customers = Effects("sales"), Effects("customers")


@customers.on_start
async def make_customers(db: Any) -> None:
    await db.execute("CREATE TABLE IF NOT EXISTS customers (name TEXT PRIMARY KEY, credit INT)")
    new = "INSERT INTO customers VALUES ('ann', :limit) ON CONFLICT DO NOTHING"
    await db.execute(new, limit=LIMIT)


async def note(intent: CreateOrder | RejectOrder | ApproveOrder, ctx: EffectContext) -> None: ...


sales.on(CreateOrder)(note)
sales.on(RejectOrder)(note)
sales.on(ApproveOrder)(note)


@customers.on(ReserveCredit)
async def reserve(intent: ReserveCredit, ctx: EffectContext) -> CreditReserved:
    take = "UPDATE customers SET credit = credit - :total WHERE name = :name AND credit >= :total"
    taken = await ctx.db.execute(take, name=intent.customer, total=intent.total)
    select = "SELECT credit FROM customers WHERE name = :name"
    rows = await ctx.db.fetch(select, name=intent.customer)
    if not rows:
        raise Refused(f"{intent.customer} is no customer", code="unknown")
    left: int = rows[0]["credit"]
    if not taken:
        raise Refused(f"{intent.total} are too much, {left} are left", code="credit")
    return CreditReserved(left=left)


app = SagaApp(sagas=[order], effects=[sales, customers])


async def main() -> None:
    async with app.service() as service:
        placed = [OrderPlaced(order_id=name, customer="ann", total=60) for name in ("o-1", "o-2")]
        racing = await asyncio.gather(*(service.start(each) for each in placed))
        outcomes = await asyncio.gather(*(service.outcome(saga_id) for saga_id in racing))
        for outcome in sorted(outcomes, key=lambda outcome: outcome.status):
            match outcome.event:
                case OrderApproved(total=total, credit_left=left):
                    print(f"approved: {total} of {LIMIT}, {left} are left")
                case OrderRejected(reason=reason):
                    print("rejected:", reason)
        saga_id = await service.start(OrderPlaced(order_id="o-3", customer="nobody", total=60))
        await service.outcome(saga_id)
        print(await service.find(saga_id))


if __name__ == "__main__":
    asyncio.run(main())
