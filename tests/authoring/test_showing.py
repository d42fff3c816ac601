"""`ctx.show`: what people see of a saga, recorded where it changed, and part of no decision."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from saga.core.fold import fold
from saga.core.intents import Shown
from saga.core.showing import shown_json
from saga.testing import completed, given, issued, replied, shown, signalled
from tests.toys import CONTRACTS, OrderConfirmed, OrderPlaced, Paid, Pay, Refund, as_saga


def running(function):
    return given(as_saga(function), contracts=CONTRACTS)


def entries(scenario):
    return [dict(e.body.fields) for e in scenario.history if isinstance(e.body, Shown)]


async def telling(ctx, placed):
    ctx.show(step="paying", amount=placed.amount, urgent=True)
    paid = await ctx.do(Pay(), undo=Refund)
    ctx.show(step="paid", amount=placed.amount, receipt=paid.receipt)
    await ctx.wait("ok")
    ctx.show(step="paid", receipt=None)
    return OrderConfirmed()


def test_only_what_changed_is_recorded():
    """One entry a turn; None takes a field away."""
    scenario = (
        running(telling)
        .when(OrderPlaced(amount=3))
        .then(issued(Pay), shown(step="paying", amount=3, urgent=True))
        .when(replied(Pay, Paid()))
        .then(shown(step="paid", receipt="r-1"))
    )

    assert scenario.shown == {"step": "paid", "amount": 3, "urgent": True, "receipt": "r-1"}
    assert "amount" not in entries(scenario)[1]
    scenario.when(signalled("ok")).then(completed(OrderConfirmed()), shown(receipt=None))
    assert scenario.shown == {"step": "paid", "amount": 3, "urgent": True}
    assert shown_json(fold("s", scenario.history)) == shown_json(scenario.state)


def test_what_does_not_change_leaves_no_entry():
    async def order(ctx, placed):
        for _ in range(3):
            await ctx.wait("tick")
            ctx.show(state="ticking")
            await ctx.show(state="ticking", never=None)

    scenario = running(order).when(OrderPlaced(), *[signalled("tick")] * 3)

    assert entries(scenario) == [{"state": '"ticking"'}]


def test_what_is_shown_several_times_in_a_turn_is_one_entry():
    async def order(ctx, placed):
        async def branch(number):
            ctx.show(latest=number, **{f"branch_{number}": "began"})
            await ctx.sleep("1s")

        await ctx.all(*map(branch, range(3)))

    scenario = running(order).when(OrderPlaced())

    assert entries(scenario) == [
        {"latest": "2", **{f"branch_{number}": '"began"' for number in range(3)}}
    ]


def other(*shows):
    """`telling` by code that shows something else in each of its places."""

    async def order(ctx, placed):
        before, after, last = shows
        for each in before:
            ctx.show(**each)
        await ctx.do(Pay(), undo=Refund)
        for each in after:
            ctx.show(**each)
        await ctx.wait("ok")
        for each in last:
            ctx.show(**each)
        return OrderConfirmed()

    return as_saga(order)


@pytest.mark.parametrize(
    "shows",
    [
        ([], [], []),
        ([{"step": "paying"}], [{"other": 1}], []),
        ([{"x": 1}, {"y": 2}], [], [{"step": None}]),
    ],
    ids=["nothing", "another", "elsewhere"],
)
def test_a_replay_never_compares_it(shows):
    """What is recorded stands, and other code goes on from there."""
    history = running(telling).when(OrderPlaced(), replied(Pay, Paid())).history

    scenario = given(other(*shows), history=history, contracts=CONTRACTS)

    before = {"step": "paid", "amount": 3, "urgent": True, "receipt": "r-1"}
    assert scenario.shown == before
    scenario.when(signalled("ok")).then(completed(OrderConfirmed()))
    assert scenario.shown == {
        name: value for name, value in before.items() if {name: None} not in shows[2]
    }


def test_a_history_that_shows_nothing_replays_under_code_that_does():
    history = given(other([], [], []), OrderPlaced(), contracts=CONTRACTS).history

    scenario = given(as_saga(telling), history=history, contracts=CONTRACTS)

    assert scenario.shown == {}
    scenario.when(replied(Pay, Paid())).then(shown(step="paid", amount=3, receipt="r-1"))


@dataclass
class Leg:
    place: str
    at: datetime


VALUES = [
    ("a", "a"),
    (3, 3),
    (2.5, 2.5),
    (True, True),
    ([1, {"b": None}], [1, {"b": None}]),
    (Decimal("1.10"), "1.10"),
    (Leg("x", datetime(2026, 1, 1, tzinfo=UTC)), {"place": "x", "at": "2026-01-01T00:00:00Z"}),
    (Paid(), {"receipt": "r-1"}),
    ("é\n\x1b[31m", "é\n\x1b[31m"),
    ("a\x00b", "a\\u0000b"),
    ("\ud800", "\\ud800"),
    (["a\x00b"], '["a\\u0000b"]'),
    (["\ud800"], "['\\ud800']"),
    (float("nan"), "nan"),
    (2**70, str(2**70)),
    ("x" * 301, f"{'x' * 300}… (1 characters more)"),
    ([1] * 200, f"[{'1,' * 149}1… (101 characters more)"),
]


@pytest.mark.parametrize(("value", "seen"), VALUES, ids=[str(n) for n in range(len(VALUES))])
def test_any_value_is_shown_within_limits(value, seen):
    """What is too long or no store takes becomes a text; it never parks a saga."""

    async def order(ctx, placed):
        ctx.show(value=value)
        await ctx.wait("ok")

    scenario = running(order).when(OrderPlaced())

    assert scenario.shown == {"value": seen}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"a b": 1}, "ctx.show(a b=…): a field has a name as in Python"),
        ({"a" * 61: 1}, "a field has a name"),
        ({"value": object()}, "ctx.show(value=…): JSON cannot say a object"),
        ({f"f{number}": number for number in range(21)}, "21 fields at once are too many"),
    ],
    ids=["name", "long", "value", "many"],
)
def test_a_mistake_parks_with_file_and_line(fields, why):
    async def order(ctx, placed):
        ctx.show(**fields)

    scenario = running(order).when(OrderPlaced())

    scenario.then_parked(why)
    assert f"{__file__}:" in str(scenario.state.reason)


def test_fields_that_are_gone_make_room():
    async def order(ctx, placed):
        for number in range(100):
            ctx.show(**{f"f{number}": number})
            ctx.show(**{f"f{number - 10}": None} if number >= 10 else {})
        await ctx.wait("ok")

    scenario = running(order).when(OrderPlaced())

    assert scenario.shown == {f"f{number}": number for number in range(90, 100)}


def test_what_a_function_shows_while_it_is_closed_counts_for_nothing():
    async def order(ctx, placed):
        async def loser():
            try:
                await ctx.wait("never")
            finally:
                ctx.show(lost=True)

        await ctx.any(loser(), ctx.sleep("0s"))
        return OrderConfirmed()

    scenario = running(order).when(OrderPlaced())

    assert "lost" not in scenario.shown
