"""An order as a machine decides as it does as a function, whatever happens to it."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from examples.machines.order.app import order
from tests.authoring.three_ways import STORIES, Alike, function

CHOICES = st.lists(st.integers(0, 19), max_size=14)


@pytest.mark.parametrize("name", STORIES)
def test_each_story_ends_as_it_does_as_a_function(name: str):
    """Intents, settled steps, plans of rollback and outcomes are the same bytes, turn by turn."""
    amount, happens, end = STORIES[name]

    assert Alike([function, order], amount).when(*happens) == end


@settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(amount=st.sampled_from([40, 4_000]), choices=CHOICES)
def test_whatever_happens_is_answered_alike(amount: int, choices: list[int]):
    Alike([function, order], amount).choose(choices)
