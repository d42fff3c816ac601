"""Scenarios of sagas, whose invariants are looked at when the test is over."""

import pytest

from tests.runtime.fixtures import Scenario
from tests.runtime.toys import alarms, ledger, orders


@pytest.fixture
def make_scenario():
    """A scenario of any sagas."""
    made: list[Scenario] = []

    def make(*sagas, **options) -> Scenario:
        made.append(Scenario(*sagas, **options))
        return made[-1]

    yield make
    for scenario in made:
        scenario.check()


@pytest.fixture
def scenario(make_scenario):
    """Orders alone."""
    return make_scenario(orders())


@pytest.fixture
def all_sagas(make_scenario):
    """Orders, ledgers and alarms."""
    return make_scenario(orders(), ledger, alarms())
