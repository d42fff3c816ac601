"""`ctx.signal` and `ctx.log`: what a saga says to another one, and to people who read logs."""

import pytest
from pydantic import BaseModel

from saga.core.intents import CommandSent
from saga.errors import ReplayMismatch
from saga.testing import completed, given, issued, replied, signal_sent, signalled
from tests.toys import CONTRACTS, OrderConfirmed, OrderPlaced, Paid, Pay, as_saga


class Note(BaseModel):
    text: str
    pages: int = 1


def running(function):
    return given(as_saga(function), contracts=CONTRACTS)


def test_a_signal_is_sent_in_the_turn_that_awaits_it():
    """The function goes on at once; ids follow from the saga and the place."""

    async def order(ctx, placed):
        await ctx.signal("parcel", placed.order_id, "note", Note(text="fragile"))
        await ctx.signal("parcel", 7, "go")
        await ctx.do(Pay())
        return OrderConfirmed()

    scenario = running(order).when(OrderPlaced())

    saga = scenario.state.saga_id
    scenario.then(
        signal_sent(
            "parcel", "o-1", "note", {"text": "fragile", "pages": 1}, command=f"{saga}/signal/1"
        ),
        signal_sent("parcel", "7", "go", command=f"{saga}/signal/2"),
        issued(Pay),
    )
    scenario.when(replied(Pay, Paid())).then(completed(OrderConfirmed()))


def test_signals_are_sent_side_by_side_in_a_group():
    async def order(ctx, placed):
        sent = await ctx.all(*[ctx.signal("parcel", f"p-{n}", "go") for n in range(3)])
        assert sent == (None, None, None)
        return OrderConfirmed()

    running(order).when(OrderPlaced()).then(
        *[signal_sent("parcel", f"p-{n}", "go") for n in range(3)], completed(OrderConfirmed())
    )


@pytest.mark.parametrize("change", [{"key": "o-2"}, {"name": "stop"}, {"payload": 1}])
def test_a_replay_compares_what_was_sent(change):
    def sending(key="o-1", name="go", payload=None):
        async def order(ctx, placed):
            await ctx.signal("parcel", key, name, payload)
            await ctx.wait("ok")

        return as_saga(order)

    history = given(sending(), OrderPlaced(), contracts=CONTRACTS).history

    with pytest.raises(ReplayMismatch, match="command-sent"):
        given(sending(**change), history=history, contracts=CONTRACTS)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("", "k", "n"), "give the name of a saga's definition"),
        (("a/b", "k", "n"), "give the name of a saga's definition"),
        ((7, "k", "n"), "give the name of a saga's definition"),
        (("parcel", "", "n"), "the key"),
        (("parcel", 1.5, "n"), "the key"),
        (("parcel", "k", ""), "a signal's name has 1 to 200 characters"),
        (("parcel", "k", "n" * 201), "a signal's name has 1 to 200 characters"),
        (("parcel", "k", "n", object()), "JSON cannot say this"),
        (("parcel", "k", "n", float("nan")), "JSON cannot say this"),
    ],
)
def test_a_signal_that_cannot_be_parks_with_file_and_line(arguments, why):
    async def order(ctx, placed):
        await ctx.signal(*arguments)

    scenario = running(order).when(OrderPlaced())

    scenario.then_parked(why)
    assert f"{__file__}:" in str(scenario.state.reason)
    assert not any(isinstance(entry.body, CommandSent) for entry in scenario.history)


def test_a_signal_that_is_never_awaited_parks():
    async def order(ctx, placed):
        kept = [ctx.signal("parcel", "k", "n")]
        return OrderConfirmed() if kept else None

    running(order).when(OrderPlaced()).then_parked("never awaited")


async def telling(ctx, placed):
    ctx.log.info("begins: %s for %d", placed.order_id, placed.amount, amount=placed.amount)
    paid = await ctx.do(Pay())
    ctx.log.warning("paid", receipt=paid.receipt)
    await ctx.wait("ok")
    ctx.log.debug("100%")
    return OrderConfirmed()


def test_a_log_line_belongs_to_its_turn_and_leaves_no_entry():
    scenario = running(telling).when(OrderPlaced())

    assert scenario.logged == ("info: begins: o-1 for 3",)
    assert scenario.when(replied(Pay, Paid())).logged == ("warning: paid",)
    assert scenario.when(signalled("ok")).logged == ("debug: 100%",)
    assert len(list(scenario.history)) == 6  # of which none is a line
    assert given(as_saga(telling), history=scenario.history, contracts=CONTRACTS).logged == ()


class Unspeakable:
    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("%d", "x"), "info: '%d', with 1 arguments that do not fit: TypeError: %d format"),
        (("a %s",), "info: a %s"),
        (("%s", Unspeakable()), "info: '%s', with 1 arguments that do not fit: ZeroDivisionError"),
        (("a\x00b\ud800",), "info: a\\u0000b\\ud800"),
        (("x" * 5_000,), f"info: {'x' * 4_000}… (1000 characters more)"),
        ((7,), "info: 7"),
    ],
)
def test_a_line_never_fails_a_turn(arguments, line):
    async def order(ctx, placed):
        ctx.log.info(*arguments, odd=Unspeakable())
        return OrderConfirmed()

    scenario = running(order).when(OrderPlaced()).then(completed(OrderConfirmed()))

    (logged,) = scenario.logged
    assert logged.startswith(line)


@pytest.mark.parametrize("name", ["key", "saga_id", "definition", "msg", "levelname", "exc_info"])
def test_a_field_that_each_line_has_is_refused(name):
    async def order(ctx, placed):
        ctx.log.error("x", **{name: 1})

    scenario = running(order).when(OrderPlaced())

    scenario.then_parked(f"{name} is a field of every line")
    assert scenario.logged == ()


def test_a_turn_that_fails_says_nothing():
    async def order(ctx, placed):
        ctx.log.info("before")
        raise KeyError

    scenario = running(order).when(OrderPlaced())

    assert scenario.logged == ()
    scenario.then_parked("KeyError")
