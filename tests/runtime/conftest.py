"""Scenarios of the usual sagas, whose invariants are looked at when the test is over."""

import pytest

from tests.runtime.fixtures import Scenario
from tests.runtime.toys import alarms, ledger, orders


@pytest.fixture
def scenario():
    scenario = Scenario(orders())
    yield scenario
    scenario.check()


@pytest.fixture
def all_sagas():
    scenario = Scenario(orders(), ledger, alarms())
    yield scenario
    scenario.check()
