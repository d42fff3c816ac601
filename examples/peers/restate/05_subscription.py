"""Restate: a subscription is charged once a month, and sleeps in between.

restate-server
hypercorn --bind 0.0.0.0:9080 05_subscription:app     # in examples/peers/restate/
restate deployments register http://localhost:9080
curl localhost:8080/Subscription/ann/charge/send --json '{"month": 1, "months": 3}'
"""

from datetime import timedelta
from typing import TypedDict

import restate
from restate import ObjectContext, RunOptions, VirtualObject

subscriptions = VirtualObject("Subscription")


class Month(TypedDict):
    month: int
    months: int


async def take_money(member: str, month: int) -> None:
    print(f"month {month}: charged")


@subscriptions.handler()
async def charge(ctx: ObjectContext, due: Month) -> None:
    """Each month is a call of its own, sent a month ahead: so no call is old, nor its code."""
    await ctx.run_typed("charge", take_money, RunOptions(), ctx.key(), due["month"])
    if due["month"] == due["months"]:
        ctx.set("charged", due["months"])
        return
    following = Month(month=due["month"] + 1, months=due["months"])
    ctx.object_send(charge, key=ctx.key(), arg=following, send_delay=timedelta(days=30))


app = restate.app(services=[subscriptions])
