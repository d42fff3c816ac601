"""The default campaign, in chunks of worlds in which everything has to be seen."""

import pytest

from saga.core.history import Entry, turns
from saga.testing import World
from saga.testing.world.shadow import Shadows
from tests.simulation.campaign import CHUNK_WORLDS, DEFAULT_WORLDS, run_worlds
from tests.simulation.sample import app, orders

# A world ends after so many rounds of its loop, on any machine.
pytestmark = pytest.mark.timeout(0)


@pytest.mark.parametrize("first", range(0, DEFAULT_WORLDS, CHUNK_WORLDS))
def test_every_promise_holds_in_every_world(first):
    """Whatever crashes, is lost, comes twice or late: no world breaks a promise, and in every chunk
    of worlds everything that can go wrong has gone wrong.
    """
    campaign = run_worlds(range(first, first + CHUNK_WORLDS))

    if campaign.failed:
        pytest.fail(campaign.report(), pytrace=False)
    assert campaign.unseen == []


def test_states_are_compared_after_every_turn(monkeypatch):
    """Live, replayed and folded: also between two turns that one batch takes of one saga."""
    compare = Shadows.compare
    compared: set[tuple[str, int]] = set()
    facts: list[Entry] = []

    def noted(self, decider, live, history):
        compared.add((live.saga_id, len(history)))
        return compare(self, decider, live, history)

    def note_facts(world) -> None:
        facts.extend(turn.entries[0] for saga in world.sagas for turn in turns(saga.history))

    monkeypatch.setattr(Shadows, "compare", noted)
    for seed in range(10):
        assert World(app, seed, triggers=orders, check=note_facts).run().ok

    # Each turn ends where the next one begins.
    assert {(fact.saga_id, fact.version - 1) for fact in facts if fact.version > 1} <= compared
    moments = [(fact.saga_id, fact.at) for fact in facts]
    assert len(set(moments)) < len(moments), "no batch has had two turns of one saga"
