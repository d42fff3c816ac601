"""Worlds of two applications with functions, machines and graphs, and of releases that follow.

`python -m tests.simulation --of office` runs more of them, and `--of moved` those of sagas that are
moved between versions.
"""

import pytest

from saga import SagaApp
from saga.errors import DefinitionError
from saga.testing import World, migrated_to
from tests.simulation.campaign import run_worlds
from tests.simulation.office.tales import tale_1, tale_2
from tests.simulation.office.words import TaleAsked, hold, yard
from tests.simulation.office.worlds import depot, moved_world, office, office_world

# A world ends after so many rounds of its loop, on any machine.
pytestmark = pytest.mark.timeout(0)
WORLDS = range(40)
MOVED_WORLDS = 6
EXPECTED = (
    *("deploy", "deployed again", "stalled", "deferred", "kill", "restart", "conflicts"),
    *("ChildStarted", "ChildEnded", "CommandSent", "EventReceived", "EventAwaited", "WaitEnded"),
    *("BranchDropped", "Shown", "Paused", "Resumed", "Continued", "UpdateAnswered"),
    *("SignalReceived", "SagaAbandoned", "SagaRolledBack", "SagaCompleted", "ArrivalRefused"),
    *("ScopeUndone", "plan scope_left", "plan completed", "noted late_success"),
    *("mark taken", "fire-timer taken"),
)
"""What these worlds must have seen."""
ASKED = [TaleAsked(key="k-1", scripts={})]


def test_all_three_ways_to_write_a_saga_hold_through_deploys_and_across_applications():
    """Sagas stall while no process has their version, go on afterwards, and nothing is lost."""
    campaign = run_worlds(WORLDS, of="office")

    if campaign.failed:
        pytest.fail(campaign.report(), pytrace=False)
    assert [what for what in EXPECTED if not campaign.seen[what]] == []


def test_all_three_hold_while_they_are_moved_between_versions():
    """Some in the middle of a rollout, and some that cannot be moved, which is refused."""
    campaign = run_worlds(range(MOVED_WORLDS), of="moved")

    assert not campaign.failed, campaign.report()
    assert campaign.seen["migrate taken"]
    assert campaign.seen["migrate refused"]


@pytest.mark.long
def test_many_more_hold_while_they_are_moved_between_versions():
    campaign = run_worlds(range(MOVED_WORLDS, 400), of="moved")

    assert not campaign.failed, campaign.report()
    assert campaign.seen["rerun taken"]


def test_such_a_world_is_its_seed():
    """Two runs of one seed agree in everything that happened."""
    for seed in range(4):
        assert office_world(seed).run().lines == office_world(seed).run().lines
        assert moved_world(seed).run().lines == moved_world(seed).run().lines


def test_no_saga_is_moved_to_a_version_that_no_release_has():
    """Nobody could take it."""
    with pytest.raises(DefinitionError, match=r"no release of this world has tale@2"):
        World(office, 1, triggers=ASKED, migrations=[migrated_to(tale_2)])
    story = [*ASKED, migrated_to(tale_2)]
    with pytest.raises(DefinitionError, match=r"no release of this world has tale@2"):
        World(office, 1, triggers=[story])


def test_a_release_is_of_the_same_application():
    """Else its processes would read nothing of what the others do."""
    other = SagaApp(sagas=[tale_2], effects=[yard], name="another")
    with pytest.raises(DefinitionError, match="'another' is no release of 'office'"):
        World(office, 1, triggers=ASKED, deploys=[other])


def test_two_applications_share_no_saga_and_no_service():
    """Both would do its work."""
    twin = SagaApp(sagas=[tale_1], name="twin")
    with pytest.raises(DefinitionError, match="'office' and 'twin' both have saga 'tale'"):
        World(office, 1, triggers=ASKED, beside=[twin])
    twin = SagaApp(effects=[hold], name="twin")
    with pytest.raises(DefinitionError, match="both have service 'hold'"):
        World(depot, 1, triggers=ASKED, beside=[twin])
