"""The services of a world: what they do is written into the intents, and into their ledger.

A handler writes one line each time it is called, so that a service that is called twice has done it
twice. An undo of what was never done does nothing.
"""

from __future__ import annotations

from typing import Any

from saga.effects import EffectContext, Effects, Refused
from saga.testing.world.process import current_process
from saga.testing.world.sample_messages import (
    Charge,
    GiveBack,
    Look,
    Refund,
    Seen,
    Take,
    Taken,
)

LEDGER = """CREATE TABLE IF NOT EXISTS ledger (
    number INTEGER PRIMARY KEY, saga_id TEXT NOT NULL, step TEXT NOT NULL,
    direction TEXT NOT NULL, intent_id TEXT NOT NULL)"""

stock = Effects("stock")
bank = Effects("bank")


@stock.on_start
async def make_stock(db: Any) -> None:
    """The ledger: what was really done, in the same transaction as the inbox."""
    await db.execute(LEDGER)


@stock.on(Look)
async def look(intent: Look, ctx: EffectContext) -> Seen:
    """Reads."""
    await _follow(intent.script, ctx)
    rows = await ctx.db.fetch("SELECT count(*) AS units FROM ledger")
    return Seen(units=len(rows))


@stock.on(Take)
async def do_take(intent: Take, ctx: EffectContext) -> Taken:
    """Writes one line."""
    await _do(intent.script, ctx)
    return Taken(receipt=f"r-{ctx.idempotency_key}")


@stock.on(GiveBack)
async def give_back(intent: GiveBack, ctx: EffectContext) -> None:
    """Writes another, if there is the first."""
    if intent.receipt is not None:
        assert intent.receipt == f"r-{_do_key(ctx)}", intent.receipt
    await _undo(intent.script, ctx)


@bank.on(Charge)
async def do_charge(intent: Charge, ctx: EffectContext) -> None:
    """Writes one line."""
    await _do(intent.script, ctx)


@bank.on(Refund)
async def refund(intent: Refund, ctx: EffectContext) -> None:
    """Writes another, if there is the first."""
    await _undo(intent.script, ctx)


async def _do(script: str, ctx: EffectContext) -> None:
    await _follow(script, ctx)
    await _write(ctx, "do", ctx.idempotency_key)
    if ctx.attempt <= _number(script, "fail"):
        raise RuntimeError("planned: after it had written")


async def _undo(script: str, ctx: EffectContext) -> None:
    await _work(0)
    if ctx.attempt <= _number(script, "undofail"):
        raise RuntimeError("planned: cannot undo now")
    await _write(ctx, "undo", _do_key(ctx))


async def _follow(script: str, ctx: EffectContext) -> None:
    await _work(_number(script, "slow") if ctx.attempt == 1 else 0)
    if "refuse" in script.split():
        raise Refused("planned: no", code="no")


async def _write(ctx: EffectContext, direction: str, do_key: str) -> None:
    """One line for each call: a service that is called twice has done it twice. An undo of what was
    never done does nothing.
    """
    process = current_process()
    assert process is not None, "the sample runs in worlds only"
    saga_id, step, _ = do_key.rsplit("/", 2)
    where = (
        ""
        if direction == "do"
        else (
            " WHERE EXISTS (SELECT 1 FROM ledger WHERE saga_id = :saga_id AND step = :step"
            " AND direction = 'do')"
        )
    )
    await ctx.db.execute(
        f"INSERT INTO ledger SELECT :number, :saga_id, :step, :direction, :intent_id{where}",
        number=process.surroundings.next_number(),
        saga_id=saga_id,
        step=step,
        direction=direction,
        intent_id=ctx.intent_id,
    )
    await _work(0)


async def _work(seconds: float) -> None:
    process = current_process()
    assert process is not None, "the sample runs in worlds only"
    await process.work(seconds)


def _do_key(ctx: EffectContext) -> str:
    return ctx.idempotency_key.rpartition("/")[0] + "/do"


def _number(script: str, word: str) -> float:
    for part in script.split():
        name, _, number = part.partition(":")
        if name == word:
            return float(number)
    return 0.0
