"""A world is its seed: without that no failure could be repeated."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.sample import sample_world

# A world ends after so many rounds of its loop, on any machine.
pytestmark = pytest.mark.timeout(0)
ROOT = Path(__file__).parents[2]
SEEDS = range(50_000, 50_010)


def test_a_seed_gives_the_same_world_twice() -> None:
    """Two runs of one seed in one process agree in everything that happened."""
    for seed in SEEDS:
        first, second = sample_world(seed).run(), sample_world(seed).run()

        assert first.lines == second.lines
        assert first.statistics == second.statistics


def test_a_world_does_not_depend_on_hash_seeds() -> None:
    """Processes with different PYTHONHASHSEED values see the same worlds."""
    expected = [sample_world(seed).run().fingerprint for seed in SEEDS]

    for hash_seed in ("1", "42"):
        assert _fingerprints_with(hash_seed) == expected


def test_different_seeds_give_different_worlds() -> None:
    """The seed is what decides."""
    fingerprints = {sample_world(seed).run().fingerprint for seed in SEEDS}

    assert len(fingerprints) == len(SEEDS)


def _fingerprints_with(hash_seed: str) -> list[str]:
    program = (
        "from tests.simulation.sample import sample_world\n"
        f"for seed in {list(SEEDS)}: print(sample_world(seed).run().fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
