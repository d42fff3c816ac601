"""An event that the application was not told of parks the saga that gives it, however it does.

`tests/FAULTS.md`, number 4.
"""

import pytest

from saga.contracts import Event
from saga.testing import completed, given, published, refused, rolled_back
from tests.toys import CONTRACTS, OrderPlaced, Ship, as_saga

PLACED = OrderPlaced()


EVENTS = {}


async def _publishes_without_awaiting(ctx, placed):
    ctx.publish(EVENTS["untold"]())


async def _returns(ctx, placed):
    return EVENTS["untold"]()


async def _fails(ctx, placed):
    await ctx.do(Ship())


def _outcome(trigger, report):
    return EVENTS["untold"]()


@pytest.fixture
def untold_event(monkeypatch):
    """It comes from a table, so that no source names it."""

    class Untold(Event, topic="shop.untold", version=1):
        order_id: str = "o-1"

    monkeypatch.setitem(EVENTS, "untold", Untold)
    return Untold


WAYS = [
    (_publishes_without_awaiting, {}, (PLACED,), published),
    (_returns, {}, (PLACED,), completed),
    (_fails, {"rolled_back": _outcome}, (PLACED, refused(Ship, "no")), rolled_back),
]
SENTENCE = (
    "Untold (shop.evt.untold.v1) is not known to the application: add it to SagaApp(contracts=[…])"
)


@pytest.mark.parametrize(("function", "options", "happens", "_"), WAYS)
def test_parks_with_the_sentence_that_an_intent_has(function, options, happens, _, untold_event):
    (given(as_saga(function, **options), contracts=CONTRACTS).when(*happens).then_parked(SENTENCE))


@pytest.mark.parametrize(("function", "options", "happens", "expected"), WAYS)
def test_one_that_is_told_of_goes_out(function, options, happens, expected, untold_event):
    event = untold_event()
    scenario = given(as_saga(function, **options), contracts=[*CONTRACTS, untold_event])
    scenario.when(*happens)
    acts = [told for told in scenario.decided if expected(event).matches(told)]

    assert len(acts) == 1
