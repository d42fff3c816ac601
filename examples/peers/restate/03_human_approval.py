"""Restate: a person decides, and who does not answer in time is passed over.

restate-server
hypercorn --bind 0.0.0.0:9080 03_human_approval:app     # in examples/peers/restate/
restate deployments register http://localhost:9080
curl localhost:8080/Expense/e-1/run/send --json '{"amount": 80, "patience": {"ann": 9, "board": 9}}'
curl localhost:8080/Expense/e-1/answer --json '{"who": "ann", "granted": true}'
"""

from datetime import timedelta
from typing import TypedDict

import restate
from restate import RunOptions, TerminalError, Workflow, WorkflowContext, WorkflowSharedContext

expenses = Workflow("Expense")


class Claim(TypedDict):
    amount: int
    patience: dict[str, float]


class Answer(TypedDict):
    who: str
    granted: bool


async def ask(expense: str, who: str) -> None:
    """Would send a mail."""


@expenses.main()
async def run(ctx: WorkflowContext, claim: Claim) -> str:
    for who, seconds in claim["patience"].items():
        await ctx.run_typed(f"ask {who}", ask, RunOptions(), ctx.key(), who)
        match await restate.select(
            answer=ctx.promise(who, type_hint=bool).value(),
            timeout=ctx.sleep(timedelta(seconds=seconds)),
        ):
            case ["answer", True]:
                return f"{claim['amount']} granted by {who}"
            case ["answer", _]:
                raise TerminalError(f"{who} has said no")
    raise TerminalError("nobody has answered")


@expenses.handler()
async def answer(ctx: WorkflowSharedContext, given: Answer) -> None:
    await ctx.promise(given["who"], type_hint=bool).resolve(given["granted"])


app = restate.app(services=[expenses])
