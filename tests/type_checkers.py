"""Type checkers in their strict modes, on what a user may have written.

Each mistake in a text has its `type: ignore[…]`. Where a checker does not find it, that comment is
one too many, and so an error.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

MYPY_CACHE = (
    Path(__file__).parents[1]
    / f".mypy_cache/users-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
)
"""Of one test process: what a text imports is checked for the first of them."""
_PYRIGHT = {"typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": True}


def check_with_mypy(folder: Path, text: str) -> None:
    (folder / "user.py").write_text(text)
    _check(folder, "mypy", "--strict", "--config-file=", f"--cache-dir={MYPY_CACHE}", "user.py")


def check_with_pyright(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "pyrightconfig.json").write_text(json.dumps(_PYRIGHT))
    _check(folder, "basedpyright", "--pythonpath", sys.executable, ".")


def _check(folder: Path, checker: str, *words: str) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", checker, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
