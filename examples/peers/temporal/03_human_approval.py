"""Temporal: a person decides, and who does not answer in time is passed over.

temporal server start-dev
python examples/peers/temporal/03_human_approval.py
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker


@dataclass
class Claim:
    expense: str
    amount: int
    patience: dict[str, float]
    """Seconds, by who is asked."""


@activity.defn
async def ask(expense: str, who: str) -> None:
    """Would send a mail."""


@workflow.defn
class Expense:
    def __init__(self) -> None:
        self.answers: dict[str, bool] = {}

    @workflow.signal
    def answer(self, who: str, granted: bool) -> None:
        self.answers[who] = granted

    @workflow.run
    async def run(self, claim: Claim) -> str:
        for who, seconds in claim.patience.items():
            await workflow.execute_activity(
                ask, args=[claim.expense, who], start_to_close_timeout=timedelta(seconds=30)
            )
            try:
                await workflow.wait_condition(
                    lambda: who in self.answers,  # noqa: B023  # it is awaited here
                    timeout=timedelta(seconds=seconds),
                )
            except TimeoutError:
                continue
            if not self.answers[who]:
                raise ApplicationError(f"{who} has said no", non_retryable=True)
            return f"{claim.amount} granted by {who}"
        raise ApplicationError("nobody has answered", non_retryable=True)


async def main() -> None:
    claims = [
        (Claim("e-1", 80, {"ann": 172_800, "board": 604_800}), "ann"),
        (Claim("e-2", 900, {"ann": 0.5, "board": 604_800}), "board"),
        (Claim("e-3", 700, {"ann": 0.5, "board": 0.5}), None),
    ]
    client = await Client.connect("localhost:7233")
    async with Worker(client, task_queue="office", workflows=[Expense], activities=[ask]):
        for claim, who in claims:
            handle = await client.start_workflow(
                Expense.run, claim, id=f"expense-{claim.expense}", task_queue="office"
            )
            if who is not None:
                await handle.signal(Expense.answer, args=[who, True])
            try:
                print(claim.expense, await handle.result())
            except WorkflowFailureError as error:
                print(claim.expense, "rejected:", error.cause)


if __name__ == "__main__":
    asyncio.run(main())
