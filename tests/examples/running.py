"""Runs examples as programs of their own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import orjson

from saga.settings import Settings
from tests.examples import lives
from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]
PROCESSING = ROOT / "examples" / "graphs" / "order_processing"
LIVES = (1, 2)
"""Behind which of its commits each life of an example is killed."""
NO_SETTINGS: Mapping[str, str] = {}
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(
    folder: Path,
    *program: str,
    settings: Mapping[str, str] = NO_SETTINGS,
    timeout_s: float = HANG_S,
) -> subprocess.CompletedProcess[str]:
    """A program whose files are in *folder*."""
    return subprocess.run(
        [sys.executable, *program],
        cwd=folder,
        env=_environment() | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def kill_again_and_again(folder: Path, module: str, lives: Sequence[int] = LIVES) -> None:
    """Live one life of an example after another, each of which ends behind a commit."""
    for commit in lives:
        life = run(folder, "-m", "tests.examples.struck", module, str(commit))
        assert life.returncode == -signal.SIGKILL, life.stdout + life.stderr


def kill_in_the_middle(
    folder: Path, module: str, unharmed: Path, settings: Mapping[str, str] = NO_SETTINGS
) -> list[str]:
    """Have an example killed in the middle of its run, and go on; what it prints then.

    It comes to the end that it had on files in the folder *unharmed*, and the audit is clean: see
    `tests.examples.lives`.
    """
    app = import_module(module).app
    places = Settings.read({"SAGA_STORE": f"sqlite:///{unharmed}/.saga/saga.db"})
    expected = asyncio.run(lives.end_of(app, places, None))
    assert expected["problems"] == []
    if settings:
        made = run(
            folder, "-m", "saga", "topics", "create", "--app", f"{module}:app", settings=settings
        )
        assert made.returncode == 0, made.stderr
    middle = str(expected["turns"] // 2)
    lived = run(folder, "-m", lives.__name__, module, middle, settings=settings)
    assert lived.returncode == 0, lived.stdout + lived.stderr
    assert lived.stdout == "killed 1 times\n"
    harmed = folder / lives.HARMED
    assert lives.told_in(harmed)["sagas"] == orjson.loads(orjson.dumps(expected["sagas"]))
    return lives.printed_in(harmed)


def kill_behind_each_commit(folder: Path, module: str) -> None:
    """The same behind each commit of its run in turn, once for each."""
    lived = run(folder, "-m", lives.__name__, module, "each", timeout_s=8 * HANG_S)
    assert lived.returncode == 0, lived.stdout + lived.stderr


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


def run_as_printed(folder: Path, readme: Path) -> list[str]:
    """Run the first block of a README in *folder*: it prints what is said there, in that order."""
    commands, prints = consoles(readme)[0]
    folder.mkdir(exist_ok=True)
    (folder / "examples").symlink_to(ROOT / "examples")
    script = [
        f'python() {{ PYTHONPATH="$PYTHONPATH:{ROOT}" "{sys.executable}" "$@"; }}',
        'saga() { python -m saga "$@"; }',
        *commands,
    ]
    ran = subprocess.run(
        ["sh", "-eu", "-c", "\n".join(script)],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert prints
    assert said(prints, ran.stdout.splitlines()) == prints, ran.stdout
    return prints


def said(prints: Sequence[str], printed: Iterable[str]) -> list[str]:
    """What of that was *printed*, in its order."""
    return [line for line in printed if line in prints]


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
