"""Money goes from one account to another. Crediting it is the pivot: from there on only forward.

    python examples/02_money_transfer.py

Before the pivot everything can be undone, so the money comes back if nobody is there to get it.
Past it the mail is `retriable`: its server is down twice, and the money stays. It prints

    transfer/t-1 completed
      do    debit   done
      do    credit  done
      do    mail    done, 3 attempts
    transfer/t-2 rolled_back: eve has no account
      do    debit   undone
      do    credit  refused
      undo  debit   undone

Balances are rows that change in the transaction that keeps the answer: once, whatever crashes when.
"""

import asyncio
import logging
from typing import Any

from saga import Context, EffectContext, Effects, Event, Intent, Refused, Retry, SagaApp, saga


class TransferWanted(Event, topic="bank.transfer-wanted", version=1, key="transfer"):
    transfer: str
    payer: str
    payee: str
    amount: int


class Debit(Intent[None], topic="bank.debit", version=1):
    payer: str
    amount: int


class GiveBack(Intent[None], topic="bank.give-back", version=1):
    payer: str
    amount: int


class Credit(Intent[None], topic="bank.credit", version=1):
    payee: str
    amount: int


class Mail(Intent[None], topic="mail.mail", version=1):
    payee: str
    text: str


class Transferred(Event, topic="bank.transferred", version=1):
    transfer: str


@saga("transfer", version=1, starts_on=TransferWanted)
async def transfer(ctx: Context, wanted: TransferWanted) -> Transferred:
    await ctx.do(Debit(payer=wanted.payer, amount=wanted.amount), undo=GiveBack)
    await ctx.do(Credit(payee=wanted.payee, amount=wanted.amount), kind="pivot")
    mail = Mail(payee=wanted.payee, text=f"{wanted.amount} from {wanted.payer}")
    await ctx.do(mail, kind="retriable", retry=Retry(initial="100ms"))
    return Transferred(transfer=wanted.transfer)


bank, mails = Effects("bank"), Effects("mails")


@bank.on_start
async def make_accounts(db: Any) -> None:
    await db.execute("CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance INT)")
    await db.execute("INSERT INTO accounts VALUES ('ann', 100), ('bob', 0) ON CONFLICT DO NOTHING")


@bank.on(Debit)
async def debit(intent: Debit, ctx: EffectContext) -> None:
    take = "UPDATE accounts SET balance = balance - :sum WHERE name = :name AND balance >= :sum"
    if not await ctx.db.execute(take, sum=intent.amount, name=intent.payer):
        raise Refused(f"{intent.payer} has too little", code="no_money")


@bank.on(GiveBack)
async def give_back(intent: GiveBack, ctx: EffectContext) -> None:
    await add(ctx, intent.payer, intent.amount)


@bank.on(Credit)
async def credit(intent: Credit, ctx: EffectContext) -> None:
    if not await add(ctx, intent.payee, intent.amount):
        raise Refused(f"{intent.payee} has no account", code="no_account")


async def add(ctx: EffectContext, name: str, amount: int) -> int:
    change = "UPDATE accounts SET balance = balance + :amount WHERE name = :name"
    touched: int = await ctx.db.execute(change, amount=amount, name=name)
    return touched


@mails.on(Mail)
async def mail(intent: Mail, ctx: EffectContext) -> None:
    if ctx.attempt <= 2:
        raise ConnectionError("the mail server is down")


app = SagaApp(sagas=[transfer], effects=[bank, mails])


async def main() -> None:
    logging.disable(logging.WARNING)  # each failed attempt is in the log, with its traceback
    transfers = [
        TransferWanted(transfer="t-1", payer="ann", payee="bob", amount=40),
        TransferWanted(transfer="t-2", payer="ann", payee="eve", amount=40),
    ]
    async with app.service() as service:
        for wanted in transfers:
            saga_id = await service.start(wanted)
            await service.outcome(saga_id)
            print(await service.find(saga_id))


if __name__ == "__main__":
    asyncio.run(main())
