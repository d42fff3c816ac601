"""Structured details of refusals and failures: recorded, and given to the saga's code."""

import pytest

from saga.authoring import StepFailed
from saga.core.intents import RollbackPlanned, StepSettled
from saga.testing import after, completed, failed, given, noted, refused, replied, rolled_back
from tests.toys import (
    CONTRACTS,
    ONCE,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Paid,
    Pay,
    Refund,
    Reserve,
    Ship,
    as_saga,
)

LIMIT = {"left": 12, "offers": [{"price": 3}, None]}


async def pays(ctx, placed):
    try:
        await ctx.do(Pay(), undo=Refund, retry=ONCE)
    except StepFailed as failure:
        return OrderConfirmed(order_id=repr(failure.details))
    await ctx.do(Ship(), retry=ONCE)
    return None


def running(function, **options):
    return given(as_saga(function, **options), OrderPlaced(), contracts=CONTRACTS)


def bodies(scenario, kind):
    return [entry.body for entry in scenario.history if type(entry.body) is kind]


@pytest.mark.parametrize("details", [LIMIT, [], 0, "text", None])
def test_they_are_the_functions_to_read(details):
    scenario = running(pays).when(refused(Pay, details=details))
    scenario.then(completed(OrderConfirmed(order_id=repr(details))))


def test_those_of_the_last_failed_attempt_count():
    async def order(ctx, placed):
        try:
            await ctx.do(Reserve())
        except StepFailed as failure:
            return OrderConfirmed(order_id=repr(failure.details))

    scenario = running(order)
    for attempt in (1, 2, 3):
        scenario.when(failed(Reserve, details={"attempt": attempt}, attempt=attempt))
        if attempt < 3:
            scenario.when(after("1m"))
    scenario.then(completed(OrderConfirmed(order_id="{'attempt': 3}")))


def test_they_are_recorded_where_a_step_is_settled_and_a_rollback_planned():
    def report(trigger, report):
        return OrderRejected(reason=repr(report.details))

    scenario = running(pays, rolled_back=report)
    scenario.when(replied(Pay, Paid()), refused(Ship, details=LIMIT))

    (settled,), (planned,) = bodies(scenario, StepSettled), bodies(scenario, RollbackPlanned)
    assert settled.details == planned.details == '{"left":12,"offers":[{"price":3},null]}'
    scenario.when(replied(Refund)).then(rolled_back(OrderRejected(reason=repr(LIMIT))))


def test_rollback_of_another_failure_has_none():
    scenario = running(pays).when(replied(Pay, Paid()), refused(Ship))
    assert bodies(scenario, RollbackPlanned)[0].details is None


def test_another_answer_that_differs_in_them_alone_is_a_conflict():
    scenario = running(pays).when(refused(Pay, details={"a": 1}))
    scenario.when(refused(Pay, details={"a": 1})).then_was("duplicate")
    scenario.when(refused(Pay, details={"a": 2})).then(noted("conflicting"))
