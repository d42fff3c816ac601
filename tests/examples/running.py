"""Runs examples as programs of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]


def run(folder: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """A program whose files are in *folder*."""
    return subprocess.run(
        [sys.executable, *program],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


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
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths}
