"""Temporal: several suppliers at once, the first two who answer count, the cheaper one wins.

temporal server start-dev
python examples/peers/temporal/04_best_offer.py
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

PRICES = {"acme": 40, "bolt": 30}
LIMIT = timedelta(days=1)
ALIVE = timedelta(seconds=5)


@activity.defn
async def hold_offer(item: str, supplier: str) -> int:
    if supplier == "crow":
        raise ApplicationError("sold out", non_retryable=True)
    while supplier == "dusk":
        activity.heartbeat()  # without it a cancel does not reach an activity
        await asyncio.sleep(1)
    return PRICES[supplier]


@activity.defn
async def decline(item: str, supplier: str) -> None: ...


@activity.defn
async def buy(item: str, supplier: str, price: int) -> None: ...


@workflow.defn
class Purchase:
    @workflow.run
    async def run(self, item: str, suppliers: list[str]) -> str:
        asked = {
            supplier: workflow.start_activity(
                hold_offer,
                args=[item, supplier],
                start_to_close_timeout=LIMIT,
                heartbeat_timeout=ALIVE,
                retry_policy=RetryPolicy(maximum_attempts=3),
            )
            for supplier in suppliers
        }
        offers: dict[str, int] = {}
        waiting = dict(asked)
        try:
            while len(offers) < 2:
                if len(offers) + len(waiting) < 2:
                    raise ApplicationError("too few offers", non_retryable=True)
                await workflow.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
                for supplier in [each for each in waiting if waiting[each].done()]:
                    try:
                        offers[supplier] = await waiting.pop(supplier)
                    except ActivityError:
                        continue
            counted = sorted(list(offers)[:2], key=lambda supplier: offers[supplier])
            best = counted[0]
            await workflow.execute_activity(
                buy, args=[item, best, offers[best]], start_to_close_timeout=LIMIT
            )
        except (ActivityError, ApplicationError):
            await self.give_up(item, asked, list(asked))
            raise
        await self.give_up(item, asked, [each for each in asked if each != best])
        return f"bought from {best} for {offers[best]}"

    async def give_up(
        self, item: str, asked: dict[str, workflow.ActivityHandle[int]], suppliers: list[str]
    ) -> None:
        """Cancel what is under way, and decline what was or may have been held."""
        for supplier in suppliers:
            asked[supplier].cancel()
        declines = [
            workflow.execute_activity(decline, args=[item, each], start_to_close_timeout=LIMIT)
            for each in suppliers
        ]
        await asyncio.gather(*declines)


async def main() -> None:
    client = await Client.connect("localhost:7233")
    activities: Sequence[Callable[..., Any]] = [hold_offer, decline, buy]
    async with Worker(client, task_queue="desks", workflows=[Purchase], activities=activities):
        bought = await client.execute_workflow(
            Purchase.run,
            args=["desk", ["acme", "bolt", "crow", "dusk"]],
            id="purchase-desk",
            task_queue="desks",
        )
        print("desk:", bought)


if __name__ == "__main__":
    asyncio.run(main())
