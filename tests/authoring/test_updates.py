"""`ctx.update`: somebody asks a running saga, and gets one answer, or a refusal."""

import pytest
from pydantic import BaseModel, Field

from saga import RollBack, TimedOut
from saga.core.fold import fold
from saga.core.history import NAME_OF
from saga.core.intents import Noted, UpdateAnswered
from saga.core.state import waiting_for
from saga.errors import ReplayMismatch
from saga.testing import (
    abandoned,
    after,
    answered,
    armed,
    cancelled,
    completed,
    given,
    issued,
    noted,
    operator,
    redelivered,
    replied,
    rolled_back,
    signalled,
    timed_out,
    undo_issued,
    updated,
)
from tests.toys import (
    CONTRACTS,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Paid,
    Pay,
    Refund,
    as_saga,
)


class Change(BaseModel):
    add: str
    pieces: int = 1


class Total(BaseModel):
    pieces: int


def running(function):
    return given(as_saga(function), contracts=CONTRACTS)


async def basket(ctx, placed):
    pieces = 0
    while pieces < 5:
        request = await ctx.update("change", Change)
        if request.payload.pieces > 5:
            request.refuse("full", f"no room for {request.payload.pieces}")
            continue
        pieces += request.payload.pieces
        request.answer(Total(pieces=pieces))
    return OrderConfirmed()


def test_each_update_is_answered_in_the_turn_that_takes_it():
    """In order of arrival; a refusal is an answer too."""
    (
        running(basket)
        .when(OrderPlaced())
        .then()
        .then_waits_for("update change")
        .when(updated("change", {"add": "tea", "pieces": 2}))
        .then(answered({"pieces": 2}, update="update-1"))
        .when(updated("change", Change(add="rice", pieces=9)))
        .then(answered(code="full", message="no room for 9", update="update-2"))
        .when(updated("change", {"add": "milk", "pieces": 3}, id="u-3", actor="ann"))
        .then(answered({"pieces": 5}, update="u-3"), completed(OrderConfirmed()))
    )


def test_a_request_says_what_is_asked_and_by_whom():
    async def order(ctx, placed):
        request = await ctx.update("change", Change)
        request.answer([request.id, request.name, request.actor, request.payload.add])
        return OrderConfirmed()

    running(order).when(OrderPlaced(), updated("change", {"add": "x"}, id="u", actor="ann")).then(
        answered(["u", "change", "ann", "x"]), completed(OrderConfirmed())
    )


def test_what_comes_before_the_saga_waits_is_kept_in_order():
    async def order(ctx, placed):
        await ctx.do(Pay())
        for _ in range(2):
            request = await ctx.update("change", Change)
            request.answer(request.payload.add)
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced())
        .then(issued(Pay))
        .when(updated("change", {"add": "a"}), updated("other"), updated("change", {"add": "b"}))
        .then()
        .when(replied(Pay, Paid()))
        .then(
            answered("a"),
            answered("b"),
            completed(OrderConfirmed()),
            noted("unread"),
            answered(code="ended", message="the saga is completed", update="update-2"),
        )
    )


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_bad_payload_is_refused_at_once(is_kept):
    """Or when the saga begins to wait; the next one is taken."""

    async def order(ctx, placed):
        await ctx.wait("go")
        request = await ctx.update("change", Change)
        request.answer(request.payload.add)
        return OrderConfirmed()

    bad = [updated("change", {"add": 3}), updated("change", 7)]
    good = updated("change", {"add": "a"})
    scenario = running(order)
    if is_kept:
        scenario.when(OrderPlaced(), *bad, good).then().when(signalled("go"))
    else:
        scenario.when(OrderPlaced(), signalled("go"), *bad, good)

    scenario.then(
        answered(code="invalid", message="add: Input should be a valid string", update="update-1"),
        answered(code="invalid", message="payload: Input", update="update-2"),
        answered("a"),
        completed(OrderConfirmed()),
    )


def test_a_stricter_model_refuses_nothing_that_was_accepted():
    """Nor does a laxer one accept what was refused: the history says what was."""

    class Strict(BaseModel):
        add: str = Field(min_length=6)

    def saga_of(model):
        async def order(ctx, placed):
            for _ in range(3):
                await ctx.wait("go")
                request = await ctx.update("change", model)
                request.answer()
            return OrderConfirmed()

        return as_saga(order)

    happened = [
        OrderPlaced(),
        *(updated("change", {"add": 1}), updated("change", {"add": "kept"}), signalled("go")),
        *(signalled("go"), updated("change", {}), updated("change", {"add": "live"})),
    ]
    history = given(saga_of(Change), *happened, contracts=CONTRACTS).history

    for model in (Strict, dict):
        scenario = given(saga_of(model), history=history, contracts=CONTRACTS)
        codes = [e.body.code for e in scenario.history if isinstance(e.body, UpdateAnswered)]
        assert codes == ["invalid", None, "invalid", None]
    scenario = given(saga_of(Strict), history=history, contracts=CONTRACTS)
    scenario.when(signalled("go"), updated("change", {"add": "x"})).then(
        answered(code="invalid", message="add: String should have at least 6")
    )


