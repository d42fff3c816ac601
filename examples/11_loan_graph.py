"""A loan as a contract graph: the file beside this one says what happens, Python does the work.

    python examples/11_loan_graph.py

Others draw, check and change `11_loan.yaml` without reading Python: `saga contract check
examples/11_loan.yaml --app examples/11_loan_graph.py:app`, and `saga contract graph` for a picture.
Nodes that do not depend on each other run side by side. It prints

    loan/l-1 completed
      do    score      done
      do    income     done
      do    set_aside  done
      do    pay_out    done
    granted at 3 percent
    loan/l-2 rolled_back: not with this income
      do    score   done
      do    income  done
"""

import asyncio
from pathlib import Path

from saga import EffectContext, Effects, Event, Intent, SagaApp, contract


class LoanWanted(Event, topic="loans.loan-wanted", version=1, key="loan"):
    loan: str
    person: str
    amount: int


class Scored(Event, topic="loans.scored", version=1):
    points: int


class Score(Intent[Scored], topic="loans.score", version=1):
    person: str


class Income(Event, topic="loans.income", version=1):
    a_year: int


class LookUpIncome(Intent[Income], topic="loans.look-up-income", version=1):
    person: str


class SetAside(Intent[None], topic="loans.set-aside", version=1):
    amount: int


class Free(Intent[None], topic="loans.free", version=1):
    amount: int


class PayOut(Intent[None], topic="loans.pay-out", version=1):
    person: str
    amount: int


class LoanGranted(Event, topic="loans.loan-granted", version=1):
    loan: str
    rate: int


class LoanRefused(Event, topic="loans.loan-refused", version=1):
    loan: str
    reason: str
    code: str | None = None


bank = Effects("loan-bank")


@bank.on(Score)
async def score(intent: Score, ctx: EffectContext) -> Scored:
    return Scored(points=800 if intent.person == "ann" else 600)


@bank.on(LookUpIncome)
async def look_up(intent: LookUpIncome, ctx: EffectContext) -> Income:
    return Income(a_year=40_000)


async def agree(intent: SetAside | Free | PayOut, ctx: EffectContext) -> None: ...


bank.on(SetAside)(agree)
bank.on(Free)(agree)
bank.on(PayOut)(agree)


app = SagaApp(
    sagas=[contract(Path(__file__).with_name("11_loan.yaml"))],
    effects=[bank],
    contracts=[LoanWanted, LoanGranted, LoanRefused],
)


async def main() -> None:
    wanted = [
        LoanWanted(loan="l-1", person="ann", amount=20_000),
        LoanWanted(loan="l-2", person="bob", amount=900_000),
    ]
    async with app.service() as service:
        for loan in wanted:
            saga_id = await service.start(loan)
            outcome = await service.outcome(saga_id)
            print(await service.find(saga_id))
            if isinstance(outcome.event, LoanGranted):
                print("granted at", outcome.event.rate, "percent")


if __name__ == "__main__":
    asyncio.run(main())
