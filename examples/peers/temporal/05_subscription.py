"""Temporal: a subscription is charged once a month, and sleeps in between.

    python examples/peers/temporal/05_subscription.py

The test environment skips the time; it fetches a server of its own the first time.
"""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker


@activity.defn
async def charge(member: str, month: int) -> None:
    print(f"month {month}: charged")


@workflow.defn
class Subscription:
    @workflow.run
    async def run(self, member: str, months: int) -> int:
        for month in range(1, months + 1):
            await workflow.execute_activity(
                charge, args=[member, month], start_to_close_timeout=timedelta(seconds=30)
            )
            await workflow.sleep(timedelta(days=30))
        return months


async def main() -> None:
    async with (
        await WorkflowEnvironment.start_time_skipping() as environment,
        Worker(
            environment.client,
            task_queue="magazine",
            workflows=[Subscription],
            activities=[charge],
        ),
    ):
        charged = await environment.client.execute_workflow(
            Subscription.run, args=["ann", 3], id="subscription-ann", task_queue="magazine"
        )
        print("the end:", charged)


if __name__ == "__main__":
    asyncio.run(main())
