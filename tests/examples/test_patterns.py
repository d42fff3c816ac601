"""The patterns do what they say, also in a process that is killed on the way, and in any world."""

import os
import signal
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from saga.testing import World, WorldState
from tests.examples.pattern_stories import STORIES

ROOT = Path(__file__).parents[2]
PATTERNS = sorted(
    path.stem for path in (ROOT / "examples" / "patterns").glob("*.py") if path.stem != "__init__"
)
LIVES = [1, 2]
"""Behind which of its commits each life of a pattern is killed."""
WORLDS = 6
SAYS = {
    "sequential": [
        "o-1 completed order_id='o-1' transaction='t-o-1'",
        "o-2 rolled_back order_id='o-2' reason='over the limit'",
    ],
    "conditional": [
        "o-1 completed order_id='o-1' way='express'",
        "o-2 completed order_id='o-2' way='standard'",
        "o-3 rolled_back order_id='o-3' reason='unknown order type: by balloon'",
    ],
    "loop": [
        "completed batch='b-1' results=[1, 4, 16] "
        "failures=[Failure(item=-3, error='-3 is negative')]",
    ],
    "retry": [
        "j-1 completed job='j-1' trials=2",
        "j-2 rolled_back job='j-2' reason='it failed 3 times'",
    ],
    "parallel": [
        "t-1 completed trip='t-1' rooms=['Rome 12', 'Bari 12', 'Pisa 12'] carrier='train'",
        "t-2 rolled_back trip='t-2' reason='it has sunk'",
    ],
    "sub_workflow": [
        "o-1 completed order_id='o-1' authorization='a for o-1'",
        "o-2 rolled_back order_id='o-2' reason='over the limit'",
        "o-3 rolled_back order_id='o-3' reason='sold out'",
    ],
    "scheduled": ["completed member='m-1' mails=3"],
    "approval": [
        "r-1 completed request='r-1' approved_by='ann'",
        "r-2 rolled_back request='r-2' reason='rejected: too late'",
    ],
    "approval_with_timeout": [
        "completed request='r-1' approved_by='ann'",
        "completed request='r-2' approved_by=None",
    ],
    "error_handling": [
        "good.csv completed file='good.csv' result='12 rows'",
        "bad.csv completed file='bad.csv' result='told back'",
        "far.csv completed file='far.csv' result='queued'",
        "odd.csv rolled_back file='odd.csv' reason='RuntimeError: nobody thought of this'",
    ],
    "compensation": [
        "t-1 completed trip='t-1' numbers=['t-1 AB 12', 't-1 Sole', 't-1 red']",
        "t-2 rolled_back trip='t-2' reason='no car left' failed_step='book-car' residue=[]",
    ],
    "deterministic": ["completed draw='d-1' ticket="],
    "events": ["completed order_id='o-1' paid=40 places=['Bari', 'Rome']"],
    "requests": [
        "tea {'tea': 2}",
        "pot {'tea': 2, 'pot': 1}",
        "cup refused: there is room for 10",
        "checkout {'tea': 2, 'pot': 1}",
        "completed basket='b-1' items={'pot': 1, 'tea': 2}",
    ],
    "scopes": [
        "e-1 completed evening='e-1' day='Friday'",
        "e-2 rolled_back evening='e-2' reason='everything is sold out'",
    ],
    "long_running": ["completed meter='m-1' total=36"],
}
"""What each pattern prints of its outcomes, in order."""


def run(folder: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """A program whose files are in *folder*."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *program],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def outcomes(pattern: str, printed: str) -> list[str]:
    """The lines that tell how sagas ended, as far as they are always the same."""
    return [
        expected
        for line in printed.splitlines()
        for expected in SAYS[pattern]
        if line.startswith(expected)
    ]


def test_each_pattern_is_known() -> None:
    assert set(SAYS) == set(PATTERNS)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_that_is_killed_goes_on_as_if_nothing_had_happened(
    pattern: str, tmp_path: Path
) -> None:
    """Killed in one life after another, then run to its end by the command of its first line."""
    lives = [run(tmp_path, "-m", "tests.examples.struck", pattern, str(commit)) for commit in LIVES]
    ran = run(tmp_path, str(ROOT / "examples" / "patterns" / f"{pattern}.py"))

    assert [life.returncode for life in lives] == [-signal.SIGKILL] * len(LIVES), lives[-1].stderr
    assert ran.returncode == 0, ran.stderr
    assert outcomes(pattern, ran.stdout) == SAYS[pattern], ran.stdout


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_holds_in_any_world(pattern: str) -> None:
    """Crashes, repeats, cancels and torn batches at random moments; see `World`."""
    module = import_module(f"examples.patterns.{pattern}")
    statuses: Counter[str] = Counter()

    def note(world: WorldState) -> None:
        statuses.update(saga.status for saga in world.sagas)

    for seed in range(WORLDS):
        verdict = World(module.app, seed, triggers=STORIES[pattern], check=note).run()
        assert verdict.ok, verdict.report()
        assert not verdict.parked, verdict.report()

    assert statuses["completed"] + statuses["rolled_back"] > 0
