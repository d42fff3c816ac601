"""A call of the context that is never awaited has no effect, and nobody is to believe otherwise."""

import functools
import importlib.util

import pytest

from saga import RollBack, StepFailed
from saga.errors import DefinitionError
from saga.testing import completed, given, refused, replied, signalled
from tests.toys import (
    CONTRACTS,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    Paid,
    Pay,
    Refund,
    Ship,
    as_saga,
)


def running(function):
    return given(as_saga(function), contracts=CONTRACTS)


def _place(function, line):
    return f"{__file__}:{function.__code__.co_firstlineno + line}"


async def _forgets_a_step(ctx, placed):
    calls = {"pay": ctx.do(Pay())}
    await ctx.do(Ship())
    return OrderConfirmed(order_id=str(len(calls)))


async def _forgets_a_sleep(ctx, placed):
    await ctx.do(Ship())
    if ctx.sleep("1h") is None:
        raise AssertionError


async def _forgets_a_wait(ctx, placed):
    await ctx.do(Ship())
    assert ctx.wait("approved")


async def _forgets_a_group(ctx, placed):
    await ctx.do(Ship())
    assert ctx.all(ctx.do(Pay()), ctx.sleep("1h"))


async def _forgets_a_race(ctx, placed):
    await ctx.do(Ship())
    assert ctx.any(
        ctx.do(Pay()),
    )


async def _forgets_in_a_branch(ctx, placed):
    async def branch():
        assert ctx.do(Pay())

    await ctx.all(ctx.do(Ship()), branch())


async def _forgets_and_goes_on_for_long(ctx, placed):
    forgotten = functools.partial(ctx.do, Pay())
    for _ in range(3):
        assert forgotten
    assert forgotten()
    await ctx.do(Ship())


@pytest.mark.parametrize(
    ("function", "line", "written"),
    [
        (_forgets_a_step, 1, "ctx.do(Pay(…))"),
        (_forgets_a_sleep, 2, "ctx.sleep(…)"),
        (_forgets_a_wait, 2, "ctx.wait('approved')"),
        (_forgets_a_group, 2, "ctx.all(…)"),
        (_forgets_a_race, 2, "ctx.any(…)"),
        (_forgets_in_a_branch, 2, "ctx.do(Pay(…))"),
        (_forgets_and_goes_on_for_long, 4, "ctx.do(Pay(…))"),
    ],
)
def test_call_that_was_never_awaited_parks_the_saga_with_its_place(function, line, written):
    """When the function ends, before the saga completes; what was forgotten has no effect."""
    (
        running(function)
        .when(OrderPlaced(), replied(Ship))
        .then_parked(f"{_place(function, line)}: {written} was never awaited")
        .then_parked(f"write `await {written}`")
        .then_steps(ship="issued")
    )


async def _reads_a_reply_too_soon(ctx, placed):
    paid = ctx.do(Pay())
    return OrderConfirmed(order_id=paid.receipt)


def test_reading_what_was_not_awaited_parks_with_the_place_and_the_remedy():
    where = _place(_reads_a_reply_too_soon, 2)

    scenario = running(_reads_a_reply_too_soon).when(OrderPlaced())

    scenario.then_parked(f"{where}: ctx.do(Pay(…)) has no 'receipt' before it is awaited")


def test_calls_may_be_made_first_and_awaited_later():
    """In any order, in another coroutine, or in a group; facts are told whether awaited or not."""

    async def order(ctx, placed):
        async def awaits(call):
            return await call

        pay, ship, approved = ctx.do(Pay()), ctx.do(Ship()), ctx.wait("approved")
        later = [ctx.do(Notify()), ctx.sleep("0s")]
        ctx.publish(OrderConfirmed())
        await ship
        await ctx.all(awaits(pay), ctx.all(*later), approved)

    (
        running(order)
        .when(OrderPlaced(), replied(Ship), replied(Pay, Paid()), replied(Notify))
        .when(signalled("approved"))
        .then_status("running")
    )


@pytest.mark.parametrize("failure", [RollBack("enough"), None])
def test_function_that_fails_need_not_come_to_all_it_made(failure):
    """It is rolled back; there was no time to await the rest."""

    async def order(ctx, placed):
        first, second = ctx.do(Pay(), undo=Refund), ctx.do(Ship())
        if failure:
            raise failure
        await first
        await second

    happened = [OrderPlaced()] if failure else [OrderPlaced(), refused(Pay, "no")]

    running(order).when(*happened).then_status("rolled_back")


def test_branch_that_fails_or_loses_need_not_come_to_all_it_made():
    async def order(ctx, placed):
        async def fails():
            first, second = ctx.do(Pay(), undo=Refund), ctx.do(Ship())
            await first
            await second

        async def loses():
            never = ctx.do(Notify())
            await ctx.wait("never")
            await never

        try:
            await ctx.any(fails(), ctx.all(loses(), fails()))
        except StepFailed:
            raise AssertionError from None
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(), replied("pay", Paid()), refused("pay-2"))
        .then_status("running")
        .when(replied("ship"))
        .then(completed(OrderConfirmed()))
    )


@pytest.mark.parametrize("is_coroutine", [True, False])
def test_what_a_loser_makes_while_it_ends_need_not_be_awaited(is_coroutine):
    """It cannot be any more; whoever won has forgotten nothing."""

    async def order(ctx, placed):
        async def loses():
            try:
                await ctx.wait("never")
            finally:
                await ctx.do(Notify())

        async def wins():
            await ctx.do(Ship())

        await ctx.any(loses(), wins() if is_coroutine else ctx.do(Ship()))
        return OrderConfirmed()

    running(order).when(OrderPlaced(), replied(Ship)).then_status("completed")


