"""The command line as a whole: what it lists, and that it is a program."""

import subprocess
import sys

import pytest

from tests.console.conftest import call, environment

COMMANDS = [
    "run",
    "publish",
    "ls",
    "show",
    "history",
    "signal",
    "cancel",
    "timers",
    "dlq",
    "retry",
    "skip",
    "compensate",
    "release",
    "abandon",
    "replay",
    "topics",
    "config",
]


def test_help_lists_every_command():
    """With exit 0; without a command it is shown too."""
    called = call("--help")

    assert called.code == 0
    assert [name for name in COMMANDS if f" {name} " not in called.out] == []


@pytest.mark.parametrize("words", [[], ["nonsense"], ["ls", "--nonsense"], ["ls", "--limit", "0"]])
def test_a_command_that_cannot_be_meant_is_exit_2(toys, words):
    """Usage goes to standard error, or is the help that was asked for."""
    assert call(*words).code == 2


def test_python_m_saga_is_the_same_program(toys):
    """The name that helps is `saga`; a pipe that closes early is no trouble."""
    help_page = subprocess.run(
        [sys.executable, "-m", "saga", "ls", "--help"],
        env=environment(toys),
        cwd=toys,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "Usage: saga ls" in help_page.stdout
    assert "\x1b" not in help_page.stdout


def test_the_version_is_told() -> None:
    """As it was installed, for reports of problems."""
    called = call("--version")

    assert called.code == 0
    assert called.out.startswith("saga 0.1.0, Python 3.")
