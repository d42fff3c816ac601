"""Restate: two orders race for what is left of a customer's credit.

restate-server
hypercorn --bind 0.0.0.0:9080 09_credit_limit:app     # in examples/peers/restate/
restate deployments register http://localhost:9080
curl localhost:8080/Order/o-1/run --json '{"customer": "ann", "total": 60}'
"""

from typing import TypedDict

import restate
from restate import (
    ObjectContext,
    RunOptions,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
)

customers = VirtualObject("Customer")
orders = Workflow("Order")
LIMITS = {"ann": 100}


class Placed(TypedDict):
    customer: str
    total: int


@customers.handler()
async def reserve(ctx: ObjectContext, total: int) -> int:
    """One call of a customer at a time, and its state is kept with it: nothing can race."""
    if ctx.key() not in LIMITS:
        raise TerminalError(f"{ctx.key()} is no customer")
    credit = await ctx.get("credit", type_hint=int)
    left = LIMITS[ctx.key()] if credit is None else credit
    if left < total:
        raise TerminalError(f"{total} are too much, {left} are left")
    ctx.set("credit", left - total)
    return left - total


async def create_order(order_id: str) -> None: ...


async def reject_order(order_id: str) -> None: ...


async def approve_order(order_id: str) -> None: ...


@orders.main()
async def run(ctx: WorkflowContext, placed: Placed) -> str:
    await ctx.run_typed("create", create_order, RunOptions(), ctx.key())
    try:
        left = await ctx.object_call(reserve, key=placed["customer"], arg=placed["total"])
    except TerminalError:
        await ctx.run_typed("reject", reject_order, RunOptions(), ctx.key())
        raise
    await ctx.run_typed("approve", approve_order, RunOptions(), ctx.key())
    return f"approved: {placed['total']} of {LIMITS[placed['customer']]}, {left} are left"


app = restate.app(services=[customers, orders])
