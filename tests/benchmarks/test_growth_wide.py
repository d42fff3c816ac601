"""An application with many contracts or partitions costs no more for each of them."""

import pytest

from benchmarks.growth import exponent
from benchmarks.growth_wide import CURVES

SIZES = (64, 128, 256, 512)
FLAT = 0.03


@pytest.mark.parametrize("name", CURVES)
def test_it_does_not_grow(name):
    points = CURVES[name](SIZES)
    assert exponent(points) < FLAT, points
