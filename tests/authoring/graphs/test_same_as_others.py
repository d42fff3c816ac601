"""An order as a graph decides as it does as a function and as a machine, whatever happens to it."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from examples.machines.order import app as machine
from saga import contract
from saga.authoring.definition import SagaDefinition
from saga.contracts import is_contract
from tests.authoring.graphs.orders import ORDER
from tests.authoring.three_ways import STORIES, Alike, function

CHOICES = st.lists(st.integers(0, 19), max_size=14)
CLASSES = tuple(filter(is_contract, vars(machine).values()))


@pytest.fixture(scope="module")
def ways(tmp_path_factory) -> list[SagaDefinition]:
    """The three; the graph is that of the example, with the contracts of the other two."""
    file = tmp_path_factory.mktemp("graph") / "order.yaml"
    file.write_text(ORDER.replace(" orders.", " shop."))
    return [function, machine.order, contract(file).resolve(CLASSES)]


@pytest.mark.parametrize("name", STORIES)
def test_each_story_ends_alike(name: str, ways: list[SagaDefinition]):
    """Intents, settled steps, plans of rollback and outcomes are the same bytes, turn by turn."""
    amount, happens, end = STORIES[name]

    assert Alike(ways, amount).when(*happens) == end


@settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(amount=st.sampled_from([40, 4_000]), choices=CHOICES)
def test_whatever_happens_is_answered_alike(
    amount: int, choices: list[int], ways: list[SagaDefinition]
):
    Alike(ways, amount).choose(choices)
