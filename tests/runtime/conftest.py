"""A lab of the usual sagas, whose invariants are looked at when the test is over."""

import pytest

from tests.runtime.lab import Lab
from tests.runtime.shop import alarms, ledger, orders


@pytest.fixture
def lab():
    """Orders, ledgers and alarms."""
    lab = Lab(orders(), ledger, alarms())
    yield lab
    lab.check()


@pytest.fixture
def order_lab():
    """Orders alone."""
    lab = Lab(orders())
    yield lab
    lab.check()
