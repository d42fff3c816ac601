"""ctx.tell: a service is asked for something, and the saga goes on without its answer."""

import pytest

from saga.errors import DefinitionError
from saga.testing import (
    cancelled,
    completed,
    failed,
    given,
    intent_told,
    issued,
    noted,
    refused,
    replied,
    rolled_back,
    undo_issued,
)
from tests.toys import (
    CONTRACTS,
    ONCE,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    OrderSeen,
    Paid,
    Pay,
    Refund,
    Ship,
    as_saga,
)


def running(function, **options):
    return given(as_saga(function, **options), contracts=CONTRACTS)


async def tells(ctx, placed):
    ctx.tell(Notify())
    await ctx.do(Pay(), undo=Refund, retry=ONCE)
    await ctx.tell(Ship())
    return OrderConfirmed()


def test_it_is_issued_and_nothing_waits_for_it():
    (
        running(tells)
        .when(OrderPlaced())
        .then(intent_told(Notify(), step="notify"), issued(Pay))
        .then_waits_for("reply to pay")
        .when(replied(Pay, Paid()))
        .then(intent_told(Ship), completed(OrderConfirmed()))
    )


@pytest.mark.parametrize("answer", [replied, refused, failed])
def test_whatever_a_service_answers_is_noted_once(answer):
    """Also behind the saga's end. A second, different answer is a conflict, as it is of steps."""
    scenario = running(tells).when(OrderPlaced())
    scenario.when(answer(Notify)).then(noted("unawaited", "nobody waits")).then_status("running")
    scenario.when(answer(Notify)).then_was("duplicate")
    other = refused(Notify, "other") if answer is not refused else failed(Notify)
    scenario.when(other).then(noted("conflicting"))
    scenario.when(replied(Pay, Paid()), answer(Ship)).then(
        intent_told(Ship), completed(OrderConfirmed()), noted("unawaited")
    )
    scenario.then_status("completed")


@pytest.mark.parametrize("attempt", [0, 2])
def test_answer_to_an_attempt_that_was_never_made_is_unknown(attempt):
    scenario = running(tells).when(OrderPlaced())
    scenario.when(replied(Notify, attempt=attempt)).then_was("unknown_intent")


def test_it_is_neither_undone_nor_residue():
    (
        running(tells)
        .when(OrderPlaced(), replied(Notify))
        .when(failed(Pay, code="no"))
        .then(undo_issued(Refund))
        .when(replied(Refund))
        .then(rolled_back(OrderRejected))
        .then_status("rolled_back")
    )


def test_it_has_a_step_id_of_its_own():
    """Numbered with the steps of the same intent."""

    async def order(ctx, placed):
        ctx.tell(Notify())
        await ctx.do(Notify())
        ctx.tell(Notify())

    (
        running(order)
        .when(OrderPlaced(), replied(Notify, step="notify-2"))
        .then(
            intent_told(Notify, step="notify"),
            issued(Notify, step="notify-2"),
            intent_told(Notify, step="notify-3"),
            completed(),
        )
    )


def test_what_a_loser_tells_while_it_ends_is_not_heard():
    async def loses(ctx):
        try:
            await ctx.wait("never")
        finally:
            ctx.tell(Notify())

    async def order(ctx, placed):
        await ctx.any(loses(ctx), ctx.do(Ship()))

    running(order).when(OrderPlaced(), replied(Ship)).then(issued(Ship), completed())


def test_nothing_is_told_behind_the_end():
    """By what runs as the function is closed."""

    async def order(ctx, placed):
        try:
            await ctx.wait("never")
        finally:
            ctx.tell(Notify())

    running(order).when(OrderPlaced(), cancelled()).then(rolled_back(OrderRejected))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (OrderSeen(), "ctx.tell takes an Intent, not OrderSeen"),
        (Notify, "ctx.tell takes an Intent and was given a class: fill it in"),
    ],
)
def test_what_is_no_intent_parks_the_saga_with_its_place(wrong, problem):
    async def order(ctx, placed):
        ctx.tell(wrong)

    scenario = running(order).when(OrderPlaced()).then_parked(problem)
    assert f"{__file__}:" in scenario.state.reason


def test_intent_that_the_application_does_not_know_parks_the_saga():
    hidden = {"intent": Notify}

    async def order(ctx, placed):
        ctx.tell(hidden["intent"]())

    given(as_saga(order)).when(OrderPlaced()).then_parked("is not known to the application")


def test_it_need_not_be_awaited():
    """Unlike a step, whose source shows that it is forgotten."""

    async def forgets(ctx, placed):
        ctx.do(Notify())

    as_saga(tells)
    with pytest.raises(DefinitionError, match="never awaited"):
        as_saga(forgets)
