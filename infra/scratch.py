"""Folders for servers that are thrown away with all their data.

Each is locked by its owner; whoever makes one later removes those that a killed process left.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "saga-infra-"
_LOCK = "owner.lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder that other users may pass through, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    folder.chmod(0o711)  # PostgreSQL runs as somebody else when we are root
    try:
        with (folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _remove_ownerless(folder.parent)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_ownerless(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with path.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its owner lives, or it is not ours
            continue
        shutil.rmtree(path.parent, ignore_errors=True)
