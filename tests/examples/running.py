"""Runs examples as programs of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]
PROCESSING = ROOT / "examples" / "graphs" / "order_processing"
LIVES = (1, 2)
"""Behind which of its commits each life of an example is killed."""
NO_SETTINGS: Mapping[str, str] = {}


def run(
    folder: Path, *program: str, settings: Mapping[str, str] = NO_SETTINGS
) -> subprocess.CompletedProcess[str]:
    """A program whose files are in *folder*."""
    return subprocess.run(
        [sys.executable, *program],
        cwd=folder,
        env=_environment() | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )


def run_after_kills(
    folder: Path, module: str, *program: str, settings: Mapping[str, str] = NO_SETTINGS
) -> list[str]:
    """What a program prints, line by line, whose *module* was killed in one life after another."""
    if settings:
        created = run(
            folder, "-m", "saga", "topics", "create", "--app", f"{module}:app", settings=settings
        )
        assert created.returncode == 0, created.stderr
    for commit in LIVES:
        life = run(folder, "-m", "tests.examples.struck", module, str(commit), settings=settings)
        assert life.returncode == -signal.SIGKILL, life.stdout + life.stderr
    ran = run(folder, *program, settings=settings)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@contextmanager
def running(folder: Path, *program: str) -> Iterator[None]:
    """A program whose files are in *folder*, until the end of the block."""
    process = subprocess.Popen([sys.executable, *program], cwd=folder, env=_environment())
    try:
        yield
        assert process.poll() is None, f"{program} has ended by itself"
    finally:
        process.terminate()
        process.wait(HANG_S)


def _environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(PROCESSING), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths}
