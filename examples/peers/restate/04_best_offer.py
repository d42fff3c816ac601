"""Restate: several suppliers at once, the first two who answer count, the cheaper one wins.

restate-server
hypercorn --bind 0.0.0.0:9080 04_best_offer:app     # in examples/peers/restate/
restate deployments register http://localhost:9080
curl localhost:8080/Purchase/desk/run --json '["acme", "bolt", "crow", "dusk"]'
"""

from datetime import timedelta

import restate
from restate import (
    Context,
    RestateDurableCallFuture,
    RunOptions,
    Service,
    TerminalError,
    Workflow,
    WorkflowContext,
)

suppliers = Service("Suppliers")
purchases = Workflow("Purchase")
PRICES = {"acme": 40, "bolt": 30}


@suppliers.handler()
async def hold_offer(ctx: Context, supplier: str) -> int:
    """A call, as only those can be cancelled."""
    if supplier == "crow":
        raise TerminalError("sold out")
    if supplier == "dusk":
        await ctx.sleep(timedelta(days=1))
    return PRICES[supplier]


async def decline(item: str, supplier: str) -> None: ...


async def buy(item: str, supplier: str, price: int) -> None: ...


@purchases.main()
async def run(ctx: WorkflowContext, names: list[str]) -> str:
    asked = {name: ctx.service_call(hold_offer, arg=name) for name in names}
    offers: dict[str, int] = {}
    waiting = dict(asked)
    try:
        while len(offers) < 2:
            if len(offers) + len(waiting) < 2:
                raise TerminalError("too few offers")
            completed, _ = await restate.wait_completed(*waiting.values())
            for name in [name for name in waiting if waiting[name] in completed]:
                try:
                    offers[name] = await waiting.pop(name)
                except TerminalError:
                    continue
        counted = sorted(list(offers)[:2], key=lambda name: offers[name])
        best = counted[0]
        await ctx.run_typed("buy", buy, RunOptions(), ctx.key(), best, offers[best])
    except TerminalError:
        await give_up(ctx, asked, list(asked))
        raise
    await give_up(ctx, asked, [name for name in asked if name != best])
    return f"bought from {best} for {offers[best]}"


async def give_up(
    ctx: WorkflowContext, asked: dict[str, RestateDurableCallFuture[int]], names: list[str]
) -> None:
    """Cancel what is under way, and decline what was or may have been held."""
    for name in names:
        await asked[name].cancel_invocation()
        await ctx.run_typed(f"decline {name}", decline, RunOptions(), ctx.key(), name)


app = restate.app(services=[suppliers, purchases])
