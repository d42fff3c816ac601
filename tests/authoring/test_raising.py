"""What a saga's code raises, in given/when/then: as in a service, it parks the saga, or is said.

`tests/FAULTS.md`, number 1.
"""

import asyncio
import gc

import pytest

from saga.core.intents import SagaAbandoned
from saga.errors import ReplayMismatch
from saga.testing import cancelled, failed, given, operator, refused, replied, undo_issued
from tests.toys import (
    CONTRACTS,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    as_saga,
)

PLACED = OrderPlaced()


class Unreadable(Exception):
    """Not even its text can be had."""

    def __str__(self) -> str:
        raise KeyError("no text")


RAISED = (
    SystemExit(3),
    asyncio.CancelledError(),
    GeneratorExit(),
    BaseException("x"),
    BaseExceptionGroup("several", [SystemExit(3)]),
    Unreadable(),
)


@pytest.fixture(params=RAISED, ids=lambda error: type(error).__name__)
def error(request):
    """Anything but what rolls back."""
    return request.param.with_traceback(None)


def failing(error, place):
    """An order whose code raises at *place*."""

    def at(here):
        if here == place:
            raise error

    def undo(intent, reply):
        at("undo")
        return Unreserve()

    def outcome(trigger, report):
        at("outcome")
        return OrderRejected(reason=report.reason)

    async def order(ctx, placed):
        at("start")
        await ctx.do(Reserve(), undo=undo)
        at("reply")
        try:
            await ctx.do(Ship())
        finally:
            at("finally")
        return OrderConfirmed()

    return as_saga(order, rolled_back=outcome)


@pytest.mark.parametrize(
    ("place", "happens"),
    [
        ("start", (PLACED,)),
        ("reply", (PLACED, replied(Reserve, Reserved()))),
        ("finally", (PLACED, replied(Reserve, Reserved()), replied(Ship))),
        ("undo", (PLACED, replied(Reserve, Reserved()), refused(Ship))),
        ("outcome", (PLACED, refused(Reserve))),
    ],
)
def test_its_saga_parks_and_can_be_abandoned(place, happens, error):
    scenario = given(failing(error, place), contracts=CONTRACTS).when(*happens)
    scenario.then_parked(type(error).__name__)

    scenario.when(cancelled("enough", mode="abandon")).then_status("abandoned")


def test_an_abandoned_saga_has_its_outcome_where_that_can_be_made(error):
    scenario = given(failing(error, "outcome"), PLACED, contracts=CONTRACTS)
    scenario.when(cancelled("enough", mode="abandon"))
    assert scenario.history[-2].body == SagaAbandoned(
        reason="enough", residue=("reserve",), outcome=None
    )

    scenario = given(failing(error, "nowhere"), PLACED, contracts=CONTRACTS)
    scenario.when(cancelled("enough", mode="abandon"))
    [end] = [each.body for each in scenario.history if isinstance(each.body, SagaAbandoned)]
    assert end.outcome is not None


@pytest.mark.parametrize(
    "ending",
    [
        [cancelled("enough", mode="immediate")],
        [operator("compensate", reason="enough"), failed(Ship)],
    ],
    ids=["cancel", "compensate"],
)
def test_a_finally_that_raises_does_not_keep_a_saga_from_being_ended(ending, error):
    (
        given(failing(error, "finally"), PLACED, contracts=CONTRACTS)
        .when(replied(Reserve, Reserved()))
        .when(*ending)
        .then(undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then_status("rolled_back_with_residue")
    )


def test_history_whose_code_raises_differs(error):
    """Whoever tests old histories is told of it as of any difference."""
    old = given(failing(error, "nowhere"), PLACED, contracts=CONTRACTS).history

    with pytest.raises(ReplayMismatch, match="the code at hand raised"):
        given(failing(error, "start"), contracts=CONTRACTS, history=old)


def test_a_scenario_that_is_left_early_lets_go_of_its_saga(error, recwarn):
    """Nobody is warned of a `finally` that wants something, or raises."""

    async def order(ctx, placed):
        try:
            await ctx.do(Reserve())
        finally:
            await ctx.do(Ship())

    given(as_saga(order), PLACED, contracts=CONTRACTS).then_status("running")
    given(failing(error, "finally"), PLACED, replied(Reserve, Reserved()), contracts=CONTRACTS)
    gc.collect()

    assert [str(warning.message) for warning in recwarn] == []
