"""Runs examples as programs of their own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]
PROCESSING = ROOT / "examples" / "graphs" / "order_processing"
LIVES = (1, 2)
"""Behind which of its commits each life of an example is killed."""
NO_SETTINGS: Mapping[str, str] = {}
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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


def kill_again_and_again(
    folder: Path,
    module: str,
    settings: Mapping[str, str] = NO_SETTINGS,
    lives: Sequence[int] = LIVES,
) -> None:
    """Live one life of an example after another, each of which ends behind a commit."""
    if settings:
        made = run(
            folder, "-m", "saga", "topics", "create", "--app", f"{module}:app", settings=settings
        )
        assert made.returncode == 0, made.stderr
    for commit in lives:
        life = run(folder, "-m", "tests.examples.struck", module, str(commit), settings=settings)
        assert life.returncode == -signal.SIGKILL, life.stdout + life.stderr


class Console(NamedTuple):
    """A block of a README: its commands, and the lines that it says they print."""

    commands: list[str]
    prints: list[str]


def consoles(readme: Path) -> list[Console]:
    """The blocks of a README, in order; a command follows a dollar."""
    blocks = [block.splitlines() for block in CONSOLE.findall(readme.read_text("utf-8"))]
    return [
        Console(
            [line.removeprefix("$ ") for line in lines if line.startswith("$ ")],
            [line for line in lines if not line.startswith("$ ")],
        )
        for lines in blocks
    ]


def run_as_printed(folder: Path, readme: Path, settings: Mapping[str, str] = NO_SETTINGS) -> None:
    """Run the first block of a README in *folder*: it prints what is said there, in that order."""
    commands, prints = consoles(readme)[0]
    (folder / "examples").symlink_to(ROOT / "examples")
    script = [
        f'python() {{ PYTHONPATH="$PYTHONPATH:{ROOT}" "{sys.executable}" "$@"; }}',
        'saga() { python -m saga "$@"; }',
        *commands,
    ]
    ran = subprocess.run(
        ["sh", "-eu", "-c", "\n".join(script)],
        cwd=folder,
        env=_environment() | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert prints
    printed = [line for line in ran.stdout.splitlines() if line in prints]
    assert printed == prints, ran.stdout


@contextmanager
def running(
    folder: Path, *program: str, settings: Mapping[str, str] = NO_SETTINGS
) -> Iterator[None]:
    """A program whose files are in *folder*, until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, *program], cwd=folder, env=_environment() | settings
    )
    try:
        yield
        assert process.poll() is None, f"{program} has ended by itself"
    finally:
        process.terminate()
        process.wait(HANG_S)


def _environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(PROCESSING), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths}
