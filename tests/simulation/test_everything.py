"""Worlds of sagas that use everything at once: children, events, waits, races, scopes, pauses, acts
of operators, and whatever goes wrong beside that.

`python -m tests.simulation --of everything` runs more of them.
"""

import pytest

from tests.simulation.campaign import run_worlds
from tests.simulation.everything import everything_world

# A world ends after so many rounds of its loop, on any machine.
pytestmark = pytest.mark.timeout(0)
WORLDS = 50
EXPECTED = (
    *("ChildStarted", "ChildEnded", "CommandSent", "EventReceived", "EventAwaited", "WaitEnded"),
    *("BranchDropped", "IntentTold", "Shown", "Paused", "Resumed", "OperatorActed"),
    *("SignalReceived", "SagaAbandoned", "SagaRolledBack", "SagaCompleted", "EventPublished"),
    *("mark taken", "mark refused", "rerun taken", "rerun refused"),
    *("fire-timer taken", "fire-timer refused", "move-timer taken", "move-timer refused"),
    *("noted late_success", "noted unread", "plan completed", "crash before store.append"),
)
"""What worlds of everything must have seen."""


def test_everything_holds_in_every_world():
    """Nothing is lost, done twice or left standing, and parents and children agree in the end."""
    campaign = run_worlds(range(WORLDS), of="everything")

    if campaign.failed:
        pytest.fail(campaign.report(), pytrace=False)
    assert [what for what in EXPECTED if not campaign.seen[what]] == []


def test_such_a_world_is_its_seed():
    """Two runs of one seed agree in everything that happened."""
    for seed in range(WORLDS, WORLDS + 5):
        assert everything_world(seed).run().lines == everything_world(seed).run().lines
