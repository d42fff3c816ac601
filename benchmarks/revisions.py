"""The code of an older commit, laid out so that today's benchmarks run it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from saga.console.cli.output import Misused

ROOT: Final = Path(__file__).parent.parent
ENGINE: Final = "saga"
LOCK_FILE: Final = "requirements.txt"
PINNED: Final = re.compile(r"^(?P<name>[a-z0-9][a-z0-9.-]*)==.*\n(?:[ ].*\n)*", re.MULTILINE)
"""A package of a lock file, with its hashes."""


@contextmanager
def laid_out(revision: str, beside: str = "benchmarks") -> Iterator[Path]:
    """A folder with the engine of *revision* and a package of today's *beside* it.

    A process that starts in it imports both from there, and all else from the same interpreter.
    What that lacks, as the lock file of *revision* has it, is installed into the folder.

    Raises:
        Misused: this is no checkout, or it has no such commit.
    """
    commit = commit_of(revision)
    with TemporaryDirectory(prefix="saga-bench-") as folder:
        with tarfile.open(fileobj=BytesIO(_git("archive", commit, ENGINE))) as packed:
            packed.extractall(folder, filter="data")
        _install_missing(commit, folder)
        (Path(folder) / beside).symlink_to(ROOT / beside)
        yield Path(folder)


def commit_of(revision: str) -> str:
    """The full name of the commit; Misused if there is none."""
    return _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()


def todays_commit() -> str | None:
    """What is checked out, with `-dirty` where something is changed; None if that is unknown."""
    try:
        return (
            _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").decode().strip()
        )
    except Misused:
        return None


def _install_missing(commit: str, folder: str) -> None:
    locked = _git("show", f"{commit}:{LOCK_FILE}").decode()
    missing = [each for each in PINNED.finditer(locked) if not _is_installed(each["name"])]
    if missing:
        wanted = Path(folder) / LOCK_FILE
        wanted.write_text("".join(each[0] for each in missing), "utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        how = ["--no-deps", "--require-hashes", "--target", folder, "--requirement", str(wanted)]
        subprocess.run([*pip, *how], check=True)


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _git(*words: str) -> bytes:
    try:
        git = ["git", "-C", str(ROOT), *words]
        done = subprocess.run(git, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Misused(f"git {' '.join(words)}: that is not to be had here") from error
    return done.stdout
