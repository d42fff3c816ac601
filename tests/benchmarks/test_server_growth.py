"""On PostgreSQL, too, what waits costs nothing, and a saga costs the same beside many others."""

import pytest

from benchmarks.growth import exponent
from benchmarks.server_growth import CURVES

SIZES = (100, 200, 400, 800)
FLAT = 0.25
"""Indexes become a level deeper, which is felt where hardly anything else is touched."""
QUICK = {
    "a saga beside open ones",
    "a saga beside finished ones",
    "what workers ask beside open sagas",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CURVES]
)
def test_it_does_not_grow(name, postgres_server):
    """Not in pages, and not in rows, touched with the plans that the workers' sessions have."""
    points = CURVES[name](SIZES, postgres_server)
    assert exponent(points) < FLAT, points
