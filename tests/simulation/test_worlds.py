"""The default campaign: two thousand worlds in chunks, so that the chunks share the processors."""

import pytest

from tests.simulation.campaign import CHUNK_WORLDS, DEFAULT_WORLDS, run_worlds


@pytest.mark.timeout(0)  # a world ends after so many rounds of its loop, on any machine
@pytest.mark.parametrize("first", range(0, DEFAULT_WORLDS, CHUNK_WORLDS))
def test_every_promise_holds_in_every_world(first: int) -> None:
    """Whatever crashes, is lost, comes twice or late: no world breaks a promise, and in every chunk
    of worlds everything that can go wrong has gone wrong.
    """
    campaign = run_worlds(range(first, first + CHUNK_WORLDS))

    assert not campaign.failed, campaign.report()
    assert campaign.unseen == []