def test_the_same_id_is_a_duplicate_and_another_content_a_conflict():
    scenario = running(basket).when(OrderPlaced(), updated("change", {"add": "a"}, id="u"))

    scenario.when(redelivered()).then_nothing().then_was("duplicate")
    scenario.when(updated("change", {"add": "a"}, id="u")).then_nothing().then_was("duplicate")
    scenario.when(updated("change", {"add": "b"}, id="u")).then_nothing().then_was("id_conflict")


def test_a_wait_for_an_update_times_out():
    async def order(ctx, placed):
        try:
            await ctx.update("change", Change, timeout="1m")
        except TimedOut as error:
            raise RollBack(str(error), code=error.code) from None

    (
        running(order)
        .when(OrderPlaced())
        .then(armed("wait", "update-change-1", "1m"))
        .when(timed_out("change"))
        .then(
            rolled_back(OrderRejected, code="timed_out", reason="no update 'change' came in time")
        )
    )


def test_a_timeout_that_comes_late_disturbs_nothing():
    """Of an update that was answered before it; nor does it end the next wait."""

    async def order(ctx, placed):
        for _ in range(2):
            request = await ctx.update("change", timeout="1m")
            request.answer()
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(), after("50s"), updated("change"))
        .when(after("50s"))
        .then()
        .when(updated("change"))
        .then(answered(None), completed(OrderConfirmed()))
    )


def test_an_answer_may_come_in_a_later_turn():
    async def order(ctx, placed):
        request = await ctx.update("pay")
        paid = await ctx.do(Pay(), undo=Refund)
        request.answer({"receipt": paid.receipt})
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(), updated("pay"))
        .then(issued(Pay))
        .when(replied(Pay, Paid()))
        .then(answered({"receipt": "r-1"}), completed(OrderConfirmed()))
    )


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (cancelled("no more"), rolled_back(OrderRejected, reason="no more")),
        (cancelled("no more", mode="abandon"), abandoned(reason="no more")),
        (operator("compensate", reason="wrong"), rolled_back(OrderRejected, reason="wrong")),
    ],
    ids=["cancelled", "abandoned", "compensated"],
)
def test_a_saga_that_ends_answers_every_open_update(happens, expected):
    """Those that nobody had taken, those that wait for their answer, and those that come later."""

    async def order(ctx, placed):
        request = await ctx.update("a")
        await ctx.wait("never")
        request.answer()

    scenario = running(order).when(OrderPlaced(), updated("a"), updated("a"), updated("b"))

    scenario.when(happens)
    status = scenario.status.value
    ended = [
        answered(code="ended", message=status, update=f"update-{number}") for number in (1, 2, 3)
    ]
    scenario.then(expected, *ended)
    scenario.when(updated("a")).then(
        noted("after_end"), answered(code="ended", message=f"the saga is {status}")
    )
    assert True not in fold(scenario.state.saga_id, scenario.history).updates.values()


def test_open_updates_wait_for_the_end_of_a_rollback():
    async def order(ctx, placed):
        await ctx.do(Pay(), undo=Refund)
        await ctx.update("a")
        raise RollBack("no")

    (
        running(order)
        .when(OrderPlaced(), replied(Pay, Paid()))
        .when(updated("a"))
        .then(undo_issued(Refund))
        .when(updated("b"))
        .then()
        .when(replied(Refund))
        .then(rolled_back(OrderRejected), answered(code="ended"), answered(code="ended"))
    )


def test_an_update_to_a_parked_saga_waits():
    async def order(ctx, placed):
        request = await ctx.update("a")
        if placed.amount == 3:
            raise KeyError(request.name)

    scenario = running(order).when(OrderPlaced(), updated("a"))

    scenario.then_parked("KeyError")
    assert not any(isinstance(entry.body, UpdateAnswered) for entry in scenario.history)


async def twice(ctx, placed):
    request = await ctx.update("a")
    request.answer(1)
    request.refuse("no")


async def never(ctx, placed):
    await ctx.update("a")
    return OrderConfirmed()


