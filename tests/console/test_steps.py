"""The steps that `show` prints are folded from entries alone, and must be what the
kernel thinks.
"""

from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

from saga.console.steps import steps_of
from saga.core.identity import Direction
from saga.testing import given
from tests.core.test_any_saga import CONTRACTS, drawn, happenings, programs, run
from tests.toys import OrderConfirmed, OrderPlaced, as_saga


@settings(max_examples=150)
@hypothesis_given(
    tree=programs,
    happens=happenings,
    options=st.fixed_dictionaries(
        {"parallel_undo": st.booleans(), "when_stuck": st.sampled_from(["halt", "continue"])}
    ),
)
def test_folded_steps_are_the_kernels(tree, happens, options):
    """Whatever happens to whatever saga, each row has the status and attempts that the
    state has.
    """

    async def order(ctx, placed):
        await run(ctx, tree, "s")
        return OrderConfirmed()

    scenario = given(as_saga(order, **options), OrderPlaced(), contracts=CONTRACTS)
    for kind, pick in happens:
        happening = drawn(scenario, kind, pick)
        if happening is not None:
            scenario.when(happening)
        compare(scenario)


def compare(scenario):
    """Row by row."""
    rows = steps_of(scenario.history)
    steps = scenario.state.steps
    assert {row.step for row in rows} == set(steps)
    for row in rows:
        step = steps[row.step]
        is_undo = row.direction is Direction.UNDO
        assert row.status is step.status, scenario.history
        assert row.attempts == (step.undo_attempts if is_undo else step.attempts)