@pytest.mark.parametrize("end", ["has begun", "has not begun", "fails", "nested"])
def test_call_that_was_handed_to_who_fails_or_loses_was_not_forgotten(end):
    """It was made in the function, and was somebody else's to await."""

    async def order(ctx, placed):
        calls = {"pay": ctx.do(Pay())}

        async def waits(call):
            await ctx.wait("never")
            await call

        async def fails(calls):
            if placed:
                raise StepFailed("other", code="c", message="m", refused=True)
            await calls[0]

        async def nested(call):
            await ctx.all(waits(call))

        async def wins():
            return None

        branch = {
            "has begun": lambda: waits(calls["pay"]),
            "has not begun": lambda: waits(calls["pay"]),
            "fails": lambda: fails([calls["pay"]]),
            "nested": lambda: nested(calls["pay"]),
        }[end]()
        first, *others = (wins(), branch) if end == "has not begun" else (branch, ctx.do(Ship()))
        await ctx.any(first, *others)
        return OrderConfirmed()

    scenario = running(order).when(OrderPlaced())
    if end != "has not begun":
        scenario.when(replied(Ship))
    scenario.then_status("completed")


IN_SOURCE = {
    "statement": ("ctx.do(Pay())", "ctx.do(Pay())"),
    "sleep": ('ctx.sleep("1h")', "ctx.sleep('1h')"),
    "wait": ('ctx.wait("x", timeout="1h")', "ctx.wait('x', timeout='1h')"),
    "group": ("ctx.all(ctx.do(Pay()))", "ctx.all(ctx.do(Pay()))"),
    "race": ("ctx.any(ctx.do(Pay()))", "ctx.any(ctx.do(Pay()))"),
    "name that nobody reads": ("paid = ctx.do(Pay())", "ctx.do(Pay())"),
    "annotated name": ("paid: object = ctx.do(Pay())", "ctx.do(Pay())"),
    "return": ("return ctx.do(Pay())", "ctx.do(Pay())"),
    "return in a branch": ("if placed:\n        return ctx.do(Pay())", "ctx.do(Pay())"),
    "condition": ("placed and ctx.do(Pay())", "ctx.do(Pay())"),
    "choice": ("ctx.do(Pay()) if placed else None", "ctx.do(Pay())"),
    "tuple": ("ctx.do(Pay()), ctx.do(Ship())", "ctx.do(Pay())"),
    "comprehension": ("[ctx.do(Pay()) for _ in range(2)]", "ctx.do(Pay())"),
    "nested function": ("async def inner():\n        ctx.do(Pay())\n    await inner()", "ctx.do"),
    "nested function itself": ("async def inner(): ...\n    inner()", "inner()"),
    "helper": ("await helps(ctx)", "ctx.do(Pay())"),
    "helper of a helper": ("await helps_to_help(ctx)", "ctx.do(Pay())"),
    "helper with a name of its own": ("await helps_otherwise(ctx)", "context.do(Pay())"),
    "helper itself": ("tidy(ctx)", "tidy(ctx)"),
    "long": (f"ctx.do(Pay(order_id={'x' * 99!r}))", "ctx.do(…)"),
}
MODULE = """
from saga import Context, saga
from tests.toys import OrderPlaced, Pay, Ship

async def tidy(ctx): ...
async def helps(ctx):
    ctx.do(Pay())
async def helps_to_help(ctx):
    await helps(ctx)
async def helps_otherwise(context: Context):
    context.do(Pay())

@saga("order", version=1, starts_on=OrderPlaced)
async def order(ctx, placed):
    {}
"""


@pytest.mark.parametrize("kind", IN_SOURCE)
def test_call_that_the_source_shows_is_never_awaited_is_refused_on_import(kind, tmp_path):
    """With file and line, and with what to write."""
    statement, written = IN_SOURCE[kind]
    text = MODULE.format(statement)

    with pytest.raises(DefinitionError) as refusal:
        _import(tmp_path, text)

    file, line, _ = str(refusal.value).split(":", 2)
    assert written.rstrip("(…)") in text.replace('"', "'").splitlines()[int(line) - 1]
    assert file == str(tmp_path / "forgetful.py")
    assert f"{written}" in refusal.value.problem
    assert "is never awaited" in refusal.value.problem
    assert "write `await " in refusal.value.problem


FINE = [
    "await ctx.do(Pay())",
    "paid = ctx.do(Pay())\n    await paid",
    "await ctx.all(*[ctx.do(Pay()) for _ in range(2)])",
    "ctx.publish(OrderPlaced())",
    "ctx.now(), ctx.uuid(), ctx.random()",
    "def pays(): return ctx.do(Pay())\n    await pays()",
    "pays = lambda: ctx.do(Pay())\n    await pays()",
    "other = ctx.key\n    other.strip()",
    "def tidy(_): ...\n    tidy(ctx)",
    "async def each():\n        yield 1\n    each()",
]


@pytest.mark.parametrize("statement", FINE)
def test_nothing_else_is_refused_on_import(statement, tmp_path):
    assert _import(tmp_path, MODULE.format(statement)).order.name == "order"


def test_saga_without_source_is_checked_when_it_runs():
    """Typed at a prompt, it has no lines to look at."""
    names = {"Pay": Pay}
    exec("async def order(ctx, placed):\n    ctx.do(Pay())", names)  # as at a prompt

    running(names["order"]).when(OrderPlaced()).then_parked("<string>:2: ctx.do(Pay(…)) was never")


def _import(folder, text):
    """A module of that text, as a program that begins would import it."""
    file = folder / "forgetful.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("forgetful", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