async def never_in_a_branch(ctx, placed):
    async def branch():
        request = await ctx.update("a")
        return request.payload

    await ctx.all(branch(), ctx.sleep("0s"))
    return OrderConfirmed()


async def never_in_its_run(ctx, placed):
    await ctx.update("a")
    await ctx.continue_as_new(placed)


async def no_json(ctx, placed):
    request = await ctx.update("a")
    request.answer(object())


async def no_code(ctx, placed):
    request = await ctx.update("a")
    request.refuse("")


async def no_name(ctx, placed):
    await ctx.update("")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (twice, "update 'a' was answered already"),
        (never, "update 'a' (update-1) was never answered: call request.answer(…)"),
        (never_in_a_branch, "was never answered"),
        (never_in_its_run, "was never answered"),
        (no_json, "the answer to update 'a': JSON cannot say this"),
        (no_code, "update 'a' is refused with a code"),
        (no_name, "an update's name has 1 to 200 characters"),
    ],
)
def test_a_mistake_parks_with_file_and_line(function, why):
    scenario = running(function).when(OrderPlaced())
    if function is not no_name:
        scenario.when(updated("a"), after("1s"))

    scenario.then_parked(why)
    assert f"{__file__}:" in str(scenario.state.reason)
    assert not any(isinstance(entry.body, UpdateAnswered) for entry in scenario.history)


def test_a_call_that_is_never_awaited_is_refused():
    async def order(ctx, placed):
        ctx.update("a")

    with pytest.raises(Exception, match=r"ctx.update\('a'\) is never awaited"):
        as_saga(order)


def test_who_fails_or_loses_need_not_answer():
    """The saga's end does."""

    async def order(ctx, placed):
        async def asked():
            request = await ctx.update("a")
            await ctx.wait("never")
            request.answer()

        async def fails():
            await ctx.update("b")
            raise RollBack("no")

        await ctx.any(asked(), fails(), ctx.wait("go"))
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(), updated("a"), updated("b"))
        .when(signalled("go"))
        .then(completed(OrderConfirmed()), answered(code="ended"), answered(code="ended"))
    )


def test_several_names_and_branches_are_answered_side_by_side():
    async def order(ctx, placed):
        async def serve(name):
            request = await ctx.update(name)
            request.answer(name)

        await ctx.all(serve("a"), serve("b"), serve("a"))
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(), updated("a"))
        .then(answered("a", update="update-1"))
        .when(updated("b"), updated("a"))
        .then(answered("b"), answered("a"), completed(OrderConfirmed()))
    )


def test_a_race_that_was_decided_leaves_a_later_update_for_the_next_wait():
    async def order(ctx, placed):
        first = await ctx.any(ctx.update("a"), ctx.sleep("1m"))
        assert first is None
        request = await ctx.update("a")
        request.answer("second")
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(), after("1m"))
        .when(updated("a"))
        .then(answered("second"), completed(OrderConfirmed()))
    )


def test_a_replay_compares_answers():
    def saga_of(said):
        async def order(ctx, placed):
            request = await ctx.update("a")
            request.answer(said)
            await ctx.wait("never")

        return as_saga(order)

    history = given(saga_of(1), OrderPlaced(), updated("a"), contracts=CONTRACTS).history

    assert given(saga_of(1), history=history, contracts=CONTRACTS).status == "running"
    with pytest.raises(ReplayMismatch, match="update-answered"):
        given(saga_of(2), history=history, contracts=CONTRACTS)


def test_the_entries_are_those_of_the_reference():
    scenario = running(basket).when(OrderPlaced(), updated("change", {"add": "a"}, actor="ann"))

    assert [NAME_OF[type(entry.body)] for entry in scenario.history] == [
        *("saga-started", "event-awaited", "update-received", "update-answered", "event-awaited")
    ]
    assert not any(isinstance(entry.body, Noted) for entry in scenario.history)
    assert waiting_for(scenario.state) == "update change"


def test_updates_pass_over_to_the_next_run():
    """What was kept is taken there; what a branch had taken and lost is answered at the end."""

    async def order(ctx, placed):
        async def loses():
            await ctx.update("lost")
            await ctx.wait("never")

        await ctx.any(loses(), ctx.wait("go"))
        request = await ctx.update("a") if placed.amount < 3 else None
        if request is None:
            await ctx.continue_as_new(OrderPlaced(amount=placed.amount - 1))
        request.answer(placed.amount)
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(amount=3), updated("a"), updated("lost"))
        .when(signalled("go"))
        .then(answered(code="ended", message="the run that had taken it is over"))
        .when(signalled("go"))
        .then(answered(2, update="update-1"), completed(OrderConfirmed()))
    )
