"""What waits costs nothing, and a saga costs the same beside many others."""

import pytest

from benchmarks.growth import exponent
from benchmarks.growth_waiting import CURVES

SIZES = (100, 200, 400, 800, 1_600, 3_200)
FLAT = 0.05


@pytest.mark.parametrize("name", CURVES)
def test_it_does_not_grow(name):
    points = CURVES[name](SIZES)
    assert exponent(points) < FLAT, points
