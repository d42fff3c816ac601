"""Breaks the engine on purpose, in a copy, and sees that the simulation notices.

Each mutant replaces one piece of the product's own source. One whose old text is gone fails loudly:
it would prove nothing. `python -m tests.simulation.mutants [NAME …]`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.simulation.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
SEEDS_MAX = 600
"""A mutant that so many worlds do not notice has survived."""
TIMEOUT_S = 1_800
"""A mutant may hang for good; the worlds alone take a tenth of this on a busy machine."""
JOBS = 2
FIRST_LINE = re.compile(r"world (\d+): .*\n  - (.*)")


class Fate(NamedTuple):
    """What became of a mutant: at which seed it was caught, and by what; None where it survived."""

    name: str
    seed: int | None
    said: str
    lasted_s: float


def hunt(mutation: Mutation) -> Fate:
    """Run worlds over a copy of the engine with *mutation* in it, until one notices.

    Raises:
        ValueError: the text to be replaced is not there, or not once.
    """
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="saga-mutant-") as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "saga", copy / "saga", ignore=ignored)
        shutil.copytree(
            ROOT / "tests" / "simulation", copy / "tests" / "simulation", ignore=ignored
        )
        (copy / "tests" / "__init__.py").touch()
        mutate(copy / mutation.file, mutation)
        try:
            done = _hunt_in(copy, mutation.of)
        except subprocess.TimeoutExpired:
            return Fate(mutation.name, None, "out of time", time.monotonic() - began_s)
    lasted_s = time.monotonic() - began_s
    caught = FIRST_LINE.search(done.stdout)
    if caught is None:
        said = "survived" if done.returncode == 0 else done.stderr[-2_000:]
        return Fate(mutation.name, None, said, lasted_s)
    return Fate(mutation.name, int(caught[1]), caught[2], lasted_s)


def mutate(file: Path, mutation: Mutation) -> None:
    """Write the mutated text."""
    text = file.read_text()
    for old, new in mutation.replacements:
        if text.count(old) != 1:
            raise ValueError(
                f"mutant {mutation.name!r}: {mutation.file} has its old text {text.count(old)} "
                f"times; bring the mutant up to date"
            )
        text = text.replace(old, new)
    file.write_text(text)


def _hunt_in(copy: Path, of: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import saga\n"
        f"assert saga.__file__.startswith({str(copy)!r}), saga.__file__\n"
        "from tests.simulation.campaign import run_worlds\n"
        f"campaign = run_worlds(range({SEEDS_MAX}), failures_max=1, of={of!r})\n"
        "print(campaign.report())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def main() -> int:
    """Hunt all mutants, or those named; 1 where one survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="which mutants; all by default")
    parser.add_argument("--jobs", type=int, default=JOBS, help="how many at once")
    given = parser.parse_args()
    unknown = set(given.names) - {each.name for each in MUTATIONS}
    if unknown:
        parser.error(f"there is no mutant called {', '.join(sorted(unknown))}")
    chosen = [each for each in MUTATIONS if not given.names or each.name in given.names]
    survivors = 0
    print(f"{'mutant':50} {'caught at':>9} {'s':>5}  by")
    with ThreadPoolExecutor(given.jobs) as pool:
        for fate in pool.map(hunt, chosen):
            survivors += fate.seed is None
            seed = "SURVIVED" if fate.seed is None else f"seed {fate.seed}"
            print(f"{fate.name:50} {seed:>9} {fate.lasted_s:5.1f}  {fate.said[:90]}", flush=True)
    print(f"{len(chosen)} mutants, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
