"""A strict type checker knows which handler fits a contract: its message, its reply."""

import pytest

from tests.type_checkers import check_with_mypy

pytestmark = pytest.mark.slow

USER = """\
from typing import assert_type

from saga import EffectContext, Effects, Event, Intent


class Paid(Event, topic="till.paid", version=1):
    receipt: str


class Pay(Intent[Paid], topic="till.pay", version=1):
    amount: int


class Sweep(Intent[None], topic="till.sweep", version=1):
    floor: int


till = Effects("till")
later = Effects("later")
wrong = Effects("wrong")


@till.on(Pay)
async def pay(intent: Pay, ctx: EffectContext) -> Paid:
    return Paid(receipt=ctx.intent_id)


@till.on(Sweep, at_once=1)
def sweep(intent: Sweep, ctx: EffectContext) -> None: ...


@later.on(Pay)
def pay_in_a_thread(intent: Pay, ctx: EffectContext) -> Paid:
    return Paid(receipt=str(intent.amount))


@later.on(Sweep)
async def sweep_later(intent: Sweep, ctx: EffectContext) -> None: ...


@till.listens(Paid)
async def paid(event: Paid, ctx: EffectContext) -> None: ...


@later.listens(Paid)
def paid_in_a_thread(event: Paid, ctx: EffectContext) -> None: ...


class Cashier:
    async def __call__(self, intent: Pay, ctx: EffectContext) -> Paid:
        return Paid(receipt="by hand")


Effects("by-hand").on(Pay)(Cashier())


async def used(ctx: EffectContext) -> None:
    assert_type(await pay(Pay(amount=1), ctx), Paid)
    assert_type(pay_in_a_thread(Pay(amount=1), ctx), Paid)
    await paid(Paid(receipt="r"), ctx)


@wrong.on(Pay)  # type: ignore[arg-type]
async def another_reply(intent: Pay, ctx: EffectContext) -> str:
    return "receipt"


@wrong.on(Pay)  # type: ignore[arg-type]
def another_reply_in_a_thread(intent: Pay, ctx: EffectContext) -> str:
    return "receipt"


@wrong.on(Pay)  # type: ignore[arg-type]
async def no_reply(intent: Pay, ctx: EffectContext) -> None: ...


@wrong.on(Sweep)  # type: ignore[arg-type]
async def a_reply_too_many(intent: Sweep, ctx: EffectContext) -> Paid:
    return Paid(receipt="r")


@wrong.on(Pay)  # type: ignore[arg-type]
async def another_intent(intent: Sweep, ctx: EffectContext) -> Paid:
    return Paid(receipt="r")


@wrong.on(Pay)  # type: ignore[arg-type]
async def without_context(intent: Pay) -> Paid:
    return Paid(receipt="r")


@wrong.on(Paid)  # type: ignore[type-var]
async def no_intent(event: Paid, ctx: EffectContext) -> None: ...


@wrong.listens(Paid)  # type: ignore[arg-type]
async def answers_a_fact(event: Paid, ctx: EffectContext) -> Paid:
    return event


@wrong.listens(Pay)  # type: ignore[arg-type, type-var]
async def no_fact(event: Pay, ctx: EffectContext) -> None: ...
"""


def test_mypy_finds_handlers_that_do_not_fit_their_contracts(tmp_path):
    check_with_mypy(tmp_path, USER)
