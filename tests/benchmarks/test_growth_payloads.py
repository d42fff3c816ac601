"""A saga with large messages costs no more than they grow, all the way through a local service."""

import pytest

from benchmarks.growth import exponent
from benchmarks.growth_payloads import CURVES

SIZES = (100, 400, 1_600, 6_400)
LINEAR = 1.05


@pytest.mark.parametrize("name", CURVES)
def test_it_grows_no_faster_than_the_payload(name):
    points = CURVES[name](SIZES)
    assert exponent(points) < LINEAR, points
    assert exponent(points[-2:]) < LINEAR, points
