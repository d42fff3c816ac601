"""Small sagas of any shape, moved at any time to a version in which every step has another name."""

from hypothesis import event, settings
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from saga import saga
from saga.core.intents import IntentIssued
from saga.testing import given, migrated_to
from tests.core.any_saga import (
    CONTRACTS,
    TURNS_MAX,
    Many,
    Step,
    check,
    drawn,
    happenings,
    is_refused_past_pivot,
    next_in_a_kind_world,
    programs,
    run,
)
from tests.toys import OrderConfirmed, OrderPlaced, OrderRejected


class OtherNames:
    """A context in which steps have names that begin otherwise."""

    def __init__(self, ctx):
        self._ctx = ctx

    def __getattr__(self, name):
        return getattr(self._ctx, name)

    def do(self, intent, *, id, **more):
        return self._ctx.do(intent, id=new_name(id), **more)


def new_name(place):
    return f"n{place[1:]}"


def places(node, place="s"):
    """The steps of a tree."""
    if isinstance(node, Step):
        yield place
    elif isinstance(node, Many):
        for number, part in enumerate(node.parts):
            yield from places(part, f"{place}.{number}")


def versions_of(tree):
    async def before(ctx, placed):
        await run(ctx, tree, "s", passed=[])
        return OrderConfirmed()

    async def now(ctx, placed):
        await run(OtherNames(ctx), tree, "s", passed=[])
        return OrderConfirmed()

    said = {"starts_on": OrderPlaced, "rolled_back": OrderRejected}
    return [
        saga("order", version=number, **said)(function)
        for number, function in enumerate((before, now), 1)
    ]


@settings(max_examples=40)
@hypothesis_given(tree=programs, happens=happenings, at=st.integers(0, 12))
def test_moved_at_any_time_it_goes_on_by_all_rules_and_each_id_is_one_step(tree, happens, at):
    """`Scenario` compares what is live with what is rebuilt, after every turn."""
    before, now = versions_of(tree)
    steps = {place: new_name(place) for place in places(tree)}
    scenario = given(before, OrderPlaced(), contracts=CONTRACTS)
    scenario.continues_when_stuck = scenario.is_parallel = False
    for number, (kind, pick) in enumerate([*happens, *[(-1, 0)] * (at + 1)]):
        if scenario.status.is_ended or is_refused_past_pivot(scenario):
            break
        if number == at:
            scenario.when(migrated_to(now, steps=steps))
            event(f"moved while {scenario.status.value}")
        happening = drawn(scenario, kind, pick)
        if happening is not None:
            scenario.when(happening)
            if not is_refused_past_pivot(scenario):
                check(scenario)
    for _ in range(TURNS_MAX):
        if scenario.status.is_ended or is_refused_past_pivot(scenario):
            break
        scenario.when(next_in_a_kind_world(scenario))
    else:
        raise AssertionError(f"it does not end: {scenario.status}")
    issued = [entry.body for entry in scenario.history if isinstance(entry.body, IntentIssued)]
    made = {each.step: each.payload for each in issued if each.direction.value == "do"}
    assert len({*made.values()}) == len(made), "two steps, of which each does what the other does"
