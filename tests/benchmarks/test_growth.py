"""The growth curves: what is counted, and how a growth is told from noise."""

import pytest

from benchmarks.growth import CURVES, exponent, instructions

SIZES = (6, 12, 24, 48, 96, 192)
FLAT = 0.05


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_cost_is_found(power):
    points = [(size, 7 * size**power) for size in (10, 100, 1_000)]
    assert exponent(points) == pytest.approx(power)


def test_the_same_work_counts_the_same():
    def loop(times):
        for _ in range(times):
            pass

    once = instructions(lambda: loop(10))
    assert instructions(lambda: loop(10)) == once
    assert instructions(lambda: loop(20)) - once == pytest.approx(20, abs=10)


@pytest.mark.parametrize("name", CURVES)
def test_a_turn_costs_the_same_however_long_or_wide_the_saga_is(name):
    points = CURVES[name](SIZES)
    assert [size for size, _ in points] == list(SIZES)
    assert abs(exponent(points)) < FLAT, points
