"""A person decides, for as long as it takes. Who does not answer in time is passed over.

    python examples/03_human_approval.py

Ann is asked first, then the board. An answer is a signal, named by who gives it; one that comes
early is kept until the saga waits for it. It prints

    expense/e-1 completed
      do    ask  done
    80 granted by ann
    expense/e-2 completed
      do    ask    done
      do    ask-2  done
    900 granted by board
    expense/e-3 rolled_back: nobody has answered
      do    ask    done
      do    ask-2  done

Nobody is busy while a saga waits, and no restart or deploy makes it longer or shorter. From a
shell: `saga signal expense/e-2 board '{"granted": true}'`.
"""

import asyncio

from pydantic import BaseModel

from saga import Context, EffectContext, Effects, Event, Intent, RollBack, SagaApp, TimedOut, saga


class ExpenseClaimed(Event, topic="office.expense-claimed", version=1, key="expense"):
    expense: str
    amount: int
    patience: dict[str, str]
    """With whom, one after the other; ann has half a second here, or "2d" in earnest."""


class Ask(Intent[None], topic="office.ask", version=1):
    expense: str
    who: str


class Answer(BaseModel):
    granted: bool


class ExpenseGranted(Event, topic="office.expense-granted", version=1):
    amount: int
    by: str


class ExpenseRejected(Event, topic="office.expense-rejected", version=1):
    expense: str
    reason: str


@saga("expense", version=1, starts_on=ExpenseClaimed, rolled_back=ExpenseRejected)
async def expense(ctx: Context, claimed: ExpenseClaimed) -> ExpenseGranted:
    for who, patience in claimed.patience.items():
        await ctx.do(Ask(expense=claimed.expense, who=who), kind="harmless")
        try:
            answer = await ctx.wait(who, Answer, timeout=patience)
        except TimedOut:
            continue  # escalate
        if not answer.granted:
            raise RollBack(f"{who} has said no", code="declined")
        return ExpenseGranted(amount=claimed.amount, by=who)
    raise RollBack("nobody has answered", code="no_answer")


office = Effects("office")


@office.on(Ask)
async def ask(intent: Ask, ctx: EffectContext) -> None:
    """Would send a mail with a link to a page that calls `service.signal`."""


app = SagaApp(sagas=[expense], effects=[office])


async def main() -> None:
    claims = [
        ExpenseClaimed(expense="e-1", amount=80, patience={"ann": "2d", "board": "7d"}),
        ExpenseClaimed(expense="e-2", amount=900, patience={"ann": "500ms", "board": "7d"}),
        ExpenseClaimed(expense="e-3", amount=700, patience={"ann": "500ms", "board": "500ms"}),
    ]
    async with app.service() as service:
        for claimed, who in zip(claims, ("ann", "board", None), strict=True):
            saga_id = await service.start(claimed)
            if who is not None:
                await service.signal(saga_id, who, Answer(granted=True))
            outcome = await service.outcome(saga_id)
            print(await service.find(saga_id))
            if isinstance(outcome.event, ExpenseGranted):
                print(outcome.event.amount, "granted by", outcome.event.by)


if __name__ == "__main__":
    asyncio.run(main())
