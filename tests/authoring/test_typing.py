"""What a user's type checker makes of groups, sleeps and failures: results have their types."""

import pytest

from tests.type_checkers import check_with_mypy

pytestmark = pytest.mark.slow

USER = """\
from datetime import UTC, datetime
from typing import assert_type

from saga import Context, Event, Intent, Refused, Retry, StepFailed, saga


class P(Event, topic="a.p", version=1, key="k"):
    k: str


class R1(Event, topic="a.r1", version=1):
    n: int


class R2(Event, topic="a.r2", version=1):
    s: str


class I1(Intent[R1], topic="a.i1", version=1):
    k: str


class I2(Intent[R2], topic="a.i2", version=1):
    k: str


class I3(Intent[None], topic="a.i3", version=1):
    k: str


def taken_back(asked: I1, reply: R1 | None) -> I3:
    return I3(k=asked.k if reply is None else str(reply.n))


async def named(ctx: Context) -> str:
    return (await ctx.do(I2(k="x"))).s


@saga("s", version=1, starts_on=P, deadline="1h")
async def order(ctx: Context, p: P) -> None:
    a, b = await ctx.all(ctx.do(I1(k="k")), ctx.do(I2(k="k")), fail="fast", at_once=1)
    assert_type(a, R1)
    assert_type(b, R2)
    many = await ctx.all(*(ctx.do(I1(k=str(n))) for n in range(3)), at_once=2)
    assert_type(many, tuple[R1, ...])
    four = await ctx.all(ctx.do(I1(k="")), ctx.sleep("1s"), named(ctx), ctx.do(I2(k="")))
    assert_type(four, tuple[R1, None, str, R2])
    first = await ctx.any(ctx.do(I1(k="")), ctx.do(I2(k="")))
    assert_type(first, R1 | R2)
    assert_type(await ctx.any(ctx.do(I1(k="")), ctx.do(I1(k=""))), R1)
    assert_type(await ctx.some(1, ctx.do(I1(k="")), named(ctx)), tuple[R1 | str, ...])
    assert_type(await ctx.some(2, *(ctx.do(I1(k="")) for _ in range(3))), tuple[R1, ...])
    await ctx.sleep_until(datetime(2026, 1, 1, tzinfo=UTC))
    ctx.tell(I3(k=""))
    try:
        await ctx.do(I3(k=""), kind="harmless", retry=Retry(only_on=("busy",)))
    except StepFailed as failure:
        print(failure.details["x"])
        raise Refused("no", details={"x": 1}) from failure
    await ctx.do(I1(k="k"), undo=I3)
    await ctx.do(I1(k="k"), undo=taken_back)
    await ctx.do(I1(k="k"), undo=P)  # type: ignore[arg-type]
    await ctx.do(I2(k="k"), undo=taken_back)  # type: ignore[arg-type]
    await ctx.do(I1(n="k"))  # type: ignore[call-arg]
    (await ctx.do(I1(k="k"))).s  # type: ignore[attr-defined]
    await ctx.all(ctx.do(I1(k="")), fail="quick")  # type: ignore[call-overload]
    await ctx.some("2", ctx.do(I1(k="")))  # type: ignore[call-overload]
    ctx.tell(p)  # type: ignore[arg-type]
"""


def test_a_strict_type_checker_knows_results_and_finds_mistakes(tmp_path):
    check_with_mypy(tmp_path, USER)
