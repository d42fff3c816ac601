"""A command line to call in this process, and the folder of an application to call it in."""

import gc
import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from saga.console.cli.program import program
from tests.console.toys import LEAVE, ORDER, TOYS


@dataclass(frozen=True)
class Called:
    """The output of a command, and its exit code."""

    code: int
    out: str
    err: str

    def fails(self, code, *texts):
        """It has ended with *code*, and said these *texts* on standard error."""
        assert self.code == code, self
        assert [text for text in texts if text not in self.err] == [], self.err
        return self

    @property
    def rows(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def row(self):
        [row] = self.rows
        return row


def call(*words, stdin=None) -> Called:
    """`saga words…`, in the working directory."""
    forget_applications()
    return invoked(program(), words, stdin=stdin)


def invoked(app, words, *, stdin=None) -> Called:
    """Call the typer program *app* in this process."""
    result = CliRunner().invoke(app, [str(word) for word in words], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "this is a bug in saga" not in result.stderr, result.stderr
    return Called(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """A command sets up its process; here that process has other tests to run."""
    with kept():
        yield


class kept:  # noqa: N801  # reads as a function
    """Puts back what a command changes in its process."""

    def __enter__(self) -> None:
        root = logging.getLogger()
        self.before = (root.level, list(root.handlers), list(sys.path))
        self.thresholds = gc.get_threshold()

    def __exit__(self, *_) -> None:
        root = logging.getLogger()
        level, handlers, path = self.before
        root.setLevel(level)
        root.handlers[:] = handlers
        sys.path[:] = path
        structlog.reset_defaults()
        gc.set_threshold(*self.thresholds)
        gc.unfreeze()


def forget_applications() -> None:
    """Have the application read anew, as a new process would.

    Two modules of one process may not declare contracts of one name, so all are `toys`.
    """
    sys.modules.pop("toys", None)
    importlib.invalidate_caches()


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder with the toy application in it, as working directory."""
    return enter(tmp_path, monkeypatch)


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the toy application into *folder*, and go there."""
    (folder / "toys.py").write_text(TOYS)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file may change twice in a second
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("SAGA_APP", "toys:app")
    monkeypatch.setenv("SAGA_LOG", "warning")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One saga confirmed, one refused, one undone, one waiting; only to look at."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as monkeypatch, kept():
        enter(folder, monkeypatch)
        lines = "".join(
            json.dumps({"order_id": name, "amount": amount}) + "\n"
            for name, amount in (("o-1", 1), ("dear", 1000), ("far-1", 2))
        )
        assert call("publish", ORDER, "-", stdin=lines).code == 0
        assert call("publish", LEAVE, '{"name": "ann"}').code == 0
        assert call("run", "--until-idle").code == 0
    return folder


@pytest.fixture
def looking(served: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(served, monkeypatch)


@pytest.fixture
def waiting(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A saga that waits for an approval, in a copy of the served toy application."""
    shutil.copytree(served / ".saga", tmp_path / ".saga")
    enter(tmp_path, monkeypatch)
    return "leave/ann"


def environment(folder: Path) -> dict[str, str]:
    """What a `saga` process of its own needs."""
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": root, "SAGA_APP": "toys:app", "PWD": str(folder)}


def start(folder, *words, **more):
    """`saga words…` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "saga", *words],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
